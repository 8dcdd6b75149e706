package single

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Files go into containers and out of them as with Docker, whether they run or not, and links lead nowhere else.
func TestCopyByCommand(t *testing.T) {
	n := withImage(t)
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	read := func(name string) string {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	write("d/one", "1")
	write("d/sub/two", "2")
	local := func(name string) string { return dir + "/" + name }
	n.ok("run", "-d", "--name", "c", "-v", "vol:/vol", "bb", "sleep", "1000")
	inside := func(script string) string {
		t.Helper()
		return n.ok("exec", "c", "sh", "-c", script)
	}

	n.ok("cp", local("d"), "c:/vol")
	n.ok("cp", local("d")+"/.", "c:/vol")
	n.ok("cp", local("d/one"), "c:/renamed")
	is(t, "in the container", inside("cat /vol/d/one /vol/one /vol/sub/two /renamed"), "1121")
	n.ok("cp", "c:/vol/d", local("new"))
	n.ok("cp", "c:/vol/.", local("new/deep"))
	is(t, "here", read("new/sub/two")+read("new/deep/d/one")+read("new/deep/one"), "211")

	inside("ln -s /etc/hostname /vol/link; ln -s /vol/d /way; ln -s " + local("") + " /out")
	n.ok("cp", "-L", "c:/vol/link", local("followed"))
	is(t, "what a link leads to, in the container", strings.TrimSpace(read("followed")), n.ok("exec", "c", "hostname"))
	n.ok("cp", local("d/one"), "c:/way/by")
	is(t, "through a link", inside("cat /vol/d/by"), "1")
	n.refuses(
		refusal{"cp c:/out/d/one " + local("stolen"), 1, `/out/d/one`},
		refusal{"cp c:/nothing " + dir, 1, `/nothing`},
		refusal{"cp nobody:/x " + dir, 1, `no such container`},
		refusal{"cp " + local("d") + " c:/renamed", 1, `it is a directory, and /renamed in the container is none`},
	)
	n.ok("stop", "-t", "0", "c")
	n.ok("cp", local("d/one"), "c:/vol/late")
	n.ok("cp", "c:/vol/late", local("late"))
	is(t, "of one that does not run", read("late"), "1")
}

package single

import (
	"os"
	"path/filepath"
	"testing"
)

// What images have on the disk is told, checked, and put right.
func TestCheckAndRepair(t *testing.T) {
	n := withImage(t)
	n.ok("run", "-d", "--name", "box", "bb", "sleep", "1000")
	matches(t, "space", n.ok("system", "df"), `Images +1 +1 +[0-9.]+MB`)
	matches(t, "history", n.ok("history", "bb"), `net import`)
	n.ok("system", "check")
	files, err := filepath.Glob(filepath.Join(n.root, "images/layers/*/fs/data/seed"))
	if err != nil || len(files) != 1 {
		t.Fatalf("the image's file is %v: %v", files, err)
	}
	if err := os.Truncate(files[0], 1); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"system", "check"}, {"system", "check", "--repair"}} {
		r := n.net(args...)
		if r.code != 1 {
			t.Errorf("%v: exit code %d: %s%s", args, r.code, r.out, r.err)
		}
		matches(t, "damage", r.out+r.err, `bb`)
	}
	n.ok("rm", "-f", "box")
	matches(t, "repair", n.net("system", "check", "--repair").out, `bb`)
	n.ok("system", "check")
	is(t, "the file", n.ok("run", "--rm", "bb", "cat", "/data/seed"), "from the image")
	if err := os.RemoveAll(filepath.Dir(filepath.Dir(files[0]))); err != nil {
		t.Fatal(err)
	}
	r := n.net("run", "--rm", "bb", "true")
	matches(t, "a start without its layer", r.err, `bb:latest lacks its layer.*net system check --repair`)
	n.net("system", "check", "--repair")
	n.ok("run", "--rm", "bb", "true")
}

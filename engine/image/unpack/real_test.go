package unpack_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vethloom/vethloom/engine/image/unpack"
)

func run(tb testing.TB, name string, args ...string) []byte {
	tb.Helper()
	cmd := exec.Command(name, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		tb.Fatalf("%s: %v: %s", cmd, err, stderr.String())
	}
	return out
}

// What tar makes of an archive is the measure of what we make of it.
func TestUnpackAgreesWithTar(t *testing.T) {
	src := t.TempDir()
	run(t, "sh", "-ec", `cd "$1"
		mkdir -p bin etc usr/lib var/tmp; chmod 1777 var/tmp; chmod 2755 usr/lib
		cp /bin/busybox bin/busybox; ln bin/busybox bin/sh; ln -s busybox bin/ls; ln -s /etc/x etc/abs
		mkfifo etc/fifo; echo hi > etc/hi; chmod 4711 etc/hi; chown 12:34 etc/hi; chown -h 5:6 bin/ls
		mkdir "etc/a b"; echo odd > "etc/a b/$(printf 'new\nline')"
		touch -d 1999-12-31T23:59:58.5 etc/hi etc "etc/a b"
		n=$(printf '%0200d' 7); echo long > "etc/$n"`, "sh", src)
	for _, format := range []string{"gnu", "pax", "ustar"} {
		t.Run(format, func(t *testing.T) {
			args := []string{"-C", src, "--format=" + format, "-c"}
			if format == "ustar" {
				args = append(args, "--exclude=etc/0*") // names that ustar cannot hold
			}
			tarball := run(t, "tar", append(args, ".")...)
			want, got := t.TempDir(), t.TempDir()
			path := filepath.Join(t.TempDir(), "x.tar")
			if err := os.WriteFile(path, tarball, 0o600); err != nil {
				t.Fatal(err)
			}
			run(t, "tar", "--same-owner", "--numeric-owner", "-p", "-C", want, "-xf", path)
			if _, err := unpack.Unpack(t.Context(), got, bytes.NewReader(tarball), unpack.Options{}); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(listing(t, want), listing(t, got)); diff != "" {
				t.Errorf("tar and we differ (-tar +we):\n%s", diff)
			}
			run(t, "diff", "-r", "--no-dereference", "--exclude=fifo", want, got)
		})
	}
}

// listing has a line for each file with all that is known of it.
func listing(t *testing.T, dir string) []string {
	out := run(t, "find", dir, "-printf", `%P|%y|%m|%U:%G|%s|%n|%l|%T@\n`)
	lines := strings.Split(string(out), "\n")
	for i, l := range lines { // the size of directories depends on their history
		f := strings.Split(l, "|")
		if len(f) > 4 && f[1] == "d" {
			f[4] = ""
			lines[i] = strings.Join(f, "|")
		}
	}
	// find lists in the order of the directory.
	slices.Sort(lines)
	return lines
}

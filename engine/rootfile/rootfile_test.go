package rootfile_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/engine/rootfile"
)

const limit = 1 << 20

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func link(t *testing.T, to, path string) {
	t.Helper()
	if err := os.Symlink(to, path); err != nil {
		t.Fatal(err)
	}
}

func TestReadsWhatIsInTheRoot(t *testing.T) {
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	write(t, filepath.Join(root, "etc/passwd"), "inside")
	write(t, filepath.Join(dir, "passwd"), "outside")
	write(t, filepath.Join(dir, "etc/passwd"), "outside")
	link(t, "/etc/passwd", filepath.Join(root, "absolute"))
	link(t, "../../../etc/passwd", filepath.Join(root, "upward"))
	link(t, "/../../etc", filepath.Join(root, "directory"))
	for _, path := range []string{"/etc/passwd", "etc/passwd", "absolute", "upward", "directory/passwd"} {
		got, err := rootfile.Read(root, path, limit)
		if err != nil || string(got) != "inside" {
			t.Errorf("%s: got %q, %v", path, got, err)
		}
	}
}

func TestRefusesWhatIsNoFileInTheRoot(t *testing.T) {
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	write(t, filepath.Join(root, "etc/keep"), "")
	write(t, filepath.Join(dir, "secret"), "outside")
	link(t, "../secret", filepath.Join(root, "out"))
	link(t, filepath.Join(dir, "secret"), filepath.Join(root, "far"))
	link(t, "loop", filepath.Join(root, "loop"))
	if err := unix.Mkfifo(filepath.Join(root, "fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	link(t, "fifo", filepath.Join(root, "tofifo"))
	for path, want := range map[string]error{
		"fifo": rootfile.ErrNotRegular, "tofifo": rootfile.ErrNotRegular, "etc": rootfile.ErrNotRegular,
		"out": os.ErrNotExist, "far": os.ErrNotExist, "none": os.ErrNotExist, "loop": unix.ELOOP,
	} {
		if got, err := rootfile.Read(root, path, limit); !errors.Is(err, want) {
			t.Errorf("%s: got %q, %v, want %v", path, got, err, want)
		}
	}
}

func TestReadsNoMoreThanTheLimit(t *testing.T) {
	root := t.TempDir()
	write(t, filepath.Join(root, "full"), "12345678")
	write(t, filepath.Join(root, "sparse"), "")
	if err := os.Truncate(filepath.Join(root, "sparse"), 1<<40); err != nil {
		t.Fatal(err)
	}
	if got, err := rootfile.Read(root, "full", 8); err != nil || string(got) != "12345678" {
		t.Errorf("a file as large as the limit: %q, %v", got, err)
	}
	if _, err := rootfile.Read(root, "full", 7); !errors.Is(err, rootfile.ErrTooLarge) {
		t.Errorf("a file beyond the limit: %v", err)
	}
	if _, err := rootfile.Read(root, "sparse", limit); !errors.Is(err, rootfile.ErrTooLarge) {
		t.Errorf("a TiB of holes: %v", err)
	}
}

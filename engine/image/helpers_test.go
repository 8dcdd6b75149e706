package image_test

import (
	"archive/tar"
	"bytes"
	"crypto/rand"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine/image"
	"github.com/vethloom/vethloom/internal/store/mem"
)

// fixture is a store in a directory of its own.
type fixture struct {
	*image.Store
	root    string
	records cnm.Store
}

func open(tb testing.TB) *fixture {
	tb.Helper()
	return openAt(tb, filepath.Join(tb.TempDir(), "images"), mem.New())
}

func openAt(tb testing.TB, root string, records cnm.Store) *fixture {
	tb.Helper()
	s, err := image.Open(tb.Context(), image.Config{Root: root, Store: records,
		Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		tb.Fatal(err)
	}
	return &fixture{Store: s, root: root, records: records}
}

// files are names and contents; a name ending in a slash is a directory.
type files [][2]string

func (f files) tar(tb testing.TB) []byte {
	tb.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range f {
		h := &tar.Header{Name: e[0], Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(e[1])),
			ModTime: time.Unix(1e9, 0)}
		if e[0][len(e[0])-1] == '/' {
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			tb.Fatal(err)
		}
		if _, err := io.WriteString(w, e[1]); err != nil {
			tb.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

// rootfs is a small root filesystem around the machine's busybox.
func rootfs(tb testing.TB) []byte {
	tb.Helper()
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		tb.Fatal(err)
	}
	return files{{"./", ""}, {"./bin/", ""}, {"./bin/busybox", string(busybox)}, {"./etc/", ""},
		{"./etc/passwd", "root:x:0:0::/:/bin/sh\n"}}.tar(tb)
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.Read(b) // never fails
	return b
}

func run(tb testing.TB, stdin []byte, name string, args ...string) []byte {
	tb.Helper()
	cmd := exec.Command(name, args...)
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stderr = bytes.NewReader(stdin), &stderr
	out, err := cmd.Output()
	if err != nil {
		tb.Fatalf("%s: %v: %s", cmd, err, stderr.String())
	}
	return out
}

func (f *fixture) mustImport(tb testing.TB, tarball []byte, o image.ImportOptions) image.Image {
	tb.Helper()
	img, err := f.Import(tb.Context(), bytes.NewReader(tarball), o)
	if err != nil {
		tb.Fatal(err)
	}
	return img
}

// onDisk counts published layers and what is in the temporary directory.
func (f *fixture) onDisk(tb testing.TB) (layers, temporary int) {
	tb.Helper()
	l, err := os.ReadDir(filepath.Join(f.root, "layers"))
	if err != nil {
		tb.Fatal(err)
	}
	t, err := os.ReadDir(filepath.Join(f.root, "tmp"))
	if err != nil {
		tb.Fatal(err)
	}
	return len(l), len(t)
}

// empty fails unless nothing at all is stored.
func (f *fixture) empty(tb testing.TB) {
	tb.Helper()
	if layers, temporary := f.onDisk(tb); layers+temporary > 0 {
		tb.Errorf("%d layers and %d temporary files are left", layers, temporary)
	}
	all, err := f.List(tb.Context())
	if err != nil || len(all) > 0 {
		tb.Errorf("images left: %v, %v", all, err)
	}
}

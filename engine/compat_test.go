package engine_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/vethloom/vethloom/engine"
)

// program32 is a static i386 program that ends with code 7: a header, one segment, and
// mov $1,%eax; mov $7,%ebx; int $0x80.
func program32() []byte {
	code := []byte{0xb8, 1, 0, 0, 0, 0xbb, 7, 0, 0, 0, 0xcd, 0x80}
	const base, headers = 0x08048000, 52 + 32
	var b bytes.Buffer
	b.Write([]byte{0x7f, 'E', 'L', 'F', 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	put := func(v ...any) {
		for _, x := range v {
			binary.Write(&b, binary.LittleEndian, x)
		}
	}
	put(uint16(2), uint16(3), uint32(1), uint32(base+headers), uint32(52), uint32(0), uint32(0),
		uint16(52), uint16(32), uint16(1), uint16(0), uint16(0), uint16(0))
	size := uint32(headers + len(code))
	put(uint32(1), uint32(0), uint32(base), uint32(base), size, size, uint32(5), uint32(0x1000))
	b.Write(code)
	return b.Bytes()
}

// Test32BitPrograms runs one where the image shows that it has some, and one that
// came in by another way, which the filter ends (SIGSYS is 31). A host whose kernel runs none (ia32_emulation=off) says
// so of the command itself, and a shell takes the program for a script.
func Test32BitPrograms(t *testing.T) {
	runs := host32(t)
	for _, c := range []struct {
		name    string
		at      string // in the image
		cmd     []string
		code    int
		without int // the code on a host that runs none
	}{
		{"the command itself", "prog", []string{"/prog"}, 7, 255},
		{"a loader in the image", "lib/ld-linux.so.2", []string{"/lib/ld-linux.so.2"}, 7, 255},
		{"by a shell, beside a loader", "usr/lib/ld-linux.so.2",
			[]string{"sh", "-c", "/usr/lib/ld-linux.so.2; exit $?"}, 7, 127},
		{"unannounced", "data/prog", []string{"sh", "-c", "/data/prog; exit $?"}, 128 + 31, 127},
	} {
		if !runs {
			c.code = c.without
		}
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			path := filepath.Join(w.images.root, c.at)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, program32(), 0o755); err != nil {
				t.Fatal(err)
			}
			if got := w.mustRun(engine.Spec{Command: c.cmd, Remove: true}, ""); got.Code != c.code {
				t.Errorf("exit code %d, want %d: %s%s", got.Code, c.code, got.out, got.err)
			}
		})
	}
}

// host32 reports whether this kernel runs 32-bit programs.
func host32(t *testing.T) bool {
	t.Helper()
	path := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(path, program32(), 0o755); err != nil {
		t.Fatal(err)
	}
	err := exec.Command(path).Run()
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !errors.Is(err, syscall.ENOEXEC) && (!ok || exit.ExitCode() != 7) {
		t.Fatalf("run a 32-bit program on the host: %v", err)
	}
	return ok
}

// Package shimtest builds what tests of real containers need: net-shim, net-copy, net-resolver, net-relay, and a
// root filesystem made of busybox.
package shimtest

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

var (
	shim     = sync.OnceValues(func() (string, error) { return build("net-shim") })
	copier   = sync.OnceValues(func() (string, error) { return build("net-copy") })
	resolver = sync.OnceValues(func() (string, error) { return build("net-resolver") })
	relay    = sync.OnceValues(func() (string, error) { return build("net-relay") })
)

// build builds a program of this module.
func build(name string) (string, error) {
	dir := filepath.Join(os.TempDir(), "engine", fmt.Sprintf("shim-%d", os.Getpid()))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	path := filepath.Join(dir, name)
	cmd := exec.Command("go", "build", "-tags", "seccomp runc_nocriu", "-ldflags", "-s -w", "-o", path,
		"github.com/vethloom/vethloom/cmd/"+name)
	if name == "net-copy" { // as it is released; it changes all threads at once, which C does not know of
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w: %s", name, err, out)
	}
	return path, nil
}

// Binary builds net-shim, once a test process. Call Cleanup from TestMain.
func Binary(t testing.TB) string { return program(t, shim) }

// Copier builds net-copy in the same way.
func Copier(t testing.TB) string { return program(t, copier) }

// Resolver builds net-resolver in the same way.
func Resolver(t testing.TB) string { return program(t, resolver) }

// Relay builds net-relay in the same way.
func Relay(t testing.TB) string { return program(t, relay) }

func program(t testing.TB, built func() (string, error)) string {
	t.Helper()
	path, err := built()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// Cleanup removes what was built.
func Cleanup() {
	os.RemoveAll(filepath.Join(os.TempDir(), "engine", fmt.Sprintf("shim-%d", os.Getpid())))
}

// Rootfs makes a root filesystem with busybox and a few users.
func Rootfs(t testing.TB) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "rootfs")
	for _, d := range []string{"bin", "etc", "tmp", "proc", "sys", "dev", "root", "data"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatalf("these tests run busybox: install busybox-static: %v", err)
	}
	copyFile(t, busybox, filepath.Join(root, "bin/busybox"), 0o755)
	applets, err := exec.Command(busybox, "--list").Output()
	if err != nil {
		t.Fatal(err)
	}
	for name := range strings.FieldsSeq(string(applets)) {
		if name != "busybox" {
			if err := os.Symlink("busybox", filepath.Join(root, "bin", name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	Write(t, filepath.Join(root, "etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n")
	Write(t, filepath.Join(root, "etc/group"), "root:x:0:\nann:x:1000:\nlamps:x:2000:ann\n")
	Write(t, filepath.Join(root, "data/seed"), "from the image\n")
	Write(t, filepath.Join(root, "etc/plain"), "not a program\n")
	// World readable, whatever the umask: users in the container read it.
	for _, d := range []string{root, filepath.Join(root, "bin"), filepath.Join(root, "etc")} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(root, "tmp"), 0o1777); err != nil {
		t.Fatal(err)
	}
	return root
}

// Write writes a file, or fails the test.
func Write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func copyFile(t testing.TB, from, to string, mode os.FileMode) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, mode)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
}

package kerntest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/internal/await"
)

// Env is a fresh network namespace with the calling goroutine in it.
type Env struct {
	// RunDir is an empty directory for the runtime state, the pinned
	// namespaces among it.
	RunDir string

	tb  testing.TB
	fds []string
	ns  *os.File
}

// New locks the calling goroutine to a thread in a fresh network namespace,
// with loopback up, for the rest of the test. When the test ends, and with it whatever it
// has deferred or registered with Cleanup, these must be gone: every link but
// loopback, every mount below RunDir, and every descriptor opened since.
func New(tb testing.TB) *Env {
	tb.Helper()
	e := &Env{tb: tb, RunDir: tb.TempDir()}
	warmUp(tb)
	runtime.LockOSThread() // never unlocked: the thread ends with the test, and the namespace with it
	e.fds = openFiles(tb)
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		tb.Fatalf("make a network namespace: %v", err)
	}
	ns, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		tb.Fatalf("open the network namespace: %v", err)
	}
	e.ns = ns
	e.Run("ip", "link", "set", "lo", "up")
	tb.Cleanup(e.check)
	return e
}

// warmUp makes the runtime open the descriptors it keeps for good.
func warmUp(tb testing.TB) {
	r, w, err := os.Pipe()
	if err != nil {
		tb.Fatal(err)
	}
	r.Close()
	w.Close()
}

// Run runs a command in the test's namespace and returns its output; failure
// ends the test. It may be called in subtests, which run on other goroutines.
func (e *Env) Run(name string, args ...string) string {
	e.tb.Helper()
	var out []byte
	err := e.Do("", func() (err error) {
		out, err = exec.Command(name, args...).CombinedOutput()
		return err
	})
	if err != nil {
		e.tb.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// Sh runs a shell script in the test's namespace and returns its output.
func (e *Env) Sh(script string) string {
	e.tb.Helper()
	return e.Run("sh", "-ec", script)
}

// RunIn runs a command in a namespace pinned under RunDir.
func (e *Env) RunIn(netns string, args ...string) string {
	e.tb.Helper()
	path := filepath.Join(e.RunDir, "netns", netns)
	return e.Run("nsenter", append([]string{"--net=" + path, "--"}, args...)...)
}

// NetNS is a descriptor of the test's namespace, open until the test ends.
func (e *Env) NetNS() int { return int(e.ns.Fd()) }

// Do calls f on a thread in the namespace at path, or in the test's own
// when path is empty, and waits for it. It may be called on any goroutine.
func (e *Env) Do(path string, f func() error) error {
	done := make(chan error, 2)
	go func() {
		// FailNow ends the goroutine: who waits must be told.
		defer func() { done <- errors.New("f ended the test") }()
		runtime.LockOSThread() // never unlocked: the thread is in no state to be used again
		fd := e.NetNS()
		if path != "" {
			file, err := os.Open(path)
			if err != nil {
				done <- err
				return
			}
			defer file.Close()
			fd = int(file.Fd())
		}
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter the namespace: %w", err)
			return
		}
		done <- f()
	}()
	return <-done
}

// check runs on the test's goroutine, after all other cleanups.
func (e *Env) check() {
	e.checkMounts()
	e.checkLinks()
	e.ns.Close()
	e.checkFiles()
}

// checkLinks waits for links whose other end was in a namespace that has just
// gone: the kernel removes those in its own time.
func (e *Env) checkLinks() {
	var left []string
	ok := await.Holds(func() bool {
		links, err := net.Interfaces()
		if err != nil {
			left = []string{err.Error()}
			return false
		}
		left = left[:0]
		for _, l := range links {
			if l.Name != "lo" {
				left = append(left, l.Name)
			}
		}
		return len(left) == 0
	})
	if !ok {
		e.tb.Errorf("links left behind: %s", strings.Join(left, ", "))
	}
}

// checkMounts removes what is left, so that one failure is not many.
func (e *Env) checkMounts() {
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(e.RunDir))
	if err != nil {
		e.tb.Errorf("read the mounts: %v", err)
	}
	slices.Reverse(mounts)
	for _, m := range mounts {
		e.tb.Errorf("mount left behind: %s", m.Mountpoint)
		if err := unix.Unmount(m.Mountpoint, unix.MNT_DETACH); err != nil {
			e.tb.Errorf("unmount %s: %v", m.Mountpoint, err)
		}
	}
}

func (e *Env) checkFiles() {
	var extra []string
	ok := await.Holds(func() bool {
		extra = extra[:0]
		before := slices.Clone(e.fds)
		for _, f := range openFiles(e.tb) {
			if i := slices.Index(before, f); i >= 0 {
				before = slices.Delete(before, i, i+1)
			} else {
				extra = append(extra, f)
			}
		}
		return len(extra) == 0
	})
	if !ok {
		e.tb.Errorf("descriptors left open: %s", strings.Join(extra, ", "))
	}
}

// openFiles lists what the process's descriptors refer to, apart from those of the
// runtime itself.
func openFiles(tb testing.TB) []string {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		tb.Fatalf("list the open descriptors: %v", err)
	}
	var out []string
	for _, entry := range entries {
		target, err := os.Readlink("/proc/self/fd/" + entry.Name())
		if err != nil || strings.HasPrefix(target, "/proc/") {
			continue // the listing's own
		}
		if strings.HasPrefix(target, "anon_inode:[event") || strings.HasPrefix(target, "anon_inode:[pidfd") {
			continue // the poller and the process starter of the runtime
		}
		out = append(out, target)
	}
	return out
}

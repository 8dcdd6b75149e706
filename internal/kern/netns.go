package kern

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/moby/sys/mountinfo"
	"github.com/vethloom/vethloom/internal/plan"
	"golang.org/x/sys/unix"
)

// preparePins makes the directory of pinned namespaces a shared mount, as
// namespaces(7) users expect: a pin must be seen, and its end too, in mount namespaces that
// are copies of ours, or a copy would keep the namespace alive. Files that are
// no pins are what a crash between the file and the mount has left; they go.
func preparePins(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make the directory of namespaces: %w", err)
	}
	shared, err := isShared(dir)
	if err != nil {
		return fmt.Errorf("read the mounts: %w", err)
	}
	if !shared {
		if err := unix.Mount(dir, dir, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("bind %s onto itself: %w", dir, err)
		}
		if err := unix.Mount("", dir, "", unix.MS_SHARED|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("share the mount %s: %w", dir, err)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("list the namespaces: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if e.Type().IsRegular() && !isPin(path) {
			if err := os.Remove(path); err != nil {
				return fmt.Errorf("remove what was left of a namespace: %w", err)
			}
		}
	}
	return nil
}

// isShared tells whether the mount that dir is on propagates.
func isShared(dir string) (bool, error) {
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return false, err
	}
	mounts, err := mountinfo.GetMounts(mountinfo.ParentsFilter(real))
	if err != nil {
		return false, err
	}
	var top *mountinfo.Info
	for _, m := range mounts {
		if top == nil || len(m.Mountpoint) >= len(top.Mountpoint) {
			top = m
		}
	}
	return top != nil && strings.Contains(top.Optional, "shared:"), nil
}

// releasePins unmounts the directory when no namespace is left in it.
func releasePins(dir string) {
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		return
	}
	if on, err := mountinfo.Mounted(dir); err == nil && on {
		// Whoever still looks at it keeps it; then it stays for the next run.
		_ = unix.Unmount(dir, 0)
	}
}

// isPin tells whether a namespace is mounted at path.
func isPin(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == unix.NSFS_MAGIC
}

// checkNetNS refuses names that would leave the directory of pins.
func checkNetNS(ns plan.NetNS) error {
	name := string(ns)
	if name == "" || name == "." || name == ".." || len(name) > 255 || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("network namespace %q: want a file name", name)
	}
	return nil
}

// listNetNS names the pinned namespaces.
func (k *Kernel) listNetNS() ([]plan.NetNS, error) {
	entries, err := os.ReadDir(k.pins)
	if err != nil {
		return nil, fmt.Errorf("list the namespaces: %w", err)
	}
	var out []plan.NetNS
	for _, e := range entries {
		if isPin(filepath.Join(k.pins, e.Name())) {
			out = append(out, plan.NetNS(e.Name()))
		}
	}
	return out, nil
}

// createNetNS makes a namespace, brings its loopback up and pins it. The
// socket returned is in it.
func (k *Kernel) createNetNS(ns plan.NetNS) (*conn, error) {
	if err := checkNetNS(ns); err != nil {
		return nil, err
	}
	path := k.NetNSPath(ns)
	if isPin(path) {
		return nil, fmt.Errorf("pin at %s: %w", path, os.ErrExist)
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY|unix.O_CLOEXEC, 0o444)
	if err != nil {
		return nil, fmt.Errorf("make the file to pin at: %w", err)
	}
	file.Close()
	var c *conn
	err = onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		if err := loopbackUp(); err != nil {
			return err
		}
		if c, err = dial(0); err != nil {
			return err
		}
		if err := unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, ""); err != nil {
			return errors.Join(fmt.Errorf("pin at %s: %w", path, err), c.close())
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, os.Remove(path))
	}
	return c, nil
}

// deleteNetNS lets go of a namespace: its links go when no process is left in it.
func (k *Kernel) deleteNetNS(ns plan.NetNS) error {
	if err := checkNetNS(ns); err != nil {
		return err
	}
	path := k.NetNSPath(ns)
	for isPin(path) { // a crash may have left one mount over another
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w", path, err)
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// loopbackUp brings lo up in the calling thread's namespace.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open a socket to bring lo up: %w", err)
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req); err != nil {
		return fmt.Errorf("bring lo up: %w", err)
	}
	return nil
}

// inNetNS runs f on a thread in the namespace fd refers to. What f opens of the
// network, sockets and files under /proc/sys/net, belongs to it.
func inNetNS(fd int, f func() error) error {
	return onThread(func() error {
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter the network namespace: %w", err)
		}
		return f()
	})
}

// onThread runs f on a thread whose network namespace f may change. The
// thread goes back to its own namespace; one that cannot is given up.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		var origin int
		err := errors.New("f did not return")
		defer func() { done <- err }()
		origin, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			err = fmt.Errorf("open the thread's network namespace: %w", err)
			runtime.UnlockOSThread()
			return
		}
		defer unix.Close(origin)
		err = f()
		if unix.Setns(origin, unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
	}()
	return <-done
}

package netns

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"
	"github.com/vethloom/vethloom/internal/kern/rtnetlink"
	"github.com/vethloom/vethloom/internal/thread"
	"github.com/vethloom/vethloom/plan"
	"golang.org/x/sys/unix"
)

// Pins are the namespaces that are pinned in a directory by a mount each.
type Pins struct{ dir string }

// Path is where a namespace can be opened.
func (p Pins) Path(ns plan.NetNS) string { return filepath.Join(p.dir, string(ns)) }

// OpenPins makes the directory of pinned namespaces a shared mount, as
// namespaces(7) users expect: a pin must be seen, and its end too, in mount namespaces that
// are copies of ours, or a copy would keep the namespace alive. Files that are
// no pins are what a crash between the file and the mount has left; they go.
func OpenPins(dir string) (Pins, error) {
	if err := prepare(dir); err != nil {
		return Pins{}, err
	}
	return Pins{dir}, nil
}

func prepare(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make the directory of namespaces: %w", err)
	}
	if err := share(dir); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("list the namespaces: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if e.Type().IsRegular() && !isPin(path) {
			// A busy one has a namespace on it below another mount of the directory. Removing that is not ours.
			if err := os.Remove(path); err != nil && !errors.Is(err, unix.EBUSY) {
				return fmt.Errorf("remove what was left of a namespace: %w", err)
			}
		}
	}
	return nil
}

// share makes dir a mount that propagates. One that somebody has made private is not mounted again: pins would be
// mounted twice then, and stay below when they are removed.
func share(dir string) error {
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return fmt.Errorf("look for the directory of namespaces: %w", err)
	}
	mounts, err := mountinfo.GetMounts(mountinfo.ParentsFilter(real))
	if err != nil {
		return fmt.Errorf("read the mounts: %w", err)
	}
	var top *mountinfo.Info
	for _, m := range mounts {
		if top == nil || len(m.Mountpoint) >= len(top.Mountpoint) {
			top = m
		}
	}
	if top != nil && strings.Contains(top.Optional, "shared:") {
		return nil
	}
	if top == nil || top.Mountpoint != real {
		if err := unix.Mount(real, real, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("bind %s onto itself: %w", dir, err)
		}
	}
	if err := unix.Mount("", real, "", unix.MS_SHARED|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("share the mount %s: %w", dir, err)
	}
	return nil
}

// Close unmounts the directory when no namespace is left in it.
func (p Pins) Close() {
	if entries, err := os.ReadDir(p.dir); err != nil || len(entries) > 0 {
		return
	}
	if on, err := mountinfo.Mounted(p.dir); err == nil && on {
		// A process that still looks at it keeps it; then it stays for the next run.
		_ = unix.Unmount(p.dir, 0)
	}
}

// isPin reports whether a namespace is mounted at path.
func isPin(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == unix.NSFS_MAGIC
}

// Check refuses names that would leave the directory of pins.
func Check(ns plan.NetNS) error {
	name := string(ns)
	if name == "" || name == "." || name == ".." || len(name) > 255 || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("network namespace %q: want a file name", name)
	}
	return nil
}

// List names the pinned namespaces.
func (p Pins) List() ([]plan.NetNS, error) {
	entries, err := os.ReadDir(p.dir)
	if err != nil {
		return nil, fmt.Errorf("list the namespaces: %w", err)
	}
	var out []plan.NetNS
	for _, e := range entries {
		if isPin(filepath.Join(p.dir, e.Name())) {
			out = append(out, plan.NetNS(e.Name()))
		}
	}
	return out, nil
}

// Create makes a namespace, brings its loopback up and pins it. The
// socket returned is in it.
func (p Pins) Create(ns plan.NetNS) (*rtnetlink.Conn, error) {
	return p.pin(ns, "/proc/thread-self/ns/net", func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		return nil
	})
}

// pin pins the namespace that is at a path once enter has been called, on a thread of its own.
func (p Pins) pin(ns plan.NetNS, from string, enter func() error) (*rtnetlink.Conn, error) {
	if err := Check(ns); err != nil {
		return nil, err
	}
	path := p.Path(ns)
	if isPin(path) {
		return nil, fmt.Errorf("pin at %s: %w", path, os.ErrExist)
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY|unix.O_CLOEXEC, 0o444)
	if err != nil {
		return nil, fmt.Errorf("make the file to pin at: %w", err)
	}
	file.Close()
	var c *rtnetlink.Conn
	err = OnThread(func() error {
		if err := enter(); err != nil {
			return err
		}
		if err := loopbackUp(); err != nil {
			return err
		}
		if c, err = rtnetlink.Dial(0); err != nil {
			return err
		}
		if err := unix.Mount(from, path, "", unix.MS_BIND, ""); err != nil {
			return errors.Join(fmt.Errorf("pin at %s: %w", path, err), c.Close())
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, os.Remove(path))
	}
	return c, nil
}

// Delete lets go of a namespace: its links go when no process is left in it.
func (p Pins) Delete(ns plan.NetNS) error {
	if err := Check(ns); err != nil {
		return err
	}
	path := p.Path(ns)
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

// Enter runs f on a thread in the namespace fd refers to. What f opens of the
// network, sockets and files under /proc/sys/net, belongs to it.
func Enter(fd int, f func() error) error {
	return OnThread(func() error {
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter the network namespace: %w", err)
		}
		return f()
	})
}

// OnThread runs f on a thread whose network namespace f may change. The
// thread goes back to its own namespace; one that cannot is given up.
func OnThread(f func() error) error {
	var err error
	thread.Run(func() (again bool) {
		origin, e := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if e != nil {
			err = fmt.Errorf("open the thread's network namespace: %w", e)
			return true
		}
		defer unix.Close(origin)
		err = errors.New("f did not return")
		err = f()
		return unix.Setns(origin, unix.CLONE_NEWNET) == nil
	})
	return err
}

// OnSpareThread runs f on a thread that ends with it, whatever f made of the thread.
func OnSpareThread(f func() error) error {
	err := errors.New("f did not return")
	thread.Run(func() bool { err = f(); return false })
	return err
}

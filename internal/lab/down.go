package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Down removes a lab: processes, mounts, namespaces, cgroups, files. It needs nothing
// but the lab's directory, so it works on what a killed netlab left, and may be called
// again and again; a lab that does not exist is no error.
func Down(ctx context.Context, dir, name string) error {
	if err := NeedRoot(); err != nil {
		return err
	}
	l, err := at(dir, name)
	if err != nil {
		return err
	}
	unlock, err := l.lock(ctx)
	if errors.Is(err, ErrNotFound) {
		return l.removeCgroups(ctx)
	}
	if err != nil {
		return err
	}
	defer unlock()
	cgroups, err := l.cgroups()
	if err != nil {
		return err
	}
	// The process that held the lock has closed it, so what a killed netlab was about to start has its own
	// environment by now.
	if err := l.clear(ctx, l.path(), crowd{cgroups: cgroups, mark: l.mark()}); err != nil {
		return err
	}
	if err := l.removeCgroups(ctx); err != nil {
		return err
	}
	if err := os.RemoveAll(l.path()); err != nil {
		return fmt.Errorf("remove lab %q: %w", name, err)
	}
	os.Remove(l.Dir) // only when it was the last lab
	return nil
}

// clear ends the processes of the crowd and those in the namespaces that are pinned below dir, then takes away the
// mounts below dir, the pins among them.
func (l *processes) clear(ctx context.Context, dir string, c crowd, pins ...string) error {
	c.spaces = map[inode]bool{}
	mounts, err := mountsBelow(dir)
	if err != nil {
		return err
	}
	for _, m := range mounts {
		if m.FSType == "nsfs" {
			pins = append(pins, m.Mountpoint)
		}
	}
	outside, _ := inodeOf("/proc/self/ns/net")
	for _, pin := range pins {
		if ns, ok := inodeOf(pin); ok && (ns != outside || inLab(pin)) {
			c.spaces[ns] = true
		}
	}
	if err := c.end(ctx); err != nil {
		return err
	}
	return unmountBelow(dir)
}

// inLab says that a pin in the directory of a lab is a namespace even where this process is inside it.
func inLab(pin string) bool { return filepath.Base(filepath.Dir(pin)) == "ns" }

func mountsBelow(dir string) ([]*mountinfo.Info, error) {
	// Not by prefix alone: lab "a" has nothing to do with lab "ab".
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		return !strings.HasPrefix(m.Mountpoint, dir+"/"), false
	})
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	return mounts, nil
}

func unmountBelow(dir string) error {
	for range 10 { // a mount may hide another
		mounts, err := mountsBelow(dir)
		if err != nil || len(mounts) == 0 {
			return err
		}
		for i := len(mounts) - 1; i >= 0; i-- { // those on top first
			err := unix.Unmount(mounts[i].Mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
			if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("unmount %s: %w", mounts[i].Mountpoint, err)
			}
		}
	}
	return fmt.Errorf("mounts below %s come back", dir)
}

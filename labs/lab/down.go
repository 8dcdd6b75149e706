package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

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
	if err := l.clear(ctx, l.path(), cgroups); err != nil {
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

// clear ends the processes in the namespaces that are pinned below dir and in the cgroups, then takes away the mounts below
// dir, the pins among them.
func (l *Lab) clear(ctx context.Context, dir string, cgroups []string, pins ...string) error {
	spaces := map[inode]bool{}
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
			spaces[ns] = true
		}
	}
	err = until(ctx, "its processes have ended", func() (bool, error) {
		left, err := processesIn(spaces, cgroups)
		for _, p := range left { // again and again: some start others
			if e := p.signal(syscall.SIGKILL); e != nil && !errors.Is(e, os.ErrProcessDone) {
				err = errors.Join(err, e)
			}
		}
		return len(left) == 0, err
	})
	if err != nil {
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

package mounts

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/moby/sys/mount"
	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/engine/shim"
)

// Assemble mounts the root filesystem in this process's mount namespace, which it makes a slave of the one it came
// from, and returns the binds with sources that are ready to be mounted in the root. Volumes that are empty are
// filled. What was made before a failure ends with the process.
func Assemble(b shim.Bundle, ids *IDs) ([]shim.Bind, error) {
	shared, err := sharedTrees(b.Binds)
	defer func() {
		for _, f := range shared {
			f.Close()
		}
	}()
	if err != nil {
		return nil, err
	}
	if err := root(b, ids); err != nil {
		return nil, err
	}
	out := slices.Clone(b.Binds)
	for i, m := range out {
		a := assembly{b: b, ids: ids, dir: b.StateDir + "-mounts", number: i}
		if out[i].Source, err = a.source(m, shared[i]); err != nil {
			return nil, fmt.Errorf("mount %s: %w", m.Target, err)
		}
	}
	return out, nil
}

func root(b shim.Bundle, ids *IDs) error {
	// Changes on the host still arrive (a file system unmounted there is not kept
	// busy here); what is mounted here stays here.
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("make the mounts of this process its own: %w", err)
	}
	if ids != nil {
		for _, m := range b.RootMounts {
			if err := ids.mapLayers(m); err != nil {
				return err
			}
		}
	}
	for _, m := range b.RootMounts {
		if err := m.Do(); err != nil {
			return fmt.Errorf("mount the root filesystem: %w", err)
		}
	}
	return nil
}

// sharedTrees are copies of the sources that are to be shared with the host, by their number: as long as this
// namespace's mounts are still peers of the host's, their copies are too.
func sharedTrees(binds []shim.Bind) (map[int]*os.File, error) {
	out := map[int]*os.File{}
	for i, m := range binds {
		if !m.Shared() {
			continue
		}
		f, err := cloneTree(unix.AT_FDCWD, m.Source, !m.NonRecursive)
		if err != nil {
			return out, fmt.Errorf("mount %s: %w", m.Target, err)
		}
		out[i] = f
	}
	return out, nil
}

// assembly makes one source.
type assembly struct {
	b      shim.Bundle
	ids    *IDs
	dir    string // of the mount points, which are numbered
	number int
}

func (a assembly) source(m shim.Bind, shared *os.File) (string, error) {
	at := filepath.Join(a.dir, strconv.Itoa(a.number))
	switch {
	case m.Tmpfs != nil:
		return "", nil
	case shared != nil:
		return at, a.place(shared, at)
	}
	source := m.Source
	if m.FileSystem != nil {
		source = at + "-volume"
		if err := a.fileSystem(*m.FileSystem, source); err != nil {
			return "", err
		}
	}
	if m.Subpath != "" {
		f, err := subpath(source, m.Subpath)
		if err != nil {
			return "", err
		}
		defer f.Close()
		if err := a.place(f, at); err != nil {
			return "", err
		}
		source = at
	}
	if !m.CopyUp {
		return source, nil
	}
	if source == m.Source {
		return source, fillVolume(a.b.Root, m, a.ids)
	}
	return source, a.fillInPlace(m, source)
}

// fileSystem mounts that of a volume which is not the directory made for it.
func (a assembly) fileSystem(f shim.FileSystem, at string) error {
	if err := os.MkdirAll(at, 0o700); err != nil {
		return err
	}
	err := mount.Mount(f.Device, at, f.Type, f.Options)
	if errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("this kernel has no file system %q: %w", f.Type, err)
	}
	if err != nil {
		return fmt.Errorf("mount the volume's %s: %w", f.Device, err)
	}
	return nil
}

// place puts a tree of mounts that is nowhere at a path, which is made.
func (a assembly) place(tree *os.File, at string) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(tree.Fd()), &st); err != nil {
		return &os.PathError{Op: "stat", Path: tree.Name(), Err: err}
	}
	if err := makePoint(at, st.Mode&unix.S_IFMT == unix.S_IFDIR); err != nil {
		return err
	}
	return moveTo(tree, at)
}

func makePoint(at string, dir bool) error {
	if dir {
		return os.MkdirAll(at, 0o700)
	}
	if err := os.MkdirAll(filepath.Dir(at), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(at, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

func moveTo(tree *os.File, at string) error {
	if err := unix.MoveMount(int(tree.Fd()), "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return &os.LinkError{Op: "move_mount", Old: tree.Name(), New: at, Err: err}
	}
	return nil
}

// cloneTree copies what is mounted at a path, or at the descriptor itself where the path is "".
func cloneTree(at int, path string, recursive bool) (*os.File, error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	fd, err := unix.OpenTree(at, path, flags)
	if err != nil {
		return nil, &os.PathError{Op: "open_tree", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// subpath is what there is at a path in a volume. Links in it begin at the volume's own root, and so never lead out of
// it; and what was found is mounted, whatever another container puts in its place.
func subpath(volume, path string) (*os.File, error) {
	top, err := openDir(unix.AT_FDCWD, volume)
	if err != nil {
		return nil, err
	}
	defer top.Close()
	fd, err := unix.Openat2(int(top.Fd()), path, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS})
	if err != nil {
		return nil, fmt.Errorf("cannot access the subpath %q of the volume: %w: make it first", path, err)
	}
	defer unix.Close(fd)
	return cloneTree(fd, "", true)
}

// Flags are those that mount(2) takes for a bind, and for its propagation.
func Flags(m shim.Bind) (flags, propagation int) {
	flags = unix.MS_BIND | unix.MS_REC
	if m.NonRecursive {
		flags = unix.MS_BIND
	}
	if m.Inert {
		flags |= unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	}
	if m.ReadOnly {
		flags |= unix.MS_RDONLY
	}
	known := map[string]int{
		"private": unix.MS_PRIVATE, "rprivate": unix.MS_PRIVATE | unix.MS_REC,
		"shared": unix.MS_SHARED, "rshared": unix.MS_SHARED | unix.MS_REC,
		"slave": unix.MS_SLAVE, "rslave": unix.MS_SLAVE | unix.MS_REC,
	}
	if propagation = known[m.Propagation]; propagation == 0 {
		propagation = unix.MS_PRIVATE | unix.MS_REC
	}
	return flags, propagation
}

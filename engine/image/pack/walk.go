package pack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/engine/rootfile"
)

// node is something a walk comes to. Its descriptors are good until the walk goes on.
type node struct {
	dir  int // the directory it is in
	name string
	path string // from the root, without a slash before it; "." is the root
	st   unix.Stat_t
	// below is the directory in the other tree that corresponds to dir; -1 when there is none.
	below int
}

// proc is a path to the node for system calls that have no other way.
func (n node) proc() string {
	if n.path == "." {
		return fdPath(n.dir) + "/."
	}
	return fdPath(n.dir) + "/" + n.name
}

// under looks at what the other tree has in the node's place.
func (n node) under() (st unix.Stat_t, ok bool, err error) {
	if n.below < 0 {
		return st, false, nil
	}
	name, flags := n.name, unix.AT_SYMLINK_NOFOLLOW
	if n.path == "." {
		name, flags = "", unix.AT_EMPTY_PATH
	}
	err = unix.Fstatat(n.below, name, &st, flags)
	if gone(err) {
		return st, false, nil
	}
	if err != nil {
		return st, false, fmt.Errorf("look for %q in the layers below: %w", n.path, err)
	}
	return st, true, nil
}

func fdPath(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

// gone reports whether something is not there, or not there any more: a container may change its tree during a walk.
func gone(err error) bool { return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) }

// descent says how a walk goes on into a directory.
type descent int

const (
	leave descent = iota // not at all
	alone                // the other tree has no part in it
	along                // with the other tree's directory of the same name
)

// walker goes through a tree, and beside it through another one: a directory before what is in it, names in the order
// of their bytes. No link is followed and no mount is crossed. Trees are of any depth: directories far above the one at
// hand are closed, and opened again by their paths.
type walker struct {
	root, other int // as paths only; other is -1 when there is none
	visit       func(node) (descent, error)
	leaving     func(path string) error // called for each directory that was entered, when all in it was visited
	frames      []frame
}

// frame is a directory that the walk is in.
type frame struct {
	path  string
	names []string // left to visit
	dir   int      // -1 when closed for now
	below int      // -1 when closed for now, or when the other tree has no part
	both  bool     // the other tree has part in it
}

// maxOpen is how many directories are held open.
const maxOpen = 64

func (w *walker) walk(ctx context.Context) error {
	defer func() {
		for i := range w.frames {
			w.frames[i].close()
		}
	}()
	top := node{dir: w.root, name: ".", path: ".", below: w.other}
	if err := unix.Fstat(w.root, &top.st); err != nil {
		return fmt.Errorf("look at the root: %w", err)
	}
	how, err := w.visit(top)
	if err != nil || how == leave {
		return err
	}
	if err := w.enter(top, how); err != nil {
		return err
	}
	for len(w.frames) > 0 {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := w.step(); err != nil {
			return err
		}
	}
	return nil
}

// step visits the next name, or leaves the directory.
func (w *walker) step() error {
	f := &w.frames[len(w.frames)-1]
	if len(f.names) == 0 {
		f.close()
		p := f.path
		w.frames = w.frames[:len(w.frames)-1]
		if w.leaving != nil {
			return w.leaving(p)
		}
		return nil
	}
	if err := w.reopen(f); err != nil {
		if gone(err) { // with all that is in it
			f.names = nil
			return nil
		}
		return fmt.Errorf("open directory %q again: %w", f.path, err)
	}
	n := node{dir: f.dir, name: f.names[0], path: join(f.path, f.names[0]), below: f.below}
	f.names = f.names[1:]
	err := unix.Fstatat(n.dir, n.name, &n.st, unix.AT_SYMLINK_NOFOLLOW)
	if gone(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at %q: %w", n.path, err)
	}
	how, err := w.visit(n)
	if err != nil || how == leave || n.st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return err
	}
	return w.enter(n, how)
}

func join(dir, name string) string {
	if dir == "." {
		return name
	}
	return dir + "/" + name
}

// enter reads a directory.
func (w *walker) enter(n node, how descent) error {
	dir, err := rootfile.OpenDirAt(n.dir, n.name, rootfile.NoLinks)
	if gone(err) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.EXDEV) { // what is mounted there is not of it
		return w.passed(n.path)
	}
	if err != nil {
		return fmt.Errorf("open directory %q: %w", n.path, err)
	}
	f := frame{path: n.path, dir: dir, below: -1, both: how == along && n.below >= 0}
	if f.names, err = list(dir); err != nil {
		f.close()
		if gone(err) {
			return w.passed(n.path)
		}
		return fmt.Errorf("read directory %q: %w", n.path, err)
	}
	if f.both {
		err = f.openBelow(n.below, n.name)
	}
	if err != nil {
		f.close()
		return fmt.Errorf("open %q in the layers below: %w", n.path, err)
	}
	w.frames = append(w.frames, f)
	if far := len(w.frames) - 1 - maxOpen; far >= 0 {
		w.frames[far].close()
	}
	return nil
}

func (w *walker) passed(p string) error {
	if w.leaving != nil {
		return w.leaving(p)
	}
	return nil
}

// openBelow opens the other tree's directory. What has it not has no part.
func (f *frame) openBelow(at int, p string) error {
	below, err := rootfile.OpenDirAt(at, p, rootfile.NoLinks)
	if gone(err) || errors.Is(err, unix.ELOOP) {
		f.both = false
		return nil
	}
	if err == nil {
		f.below = below
	}
	return err
}

func (w *walker) reopen(f *frame) (err error) {
	if f.dir < 0 {
		if f.dir, err = rootfile.OpenDirAt(w.root, f.path, rootfile.NoLinks); err != nil {
			f.dir = -1
			return err
		}
	}
	if f.both && f.below < 0 {
		return f.openBelow(w.other, f.path)
	}
	return nil
}

func (f *frame) close() {
	for _, fd := range []*int{&f.dir, &f.below} {
		if *fd >= 0 {
			unix.Close(*fd)
		}
		*fd = -1
	}
}

// listAt is list of a directory by its name.
func listAt(dir int, name string) ([]string, error) {
	fd, err := rootfile.OpenDirAt(dir, name, rootfile.NoLinks)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	return list(fd)
}

// list reads the names in a directory, sorted.
func list(dir int) ([]string, error) {
	fd, err := unix.Openat(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "directory")
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	slices.Sort(names)
	return names, nil
}

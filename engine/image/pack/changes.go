package pack

import (
	"context"
	"fmt"
	"maps"

	"golang.org/x/sys/unix"
)

// Kind is what happened to a path, by the letter that docker diff shows.
type Kind byte

// What can happen to a path.
const (
	Added    Kind = 'A'
	Modified Kind = 'C'
	Deleted  Kind = 'D'
)

func (k Kind) String() string { return string(k) }

// Change is what a container did to a path.
type Change struct {
	Kind Kind
	Path string // absolute; any bytes but NUL
}

// Changes lists how an upper directory changes what the layers below it show: lowers, bottom first. A directory comes
// before what is in it, and those in one directory in the order of their names' bytes. A directory that was there is
// modified when its owner, mode, time or attributes differ, or something in it does. emit's error ends it.
func Changes(ctx context.Context, upper string, lowers []string, o Options, emit func(Change) error) error {
	c := &changes{emit: emit, ids: o.IDMap}
	err := withTrees(upper, lowers, func(root, below int) error {
		w := &walker{root: root, other: below, visit: c.visit, leaving: c.leave}
		return w.walk(ctx)
	})
	if err != nil {
		return fmt.Errorf("list the changes in %s: %w", upper, err)
	}
	return nil
}

type changes struct {
	emit func(Change) error
	ids  IDMap
	dirs []directory // that the walk is in
}

// directory is one that was there.
type directory struct {
	path   string
	silent bool     // it is not told of yet: nothing in it has changed so far
	hidden []string // names in it that were there, when the upper one is opaque
}

func (c *changes) tell(kind Kind, path string) error {
	for i := range c.dirs {
		if d := &c.dirs[i]; d.silent {
			d.silent = false
			if err := c.emit(Change{Modified, "/" + d.path}); err != nil {
				return err
			}
		}
	}
	return c.emit(Change{kind, "/" + path})
}

func (c *changes) visit(n node) (descent, error) {
	if n.path == "." {
		return along, nil
	}
	if err := c.missed(n); err != nil {
		return leave, err
	}
	st, was, err := n.under()
	if err != nil {
		return leave, err
	}
	kind := Added
	if was {
		kind = Modified
	}
	switch {
	case n.st.Mode&unix.S_IFMT == unix.S_IFCHR && n.st.Rdev == 0:
		if !was {
			return leave, nil
		}
		return leave, c.tell(Deleted, n.path)
	case n.st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return leave, c.tell(kind, n.path)
	case !was || st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return alone, c.tell(kind, n.path)
	}
	return along, c.enter(n, st)
}

// enter comes to a directory that was there.
func (c *changes) enter(n node, was unix.Stat_t) error {
	d := directory{path: n.path, silent: true}
	a, err := c.ids.attributesOf(n.proc(), -1)
	if err != nil {
		return fmt.Errorf("%q: %w", n.path, err)
	}
	if a.opaque {
		if d.hidden, err = listAt(n.below, n.name); err != nil {
			return fmt.Errorf("read directory %q of the layers below: %w", n.path, err)
		}
	}
	under, err := IDMap{}.attributesOf(fdPath(n.below)+"/"+n.name, -1)
	if err != nil {
		return fmt.Errorf("%q in the layers below: %w", n.path, err)
	}
	uid, gid := c.ids.owner(n)
	if uid != int(was.Uid) || gid != int(was.Gid) || n.st.Mode != was.Mode || n.st.Mtim != was.Mtim ||
		!maps.Equal(a.pax, under.pax) {
		if err := c.tell(Modified, n.path); err != nil {
			return err
		}
		d.silent = false
	}
	c.dirs = append(c.dirs, d)
	return nil
}

// missed tells of what an opaque directory hides, up to the node it holds.
func (c *changes) missed(n node) error {
	if len(c.dirs) == 0 {
		return nil
	}
	d := &c.dirs[len(c.dirs)-1]
	if n.path != join(d.path, n.name) {
		return nil // it is in a new directory
	}
	for len(d.hidden) > 0 && d.hidden[0] <= n.name {
		name := d.hidden[0]
		d.hidden = d.hidden[1:]
		if name == n.name {
			return nil
		}
		if err := c.tell(Deleted, join(d.path, name)); err != nil {
			return err
		}
	}
	return nil
}

func (c *changes) leave(path string) error {
	if len(c.dirs) == 0 || c.dirs[len(c.dirs)-1].path != path {
		return nil
	}
	for _, name := range c.dirs[len(c.dirs)-1].hidden {
		if err := c.tell(Deleted, join(path, name)); err != nil {
			return err
		}
	}
	c.dirs = c.dirs[:len(c.dirs)-1]
	return nil
}

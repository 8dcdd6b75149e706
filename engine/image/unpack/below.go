package unpack

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// below shows layers as overlayfs merges them, without a mount: what is found is the layer's own file, to which links
// can be made.
type below struct {
	roots  []int // O_PATH, top first
	levels []level
	held   int // descriptors in levels
}

// level is a directory as merged: descriptors of it in the layers that have part in it, top first.
type level struct {
	path string
	dirs []int
}

// maxHeld is how many descriptors of directories are kept at most; those in use may be more.
const maxHeld = 256

func openBelow(lowers []string) (*below, error) {
	b := &below{}
	for i := len(lowers) - 1; i >= 0; i-- {
		fd, err := unix.Open(lowers[i], unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			b.close()
			return nil, fmt.Errorf("open layer %s: %w", lowers[i], err)
		}
		b.roots = append(b.roots, fd)
	}
	return b, nil
}

func (b *below) close() {
	for len(b.levels) > 0 {
		b.drop(0)
	}
	closeAll(b.roots)
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

func (b *below) drop(i int) {
	closeAll(b.levels[i].dirs)
	b.held -= len(b.levels[i].dirs)
	b.levels = append(b.levels[:i], b.levels[i+1:]...)
}

// dirs opens a directory in every layer that has part in it; none when there is none. The path has no symbolic links.
// The descriptors are good until the next call.
func (b *below) dirs(p string) ([]int, error) {
	if p == "." {
		return b.roots, nil
	}
	for len(b.levels) > 0 && !within(p, b.levels[len(b.levels)-1].path) {
		b.drop(len(b.levels) - 1)
	}
	at, upper := ".", b.roots
	if n := len(b.levels); n > 0 {
		at, upper = b.levels[n-1].path, b.levels[n-1].dirs
	}
	for at != p {
		rest := strings.TrimPrefix(p, at+"/")
		name, _, _ := strings.Cut(rest, "/")
		here, err := merged(upper, name)
		if err != nil {
			return nil, err
		}
		at, upper = path.Join(at, name), here
		b.levels = append(b.levels, level{path: at, dirs: here})
		b.held += len(here)
		for b.held > maxHeld && len(b.levels) > 1 {
			b.drop(0)
		}
	}
	return upper, nil
}

func within(p, dir string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }

// merged opens a directory in the layers that have part in it.
func merged(dirs []int, name string) (out []int, err error) {
	for _, dir := range dirs {
		fd, err := openPath(dir, name, noLinks)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) { // hides what is below it
			return out, nil
		}
		opaque := false
		if err == nil {
			out = append(out, fd)
			opaque, err = isOpaque(fd)
		}
		if err != nil {
			closeAll(out)
			return nil, err
		}
		if opaque {
			return out, nil
		}
	}
	return out, nil
}

// entry is what is seen at a path: a name in a directory of a layer.
type entry struct {
	dir int // good until the next look
	st  unix.Stat_t
}

// look finds what the merged directory dir has by a name. The error is ENOENT when there is nothing.
func (b *below) look(dir, name string) (e entry, err error) {
	dirs, err := b.dirs(dir)
	if err != nil {
		return e, err
	}
	for _, e.dir = range dirs {
		err := unix.Fstatat(e.dir, name, &e.st, unix.AT_SYMLINK_NOFOLLOW)
		switch {
		case errors.Is(err, unix.ENOENT):
			continue
		case err != nil:
			return e, err
		case isWhiteout(e.st):
			return e, unix.ENOENT
		}
		return e, nil
	}
	return e, unix.ENOENT
}

// maxPath is how long the path of a directory may be once its symbolic links are replaced by what they lead to, and
// what is left of it to walk, in bytes.
const maxPath = 128 << 10

// walk finds a directory as a process with the merged tree for its root does, symbolic links and all, and returns its
// path without them. It starts in a directory. The error is ENOENT, ENOTDIR, or ELOOP.
func (b *below) walk(at, rest string) (string, error) {
	for links := 0; rest != ""; {
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		switch name {
		case "", ".":
			continue
		case "..":
			at = above(at)
			continue
		}
		e, err := b.look(at, name)
		if err != nil {
			return "", err
		}
		switch e.st.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			at = path.Join(at, name)
		case unix.S_IFLNK:
			target, err := readlink(e.dir, name)
			if err != nil {
				return "", err
			}
			if links++; links > maxLinks {
				return "", unix.ELOOP
			}
			if strings.HasPrefix(target, "/") {
				at = "."
			}
			rest = target + "/" + rest
		default:
			return "", unix.ENOTDIR
		}
		if len(at)+len(rest) > maxPath {
			return "", unix.ELOOP
		}
	}
	return at, nil
}

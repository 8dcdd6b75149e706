package unpack

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Names of the OCI image layer specification, which has them from aufs.
const (
	whiteoutPrefix = ".wh."
	opaqueMarker   = ".wh..opq"
	aufsPrefix     = ".wh."
)

// whiteout places what hides things of the layers below. name is the entry's
// name behind the whiteout prefix.
func (u *unpacker) whiteout(p place, name, entry string) error {
	switch {
	case name == opaqueMarker:
		if err := makeOpaque(fdPath(p.dir)); err != nil {
			return fmt.Errorf("hide what is in the layers below: %w", err)
		}
		return nil
	case strings.HasPrefix(name, aufsPrefix): // aufs's own records: nothing to show, nothing to hide
		return nil
	case name == "" || name == "." || name == "..":
		return &EntryError{Entry: entry, Reason: "is a whiteout of nothing"}
	}
	p.name = name
	return u.hide(p)
}

// hide makes overlayfs's whiteout. It is about the layers below only: a
// directory of this layer stays, and covers instead of merging.
func (u *unpacker) hide(p place) error {
	err := unix.Mknodat(p.dir, p.name, unix.S_IFCHR, 0)
	if err == nil {
		return u.mayHide(p)
	}
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(p.dir, p.name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil
	}
	return makeOpaque(fdPath(p.dir) + "/" + p.name)
}

// mayHide marks a directory as one with whiteouts. Of a directory that it does not merge, as no other layer has part in
// it, overlayfs would list them otherwise; to see a directory that was copied up, from where is not known, is what
// keeps it from that.
func (u *unpacker) mayHide(p place) error {
	dir := above(p.path)
	if dir == "." || dir == u.hiding {
		return nil
	}
	u.hiding = dir
	if err := unix.Setxattr(fdPath(p.dir), "trusted.overlay.origin", nil, 0); err != nil {
		return fmt.Errorf("mark a directory with whiteouts: %w", err)
	}
	return nil
}

func makeOpaque(path string) error {
	return unix.Setxattr(path, "trusted.overlay.opaque", []byte("y"), 0)
}

func isWhiteout(st unix.Stat_t) bool {
	return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
}

func whiteoutAt(dir int, name string) bool {
	var st unix.Stat_t
	return unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && isWhiteout(st)
}

// isOpaque reports whether a directory hides what the layers below have of it.
func isOpaque(fd int) (bool, error) {
	var buf [2]byte
	n, err := unix.Getxattr(fdPath(fd), "trusted.overlay.opaque", buf[:])
	switch {
	case errors.Is(err, unix.ENODATA), errors.Is(err, unix.ENOTSUP), errors.Is(err, unix.ERANGE):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("look whether a directory is opaque: %w", err)
	}
	return n == 1 && buf[0] == 'y', nil
}

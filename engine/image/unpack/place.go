package unpack

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"path"

	"golang.org/x/sys/unix"
)

// place is where an entry goes: a name in an open directory.
type place struct {
	dir  int
	name string
	path string // from the root, for what is done later
}

// clear makes room for an entry that is not a directory, and tells whether a
// whiteout was there. The directory p.dir stays open and in place: only what is below it goes.
func (u *unpacker) clear(p place) (whiteout bool, err error) {
	var st unix.Stat_t
	if err := unix.Fstatat(p.dir, p.name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return false, err
	}
	u.cleared, u.hiding = true, ""
	if err := u.dir.remove(p); err != nil {
		return false, fmt.Errorf("replace an earlier entry: %w", err)
	}
	return isWhiteout(st), nil
}

// create runs make, once more with the place cleared if something is there.
func (u *unpacker) create(p place, make func() error) error {
	err := make()
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	if _, err := u.clear(p); err != nil {
		return err
	}
	return make()
}

func (u *unpacker) file(ctx context.Context, p place, hdr *tar.Header, m meta) error {
	fd := -1
	err := u.create(p, func() (err error) {
		fd, err = unix.Openat(p.dir, p.name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC,
			m.mode&0o777)
		return err
	})
	if err != nil {
		return err
	}
	err = u.content(ctx, fd, hdr)
	if err == nil {
		_, err = u.applyTo(fd, m)
	}
	// Some filesystems report a failed write only here.
	if cerr := unix.Close(fd); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return unix.UtimesNanoAt(p.dir, p.name, m.times[:], unix.AT_SYMLINK_NOFOLLOW)
}

func (u *unpacker) content(ctx context.Context, fd int, hdr *tar.Header) error {
	sparse := hdr.Typeflag == tar.TypeGNUSparse || hdr.PAXRecords["GNU.sparse.major"] != "" ||
		hdr.PAXRecords["GNU.sparse.map"] != ""
	if err := u.fits(fd, hdr, sparse); err != nil {
		return err
	}
	if sparse { // an impossible size fails now, not after reading zeros for hours
		if err := unix.Ftruncate(fd, hdr.Size); err != nil {
			return fmt.Errorf("make a sparse file of %d bytes: %w", hdr.Size, err)
		}
	}
	var written int64
	for {
		n, err := u.tar.Read(u.buf)
		if n > 0 {
			if werr := writeAt(fd, u.buf[:n], written, sparse); werr != nil {
				return werr
			}
			written += int64(n)
			u.result.Size += int64(n)
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return u.readError(hdr.Name, err)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	u.dataEnd = u.in.n
	return nil
}

// maxHoles is how large the files of an archive with holes may be in all, in bytes: their zeros have to be gone
// through.
const maxHoles = 256 << 30

// checkedSize is from where on a file is compared with the space there is before it is read, in bytes.
const checkedSize = 1 << 20

// fits refuses a file that can be told not to fit before it is read.
func (u *unpacker) fits(fd int, hdr *tar.Header, sparse bool) error {
	if sparse {
		if u.holes += hdr.Size; u.holes > maxHoles || u.holes < 0 {
			return &EntryError{Entry: hdr.Name, Reason: fmt.Sprintf("has holes and is %d bytes large: files with "+
				"holes may have %d GiB in all", hdr.Size, maxHoles>>30), Remedy: "make the archive without it"}
		}
		return nil
	}
	var st unix.Statfs_t
	if hdr.Size < checkedSize || unix.Fstatfs(fd, &st) != nil {
		return nil
	}
	if free := int64(st.Bavail) * st.Bsize; hdr.Size > free {
		return fmt.Errorf("it has %d bytes, and %d are free: %w", hdr.Size, free, unix.ENOSPC)
	}
	return nil
}

// holeSize is the smallest run of zeros left out of a sparse file, in bytes.
const holeSize = 4096

var zeros [holeSize]byte

func writeAt(fd int, b []byte, at int64, sparse bool) error {
	for len(b) > 0 {
		chunk := b
		if sparse {
			chunk = b[:min(len(b), holeSize)]
			if string(chunk) == string(zeros[:len(chunk)]) {
				b, at = b[len(chunk):], at+int64(len(chunk))
				continue
			}
		}
		n, err := unix.Pwrite(fd, chunk, at)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		b, at = b[n:], at+int64(n)
	}
	return nil
}

func (u *unpacker) directory(p place, m meta) error {
	err := unix.Mkdirat(p.dir, p.name, m.mode&0o777)
	opaque := false
	if errors.Is(err, unix.EEXIST) {
		var st unix.Stat_t
		if err := unix.Fstatat(p.dir, p.name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			if opaque, err = u.clear(p); err != nil {
				return err
			}
			err = unix.Mkdirat(p.dir, p.name, m.mode&0o777)
		} else {
			err = nil
		}
	}
	if err != nil {
		return err
	}
	fd, err := unix.Openat(p.dir, p.name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	late := dirTime{path: p.path, times: m.times}
	if acl, ok := m.xattrs[defaultACL]; ok {
		late.acl = acl
		delete(m.xattrs, defaultACL)
	}
	ino, err := u.applyTo(fd, m)
	if err != nil {
		return err
	}
	if opaque {
		if err := makeOpaque(fdPath(fd)); err != nil {
			return err
		}
	}
	u.needs.named(ino)
	return u.later(late)
}

func (u *unpacker) symlink(p place, target string, m meta) error {
	if err := u.create(p, func() error { return unix.Symlinkat(target, p.dir, p.name) }); err != nil {
		return err
	}
	return u.applyAt(p, m)
}

func (u *unpacker) node(p place, kind uint32, m meta) error {
	if err := u.create(p, func() error { return unix.Mknodat(p.dir, p.name, kind|0o600, 0) }); err != nil {
		return err
	}
	if err := u.applyAt(p, m); err != nil {
		return err
	}
	return nil
}

func (u *unpacker) hardlink(p place, hdr *tar.Header) error {
	target, err := u.clean(hdr.Linkname, hdr.Name)
	if err != nil {
		return err
	}
	dir, err := u.dir.resolve(above(target))
	if errors.Is(err, unix.ENOENT) || u.opts.Layer && errors.Is(err, unix.ENOTDIR) {
		return u.linkBelow(p, target, hdr)
	}
	if err != nil {
		return parentError(hdr.Name, err)
	}
	defer unix.Close(dir)
	base := path.Base(target)
	if u.opts.Layer && whiteoutAt(dir, base) {
		return u.linkBelow(p, target, hdr)
	}
	err = unix.Linkat(dir, base, p.dir, p.name, 0)
	if errors.Is(err, unix.EEXIST) {
		if same(dir, base, p) {
			return nil
		}
		if _, err := u.clear(p); err != nil {
			return err
		}
		err = unix.Linkat(dir, base, p.dir, p.name, 0)
	}
	switch {
	case errors.Is(err, unix.ENOENT):
		return u.linkBelow(p, target, hdr)
	case errors.Is(err, unix.EPERM):
		return linkToDirectory(hdr.Name, hdr.Linkname)
	}
	return err
}

// linkBelow notes a link to what is not in the archive. A whole root filesystem has no layers below.
func (u *unpacker) linkBelow(p place, target string, hdr *tar.Header) error {
	if !u.opts.Layer {
		return linkToNothing(hdr.Name, hdr.Linkname)
	}
	if _, err := u.clear(p); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	dir, err := u.dir.realPath(p.dir, above(p.path))
	if err != nil {
		return err
	}
	return u.needs.link(path.Join(dir, p.name), target)
}

func linkToNothing(entry, target string) error {
	return &EntryError{Entry: entry,
		Reason: fmt.Sprintf("is a hard link to %q, which is not before it in the archive", target)}
}

func linkToDirectory(entry, target string) error {
	return &EntryError{Entry: entry, Reason: fmt.Sprintf("is a hard link to %q, which is a directory", target)}
}

// same reports whether two names are links to one file, which is as it should
// be: removing one for the other could remove both.
func same(dir int, name string, p place) bool {
	var a, b unix.Stat_t
	return unix.Fstatat(dir, name, &a, unix.AT_SYMLINK_NOFOLLOW) == nil &&
		unix.Fstatat(p.dir, p.name, &b, unix.AT_SYMLINK_NOFOLLOW) == nil &&
		a.Dev == b.Dev && a.Ino == b.Ino
}

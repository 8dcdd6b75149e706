package unpack

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// Options say how strict to be.
type Options struct {
	// Layer takes what layers of images built elsewhere hold: names with a
	// leading slash, which mean the same without it; overlayfs's own whiteouts (character
	// devices 0:0); hard links to what is below; no end-of-archive marker, as the diff ID proves completeness. What
	// both take becomes the same files: a root filesystem is the lowest layer of its image.
	Layer bool
}

// Result sums up what was unpacked.
type Result struct {
	Entries    int
	Size       int64 // bytes of content in regular files; holes count, hard links do not
	LostXattrs int   // extended attributes that the filesystem cannot keep
	Root       bool  // the archive names the root directory: it has the archive's owner and mode
	Needs      Needs // of the layers below
}

// copyBuffer is what is read and written at once, in bytes.
const copyBuffer = 256 << 10

// maxDirBytes bounds what is kept of directories until the end: their names, in bytes.
const maxDirBytes = 256 << 20

type unpacker struct {
	opts     Options
	dir      *tree
	in       *counter
	tar      *tar.Reader
	buf      []byte
	dirs     []dirTime
	holes    int64  // bytes of files with holes so far
	dirBytes int    // in the names in dirs
	cleared  bool   // something was replaced: not all of dirs are there
	hiding   string // the directory last marked as one with whiteouts; "" when it may be gone
	needs    needs
	times    [2]unix.Timespec // of the entry at hand, for directories made for it
	dataEnd  int64            // offset behind the last entry's content, padding included
	result   Result
}

// dirTime is a directory's time, which making its files would change, and its default ACL, which they would inherit.
type dirTime struct {
	path  string
	times [2]unix.Timespec
	acl   string
}

// Unpack unpacks an uncompressed tar into an empty directory. When it fails,
// the directory holds a part of it: the caller removes it. The error is an
// [EntryError], a [FormatError], or wraps an errno, what reading r gave, or the context's.
func Unpack(ctx context.Context, dir string, r io.Reader, o Options) (Result, error) {
	t, err := openTree(dir)
	if err != nil {
		return Result{}, err
	}
	defer t.close()
	in := &counter{r: r}
	u := &unpacker{opts: o, dir: t, in: in, tar: tar.NewReader(in), buf: make([]byte, copyBuffer)}
	t.made = u.implied
	if err := u.entries(ctx); err != nil {
		return u.result, err
	}
	if err := u.setDirTimes(); err != nil {
		return u.result, err
	}
	u.result.Needs = u.needs.result(t)
	return u.result, nil
}

func (u *unpacker) entries(ctx context.Context) error {
	last := ""
	for {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		hdr, err := u.tar.Next()
		if errors.Is(err, io.EOF) {
			return u.checkEnd(last)
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) { // paths are checked here, whatever GODEBUG says
			return u.readError(last, err)
		}
		u.dataEnd = u.in.n
		if err := u.entry(ctx, hdr); err != nil {
			return err
		}
		last = hdr.Name
	}
}

// checkEnd refuses an archive that ends without its two blocks of zeros: what
// wrote it died between two entries, perhaps.
func (u *unpacker) checkEnd(last string) error {
	if u.in.n == 0 {
		return notTar(nil, u.remedy())
	}
	if u.opts.Layer || u.in.n > (u.dataEnd+blockSize-1)/blockSize*blockSize {
		return nil
	}
	return &FormatError{
		Reason: fmt.Sprintf("is truncated: it ends after entry %q without an end-of-archive marker", last),
		Remedy: "make the archive again and check that the command writing it succeeds",
	}
}

const blockSize = 512

// remedy is what to do about what is no tar.
func (u *unpacker) remedy() string {
	if u.opts.Layer {
		return makeLayer
	}
	return makeTar
}

// readError tells a damaged or truncated archive from a reader that failed.
func (u *unpacker) readError(last string, err error) error {
	switch {
	case u.in.err != nil && !errors.Is(u.in.err, io.EOF) && !errors.Is(u.in.err, io.ErrUnexpectedEOF):
		return fmt.Errorf("read archive after entry %q: %w", last, u.in.err)
	case last == "" && u.in.n < blockSize:
		return notTar(u.in.head, u.remedy())
	case errors.Is(err, io.ErrUnexpectedEOF):
		return &FormatError{
			Reason: fmt.Sprintf("is truncated: it ends after %d bytes, in or behind entry %q", u.in.n, last),
			Remedy: "fetch or make the archive again",
		}
	case last == "":
		return notTar(u.in.head, u.remedy())
	default:
		return &FormatError{
			Reason: fmt.Sprintf("is damaged behind entry %q, near byte %d: %v", last, u.in.n, err),
			Remedy: "fetch or make the archive again",
		}
	}
}

func (u *unpacker) entry(ctx context.Context, hdr *tar.Header) error {
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := u.clean(hdr.Name, "")
	if err != nil {
		return err
	}
	u.result.Entries++
	if err := u.place(ctx, name, hdr); err != nil {
		if _, ok := errors.AsType[*EntryError](err); ok {
			return err
		}
		if _, ok := errors.AsType[*FormatError](err); ok {
			return err
		}
		return fmt.Errorf("unpack archive entry %q: %w", hdr.Name, err)
	}
	return nil
}

// clean checks a name of the archive and returns it relative to the root.
func (u *unpacker) clean(name, linkedBy string) (string, error) {
	refuse := func(reason, remedy string) error {
		if linkedBy != "" {
			return &EntryError{Entry: linkedBy, Reason: fmt.Sprintf("is a hard link to %q: %s", name, reason),
				Remedy: remedy}
		}
		return &EntryError{Entry: name, Reason: "has " + reason, Remedy: remedy}
	}
	rel := name
	if strings.HasPrefix(name, "/") {
		if !u.opts.Layer {
			return "", refuse("an absolute path", "make the archive with relative names: tar -C DIR -c .")
		}
		rel = strings.TrimLeft(name, "/")
	}
	for part := range strings.SplitSeq(rel, "/") {
		if part == ".." {
			return "", refuse("a path that climbs with '..'",
				"make the archive from inside the root filesystem: tar -C DIR -c .")
		}
	}
	return path.Clean(rel), nil
}

func (u *unpacker) place(ctx context.Context, name string, hdr *tar.Header) error {
	meta, err := metaOf(hdr)
	if err != nil {
		return err
	}
	if name == "." {
		if hdr.Typeflag != tar.TypeDir {
			return &EntryError{Entry: hdr.Name, Reason: "is the root of the filesystem and not a directory"}
		}
		u.result.Root = true
		return u.directory(place{dir: u.dir.root, name: ".", path: "."}, meta)
	}
	u.times = meta.times
	parent, err := u.dir.parent(above(name))
	if err != nil {
		return parentError(hdr.Name, err)
	}
	p := place{dir: parent, name: path.Base(name), path: name}
	if white, ok := strings.CutPrefix(p.name, whiteoutPrefix); ok {
		return u.whiteout(p, white, hdr.Name)
	}
	switch hdr.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeCont:
		return u.file(ctx, p, hdr, meta)
	case tar.TypeDir:
		return u.directory(p, meta)
	case tar.TypeSymlink:
		return u.symlink(p, hdr.Linkname, meta)
	case tar.TypeLink:
		return u.hardlink(p, hdr)
	case tar.TypeFifo:
		return u.node(p, unix.S_IFIFO, meta)
	case tar.TypeChar, tar.TypeBlock:
		return u.device(p, hdr)
	default:
		return &EntryError{Entry: hdr.Name, Reason: fmt.Sprintf("is of type %q, which no root filesystem holds",
			hdr.Typeflag)}
	}
}

func parentError(entry string, err error) error {
	switch {
	case errors.Is(err, unix.ENOTDIR):
		return &EntryError{Entry: entry, Reason: "is below something that is not a directory"}
	case errors.Is(err, unix.ELOOP):
		return &EntryError{Entry: entry, Reason: "is behind a loop of symbolic links"}
	}
	return err
}

// device leaves device nodes out: containers get a /dev of their own, and a node
// in a layer would be a way to the host's devices. What a lower layer has in its
// place is hidden.
func (u *unpacker) device(p place, hdr *tar.Header) error {
	if whiteout := hdr.Typeflag == tar.TypeChar && hdr.Devmajor == 0 && hdr.Devminor == 0; whiteout && !u.opts.Layer {
		return &EntryError{
			Entry:  hdr.Name,
			Reason: "is a device node (character 0:0), by which overlayfs says that a file was removed",
			Remedy: "archive the mounted root filesystem, not overlayfs's directories",
		}
	}
	return u.hide(p)
}

// implied notes a directory that the tree made for the entry at hand. It has the entry's times until it is named.
func (u *unpacker) implied(fd int, real string, fresh bool) error {
	if err := u.later(dirTime{path: real, times: u.times}); err != nil || fresh {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	return u.needs.imply(st.Ino, real)
}

// later notes what is done to a directory at the end.
func (u *unpacker) later(d dirTime) error {
	if u.dirBytes += len(d.path) + len(d.acl) + 1; u.dirBytes > maxDirBytes {
		return &EntryError{Entry: d.path, Reason: fmt.Sprintf("is one directory too many: their names may have %d MiB",
			maxDirBytes>>20)}
	}
	u.dirs = append(u.dirs, d)
	return nil
}

// setDirTimes goes in the archive's order: the last of a directory's entries counts. Later entries may have put
// something else in its place, or in that of one above it.
func (u *unpacker) setDirTimes() error {
	for _, d := range u.dirs {
		if err := u.setLate(d); err != nil {
			return fmt.Errorf("set times of directory %q: %w", d.path, err)
		}
	}
	return nil
}

func (u *unpacker) setLate(d dirTime) error {
	parent, err := u.dir.existing(above(d.path))
	if missing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	p := place{dir: parent, name: path.Base(d.path)}
	if u.cleared && !isDirectory(p) {
		return nil
	}
	if d.acl != "" {
		err := unix.Lsetxattr(fdPath(p.dir)+"/"+p.name, defaultACL, []byte(d.acl), 0)
		if err := u.keepXattr(defaultACL, err); err != nil {
			return err
		}
	}
	return unix.UtimesNanoAt(p.dir, p.name, d.times[:], unix.AT_SYMLINK_NOFOLLOW)
}

func isDirectory(p place) bool {
	var st unix.Stat_t
	return unix.Fstatat(p.dir, p.name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR
}

// counter counts what is read, and keeps the first block.
type counter struct {
	r    io.Reader
	n    int64
	head []byte
	err  error // of the last read
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if want := blockSize - len(c.head); want > 0 {
		c.head = append(c.head, p[:min(n, want)]...)
	}
	c.n += int64(n)
	c.err = err
	return n, err
}

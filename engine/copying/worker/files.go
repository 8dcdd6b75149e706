package worker

import (
	"archive/tar"
	"bufio"
	"compress/bzip2"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cyphar/filepath-securejoin"
	"github.com/klauspost/compress/zstd"
	"github.com/moby/go-archive"
	"github.com/moby/go-archive/compression"
	"github.com/moby/sys/user"
	"github.com/therootcompany/xz"
	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/engine/copying"
)

// errPath marks failures to find what a request is about.
var errPath = errors.New("path")

// inContainer is a path as it is asked for, from the root. A trailing dot or slash says that a link at its end is
// to be followed.
func inContainer(path string) string {
	return archive.PreserveTrailingDotOrSeparator(filepath.Join("/", path), path)
}

// stat describes a file; a link at the end of its path is not followed.
func stat(asked string) (copying.Stat, error) {
	path := inContainer(asked)
	info, err := os.Lstat(path)
	if err != nil {
		return copying.Stat{}, fmt.Errorf("%w: %w", errPath, err)
	}
	st := copying.Stat{Name: filepath.Base(path), Size: info.Size(), Mode: info.Mode(), Modified: info.ModTime()}
	if info.Mode()&fs.ModeSymlink != 0 {
		if st.LinkTarget, err = securejoin.SecureJoin("/", path); err != nil {
			return copying.Stat{}, err
		}
	}
	return st, nil
}

// pack writes a tar of a file or directory.
func (w work) pack() error {
	st, err := stat(w.Path)
	if err != nil {
		return err
	}
	path := inContainer(w.Path)
	dir, base := path, "."
	if !st.Mode.IsDir() {
		dir, base = filepath.Split(path)
	}
	o := archive.TarResourceRebaseOpts(base, filepath.Base(path))
	if err := w.reply(st); err != nil {
		return err
	}
	files, err := archive.TarWithOptions(dir, o)
	if err != nil {
		return err
	}
	defer files.Close()
	last := &tail{}
	if w.IDMap == nil {
		_, err = io.Copy(io.MultiWriter(w.out, last), w.watch.whileRead(files))
	} else {
		err = w.mapped(io.MultiWriter(w.out, last), w.watch.whileRead(files))
	}
	if err != nil {
		return err
	}
	if err := w.out.Close(); err != nil {
		return err
	}
	if !last.whole() { // the library only logs why
		return errors.New("a file changed while it was read, and the archive is not whole: try again")
	}
	return w.reply(copying.Stat{})
}

// nobody owns in a user namespace what none of its users does.
const nobody = 65534

// mapped copies a tar with the owners as the container sees them. The library leaves out a file whose owner it does not
// see.
func (w work) mapped(out io.Writer, files io.Reader) error {
	own := func(id int) int {
		if first := int(w.IDMap.HostID); id >= first && id-first < int(w.IDMap.Size) {
			return id - first
		}
		return nobody
	}
	r, t := tar.NewReader(files), tar.NewWriter(out)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return t.Close()
		}
		if err != nil {
			return err
		}
		h.Uid, h.Gid = own(h.Uid), own(h.Gid)
		if err := t.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(t, r); err != nil {
			return err
		}
	}
}

// tail keeps the end of a tar, which two blocks of zeros are.
type tail struct{ end []byte }

const endOfTar = 1024

func (t *tail) Write(b []byte) (int, error) {
	t.end = append(t.end, b[max(0, len(b)-endOfTar):]...)
	t.end = t.end[max(0, len(t.end)-endOfTar):]
	return len(b), nil
}

func (t *tail) whole() bool {
	return len(t.end) == endOfTar && strings.Trim(string(t.end), "\x00") == ""
}

// unpack unpacks a tar into a directory.
func (w work) unpack(packed io.Reader) error {
	dir, err := filepath.EvalSymlinks(filepath.Join("/", w.Path))
	if err != nil {
		return fmt.Errorf("%w: %w", errPath, err)
	}
	switch info, err := os.Stat(dir); {
	case err != nil:
		return fmt.Errorf("%w: %w", errPath, err)
	case !info.IsDir():
		return &copying.Error{Code: copying.CodeInvalid, Message: "extraction point is not a directory"}
	}
	if err := writable(dir); err != nil {
		return err
	}
	o := &archive.TarOptions{NoOverwriteDirNonDir: w.NoOverwriteDir, InUserNS: w.IDMap != nil, BestEffortXattrs: true}
	if w.KeepOwners {
		o.IDMap = w.identities()
	} else { // whoever they belong to where they come from; this process is the container's root
		o.ChownOpts = &archive.ChownOpts{UID: os.Geteuid(), GID: os.Getegid()}
	}
	err = archive.UntarUncompressed(w.watch.betweenReads(packed), dir, o)
	w.watch.end()
	if err != nil && blames(err) {
		return &copying.Error{Code: copying.CodeInvalid, Message: err.Error()}
	}
	return err
}

// blames reports whether it is the archive that cannot be unpacked. Some of that the library says in words alone.
func blames(err error) bool {
	words := []string{"cannot overwrite ", "invalid entry name", "invalid hardlink target", "path escapes from parent"}
	return errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF) ||
		slices.ContainsFunc(words, func(w string) bool { return strings.Contains(err.Error(), w) })
}

// writable refuses a directory that nothing can be written to, in the words that clients know.
func writable(dir string) error {
	var at, root unix.Statx_t
	var how unix.Statfs_t
	if err := errors.Join(unix.Statfs(dir, &how), unix.Statx(unix.AT_FDCWD, dir, 0, unix.STATX_MNT_ID, &at),
		unix.Statx(unix.AT_FDCWD, "/", 0, unix.STATX_MNT_ID, &root)); err != nil {
		return &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	switch {
	case how.Flags&unix.ST_RDONLY == 0:
		return nil
	case at.Mnt_id == root.Mnt_id:
		return &copying.Error{Code: copying.CodeReadOnly, Message: "container rootfs is marked read-only"}
	}
	return &copying.Error{Code: copying.CodeReadOnly, Message: "mounted volume is marked read-only"}
}

func (w work) identities() user.IdentityMapping {
	if w.IDMap == nil {
		return user.IdentityMapping{}
	}
	ids := []user.IDMap{{ID: 0, ParentID: int64(w.IDMap.HostID), Count: int64(w.IDMap.Size)}}
	return user.IdentityMapping{UIDMaps: ids, GIDMaps: ids}
}

// The most that decompressing may keep of a stream, in bytes.
const (
	zstdWindow    = 128 << 20
	xzDictionary  = 64 << 20
	longestMagic  = 16
	readBuffering = 64 << 10
)

// decompress tells by its beginning how a stream is compressed. It is done here, before the container's files are the
// root: the library would run programs for it, which would be the container's.
func decompress(in io.Reader) (io.Reader, error) {
	r := bufio.NewReaderSize(in, readBuffering)
	magic, err := r.Peek(longestMagic)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch compression.Detect(magic) {
	case compression.None:
		return r, nil
	case compression.Gzip:
		return gzip.NewReader(r)
	case compression.Bzip2:
		return bzip2.NewReader(r), nil
	case compression.Zstd:
		return zstd.NewReader(r, zstd.WithDecoderMaxWindow(zstdWindow), zstd.WithDecoderConcurrency(1))
	case compression.Xz:
		return xz.NewReader(r, xzDictionary)
	}
	return nil, errors.New("the archive is compressed in a way that is not known")
}

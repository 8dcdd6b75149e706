package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/engine/image/unpack"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// archive is what a tar has, in a temporary directory, with a table of the files in it.
type archive struct {
	c       *content
	dir     string
	small   *os.File // files one behind the other
	end     int64    // bytes in it
	parts   map[string]member
	links   map[string]string // of 'docker save': layers that are the same
	configs int               // bytes read
	// subjects are the manifests of an index.json that refer to another one, by its digest.
	subjects map[v1.Hash][]v1.Descriptor
}

// member is a file of an archive: a part of [archive.small], or a file of its own.
type member struct {
	file     string
	at, size int64
}

// saveArchive is what to do about what is no tar.
const saveArchive = "name what 'net save', 'docker save', 'podman save' or 'skopeo copy' has written, or an OCI " +
	"image layout in a tar"

// maxParts bounds the table: an image archive has a few files a layer.
const maxParts = 100_000

// ownFile is how large a blob of an OCI layout is that gets a file of its own, in bytes: it is handed over to the store
// instead of being written twice.
const ownFile = 64 << 10

// spool reads a tar, which may be compressed, to its end: blobs come in no useful order, and manifests often last.
func (c *content) spool(ctx context.Context, r io.Reader) (a *archive, err error) {
	a = &archive{c: c, parts: map[string]member{}, links: map[string]string{}, subjects: map[v1.Hash][]v1.Descriptor{}}
	if a.dir, err = c.makeDir("archive-"); err != nil {
		return nil, fmt.Errorf("make temporary directory: %w", diskError(c.root, err))
	}
	defer func() {
		if err != nil {
			err = errors.Join(diskError(c.root, err), a.close())
			a = nil
		}
	}()
	if a.small, err = c.makeFile(a.dir, "small-"); err != nil {
		return a, fmt.Errorf("make temporary file: %w", err)
	}
	s := openStream(ctx, r, c.space(), nil)
	defer s.close()
	in := &headReader{r: s}
	if err := a.index(in); err != nil {
		if in.failed != nil {
			return a, fmt.Errorf("spool archive to %s: %w", c.tmp(), in.failed)
		}
		return a, err
	}
	if _, _, err := s.digest(); err != nil {
		return a, err
	}
	return a, nil
}

// close removes what was spooled.
func (a *archive) close() error {
	var err error
	if a.small != nil {
		err = a.small.Close()
	}
	return errors.Join(err, os.RemoveAll(a.dir))
}

// headReader keeps the start of what is read, which tells what it is, and the error by which it ended early.
type headReader struct {
	r      io.Reader
	head   []byte
	failed error
}

// Read implements [io.Reader].
func (h *headReader) Read(p []byte) (int, error) {
	n, err := h.r.Read(p)
	h.head = append(h.head, p[:min(n, max(0, 512-len(h.head)))]...)
	if err != nil && !errors.Is(err, io.EOF) {
		h.failed = err
	}
	return n, err
}

func (a *archive) index(in *headReader) error {
	t := tar.NewReader(in)
	for {
		hdr, err := t.Next()
		if errors.Is(err, io.EOF) && len(in.head) > 0 {
			return nil
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return unpack.DescribeTarError(bytes.NewReader(in.head), err, saveArchive)
		}
		if n := max(len(hdr.Name), len(hdr.Linkname)); n > maxText {
			return tooMany("bytes in the name of a file", n, maxText)
		}
		name := path.Clean("/" + hdr.Name)
		switch hdr.Typeflag {
		case tar.TypeReg:
			if err := a.keep(name, hdr.Size, t); err != nil {
				if in.failed == nil {
					err = unpack.DescribeTarError(bytes.NewReader(in.head), err, saveArchive)
				}
				return err
			}
		case tar.TypeSymlink:
			a.links[name] = path.Join(path.Dir(name), hdr.Linkname)
		case tar.TypeLink:
			a.links[name] = path.Clean("/" + hdr.Linkname)
		}
		if len(a.parts)+len(a.links) > maxParts {
			return &unpack.FormatError{Reason: "holds too many files for an image archive",
				Remedy: "bring a root filesystem in with 'net import'"}
		}
	}
}

// keep writes a file of the archive down.
func (a *archive) keep(name string, size int64, r io.Reader) error {
	m := member{at: a.end}
	out := a.small
	if size >= ownFile && strings.HasPrefix(name, "/blobs/") {
		f, err := a.c.makeFile(a.dir, "blob-")
		if err != nil {
			return err
		}
		m = member{file: f.Name()}
		out = f
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{out}, r, make([]byte, copyBuffer))
	if m.file != "" {
		err = errors.Join(err, out.Close())
	} else {
		a.end += n
	}
	if err != nil {
		return fmt.Errorf("spool archive to %s: %w", a.c.tmp(), err)
	}
	m.size = n
	a.parts[name] = m
	return nil
}

// part returns a file of the archive.
func (a *archive) part(name string) (member, error) {
	at := path.Clean("/" + name)
	for range 8 {
		if p, ok := a.parts[at]; ok {
			return p, nil
		}
		target, ok := a.links[at]
		if !ok {
			break
		}
		at = target
	}
	return member{}, &unpack.FormatError{Reason: fmt.Sprintf("lacks the file %s, which its manifest names", name),
		Remedy: "make the archive again"}
}

func (a *archive) has(name string) bool {
	_, err := a.part(name)
	return err == nil
}

// open opens a file of the archive at an offset in bytes.
func (a *archive) open(m member, offset int64) (io.ReadCloser, error) {
	if m.file == "" {
		offset = min(offset, m.size)
		return io.NopCloser(io.NewSectionReader(a.small, m.at+offset, m.size-offset)), nil
	}
	f, err := os.Open(m.file)
	if err == nil {
		if _, err = f.Seek(offset, io.SeekStart); err != nil {
			err = errors.Join(err, f.Close())
		}
	}
	if err != nil {
		return nil, fmt.Errorf("read spooled archive: %w", err)
	}
	return f, nil
}

// give has a blob of the archive be what was fetched of it, without its bytes being written again. Where the filesystem
// has no hard links, or the blob is not as it should be, nothing is done, and it is read like any other.
func (a *archive) give(d v1.Descriptor, to string) error {
	m, err := a.part(blobPath(d.Digest))
	if err != nil || m.file == "" || m.size != d.Size {
		return nil
	}
	if err := ignoreMissing(a.c.remove(to)); err != nil {
		return err
	}
	err = os.Link(m.file, to)
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EMLINK) {
		return nil
	}
	return err
}

// maxDocument is the largest manifest read, in bytes; registries refuse larger ones.
const maxDocument = 4 << 20

// config returns a configuration. All of an archive are in memory at once, to be checked before the first is used.
func (a *archive) config(name string) ([]byte, error) {
	raw, err := a.document(name, maxConfig)
	if a.configs += len(raw); err == nil && a.configs > maxConfigs {
		err = tooMany("bytes of configurations in all", a.configs, maxConfigs)
	}
	return raw, err
}

// document returns a small file.
func (a *archive) document(name string, limit int64) ([]byte, error) {
	p, err := a.part(name)
	if err != nil {
		return nil, err
	}
	if p.size > limit {
		return nil, &unpack.FormatError{
			Reason: fmt.Sprintf("has a manifest or configuration %s of %d bytes, and the limit is %d", name, p.size,
				limit)}
	}
	r, err := a.open(p, 0)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"

	"github.com/vethloom/vethloom/engine/image/unpack"
)

// archive is a tar in a temporary file, with a table of the files in it.
type archive struct {
	file    *os.File
	parts   map[string]*io.SectionReader
	links   map[string]string // of 'docker save': layers that are the same
	configs int               // bytes read
}

// maxParts bounds the table: an image archive has a few files a layer.
const maxParts = 100_000

// spool writes a stream, decompressed, to a temporary file, and reads its
// table: blobs come in no useful order, and manifests often last.
func (c *content) spool(ctx context.Context, r io.Reader) (a *archive, err error) {
	f, err := os.CreateTemp(c.tmp(), "archive-")
	if err != nil {
		return nil, fmt.Errorf("make temporary file: %w", diskError(c.root, err))
	}
	a = &archive{file: f, parts: map[string]*io.SectionReader{}, links: map[string]string{}}
	defer func() {
		if err != nil {
			err = errors.Join(diskError(c.root, err), a.close())
			a = nil
		}
	}()
	s := openStream(ctx, r, c.space(), nil)
	defer s.close()
	if _, err := io.CopyBuffer(struct{ io.Writer }{f}, s, make([]byte, sourceBuffer)); err != nil {
		return a, fmt.Errorf("spool archive to %s: %w", c.tmp(), err)
	}
	return a, a.index(ctx)
}

// close removes the temporary file.
func (a *archive) close() error {
	return errors.Join(a.file.Close(), os.Remove(a.file.Name()))
}

func (a *archive) index(ctx context.Context) error {
	if _, err := a.file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	t := tar.NewReader(a.file) // it seeks over the content
	for {
		hdr, err := t.Next()
		if errors.Is(err, io.EOF) {
			return a.notEmpty()
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return unpack.DescribeTarError(a.file, err)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if n := max(len(hdr.Name), len(hdr.Linkname)); n > maxText {
			return tooMany("bytes in the name of a file", n, maxText)
		}
		name := path.Clean("/" + hdr.Name)
		switch hdr.Typeflag {
		case tar.TypeReg:
			at, err := a.file.Seek(0, io.SeekCurrent)
			if err != nil {
				return err
			}
			a.parts[name] = io.NewSectionReader(a.file, at, hdr.Size)
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

// notEmpty refuses what a failed command left: no bytes at all, which is no
// error to a reader of tars.
func (a *archive) notEmpty() error {
	st, err := a.file.Stat()
	if err == nil && st.Size() == 0 {
		return unpack.DescribeTarError(a.file, io.EOF)
	}
	return err
}

// part returns a file of the archive.
func (a *archive) part(name string) (*io.SectionReader, error) {
	at := path.Clean("/" + name)
	for range 8 {
		if p := a.parts[at]; p != nil {
			return io.NewSectionReader(p, 0, p.Size()), nil
		}
		target, ok := a.links[at]
		if !ok {
			break
		}
		at = target
	}
	return nil, &unpack.FormatError{Reason: fmt.Sprintf("lacks the file %s, which its manifest names", name),
		Remedy: "make the archive again"}
}

func (a *archive) has(name string) bool {
	_, err := a.part(name)
	return err == nil
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
	if p.Size() > limit {
		return nil, &unpack.FormatError{
			Reason: fmt.Sprintf("has a manifest or configuration %s of %d bytes, and the limit is %d", name, p.Size(),
				limit)}
	}
	return io.ReadAll(p)
}

package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/engine/image/unpack"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// opener opens a blob at an offset in bytes.
type opener func(ctx context.Context, offset int64) (io.ReadCloser, error)

// giver has a blob be in a file, as if it had been fetched there, where that costs nothing; nil for no such thing. It
// is not verified.
type giver func(d v1.Descriptor, file string) error

// fetch reads a blob: what the disk has of it first, then the rest from where it comes from, which it writes down. Its
// bytes are to be trusted when verify has returned nil.
type fetch struct {
	c      *content
	ctx    context.Context
	want   v1.Descriptor
	file   *os.File
	stored bool   // the file is the blob itself
	layer  bool   // it is a registry's layer: gzip, zstd or nothing
	head   []byte // the first bytes of a layer
	have   int64  // bytes that the file had when it was opened
	at     int64  // bytes read
	open   opener
	body   io.ReadCloser
	sum    hash.Hash
	room   *space
	report func(at int64)
	failed error // of the source or of the disk, and not of what was read
}

// startFetch opens the file that a blob is fetched into, or the blob itself where it is there already. The caller has
// the blob's turn.
func (c *content) startFetch(ctx context.Context, want v1.Descriptor, open opener, room *space,
	report func(at int64)) (*fetch, error) {
	f := &fetch{c: c, ctx: ctx, want: want, open: open, sum: sha256.New(), room: room, report: report}
	var err error
	if f.file, f.have, err = c.openBlob(want.Digest); err == nil && f.have == want.Size {
		f.open, f.stored = nil, true
		return f, nil
	}
	if f.file != nil {
		f.file.Close() // it has another size, and is replaced
	}
	if err = c.step("fetch blob " + want.Digest.Hex); err == nil {
		f.file, err = os.OpenFile(c.ingest(want.Digest), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("fetch blob %s: %w", want.Digest, diskError(c.root, err))
	}
	st, err := f.file.Stat()
	if err == nil && st.Size() > want.Size {
		err = f.file.Truncate(0)
		st, err = f.restat(err)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("fetch blob %s: %w", want.Digest, err), f.file.Close())
	}
	f.have = st.Size()
	return f, nil
}

func (f *fetch) restat(err error) (fs.FileInfo, error) {
	if err != nil {
		return nil, err
	}
	return f.file.Stat()
}

// Read implements [io.Reader]. It ends with io.EOF after the size that is wanted, and never before.
func (f *fetch) Read(p []byte) (n int, err error) {
	left := f.want.Size - f.at
	if left <= 0 {
		return 0, io.EOF
	}
	if int64(len(p)) > left {
		p = p[:left]
	}
	if f.at < f.have {
		n, err = f.file.ReadAt(p[:min(int64(len(p)), f.have-f.at)], f.at)
		if n > 0 || errors.Is(err, io.EOF) {
			err = nil
		}
	} else {
		n, err = f.readSource(p)
	}
	if err == nil {
		err = f.checkHead(p[:n])
	}
	f.sum.Write(p[:n])
	f.at += int64(n)
	if f.report != nil && n > 0 {
		f.report(f.at)
	}
	if err != nil {
		f.failed = err
	}
	return n, err
}

// checkHead refuses layers that are compressed as no registry's are: a few bytes of xz can ask for gigabytes of memory.
func (f *fetch) checkHead(b []byte) error {
	if !f.layer || len(f.head) >= len(xzMagic) {
		return nil
	}
	f.head = append(f.head, b[:min(len(b), len(xzMagic)-len(f.head))]...)
	if string(f.head) != xzMagic {
		return nil
	}
	return &unpack.FormatError{Reason: "is compressed with xz, and layers are with gzip, zstd or not at all",
		Remedy: "have the image made again with one of these"}
}

// readSource reads from where the blob comes from, and writes what it gives down.
func (f *fetch) readSource(p []byte) (n int, err error) {
	if f.open == nil {
		return 0, fmt.Errorf("blob %s ends after %d of %d bytes", f.want.Digest, f.at, f.want.Size)
	}
	if f.body == nil {
		if f.body, err = f.open(f.ctx, f.at); err != nil {
			return 0, err
		}
	}
	n, err = f.body.Read(p)
	if n > 0 {
		if werr := f.room.take(n); werr != nil {
			return 0, werr
		}
		if werr := f.write(p[:n]); werr != nil {
			return 0, fmt.Errorf("write blob %s: %w", f.want.Digest, diskError(f.room.root, werr))
		}
	}
	switch {
	case n > 0 && errors.Is(err, io.EOF):
		err = nil // the next read tells, if there is to be more
	case errors.Is(err, io.EOF):
		err = &unpack.FormatError{Reason: fmt.Sprintf("blob %s ends after %d bytes, and %d were promised",
			f.want.Digest, f.at, f.want.Size), Remedy: "try again; if it stays, it is damaged where it comes from"}
	}
	return n, err
}

func (f *fetch) write(p []byte) error {
	if err := f.c.step("write blob " + f.want.Digest.Hex); err != nil {
		return err
	}
	_, err := f.file.WriteAt(p, f.at)
	return err
}

// verify reads what is left, and compares the whole with the digest.
func (f *fetch) verify() error {
	if f.failed != nil {
		return f.failed
	}
	if f.at == f.want.Size {
		return f.compare()
	}
	if _, err := io.CopyBuffer(io.Discard, struct{ io.Reader }{f}, make([]byte, copyBuffer)); err != nil {
		return err
	}
	return f.compare()
}

func (f *fetch) compare() error {
	if got := hex.EncodeToString(f.sum.Sum(nil)); got != f.want.Digest.Hex {
		return &mismatchError{want: f.want.Digest, got: got}
	}
	return nil
}

// close gives back what the fetch holds. What was written stays.
func (f *fetch) close() error {
	if f.body != nil {
		f.body.Close()
	}
	return f.file.Close()
}

// mismatchError says that a blob is not what its digest says.
type mismatchError struct {
	want v1.Hash
	got  string
}

func (e *mismatchError) Error() string {
	return fmt.Sprintf("the blob does not match its digest: it should be %s and is sha256:%s; it is damaged or was "+
		"tampered with where it comes from: fetch or make the image again", e.want, e.got)
}

// Unwrap makes it an error about what was read.
func (e *mismatchError) Unwrap() error {
	return &unpack.FormatError{Reason: "does not match its digest"}
}

// drop forgets what a fetch has read that came to nothing. A blob that is there goes when it is damaged alone: other
// images have it, and it is not its fault that a manifest tells lies about it. Nor does what another operation has
// verified, and is about to publish.
func (c *content) drop(f *fetch, p *pin, damaged bool) error {
	file := c.ingest(f.want.Digest)
	switch {
	case damaged:
		p.verified = false
	case f.stored || p.verified:
		return nil
	}
	if f.stored {
		file = c.blob(f.want.Digest)
	}
	if err := ignoreMissing(c.remove(file)); err != nil {
		return fmt.Errorf("remove what was fetched of blob %s: %w", f.want.Digest, err)
	}
	return nil
}

// forget removes what was fetched of layers, unless another operation is at it.
func (c *content) forget(layers []source) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range layers {
		if l.blob.Digest.Hex == "" || c.pins[pinKey(pinBlob, l.blob.Digest.Hex)] != nil {
			continue
		}
		if err := ignoreMissing(c.remove(c.ingest(l.blob.Digest))); err != nil {
			return fmt.Errorf("remove what was fetched: %w", err)
		}
	}
	return nil
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

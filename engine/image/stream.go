package image

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/vethloom/vethloom/cnm"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// compressions are told by how a stream starts, whatever the file's name.
var compressions = []struct {
	name  string
	magic []byte
	open  func(io.Reader) (io.ReadCloser, error)
}{
	{"gzip", []byte{0x1f, 0x8b}, func(r io.Reader) (io.ReadCloser, error) { return gzip.NewReader(r) }},
	{"zstd", []byte{0x28, 0xb5, 0x2f, 0xfd}, openZstd},
	{"xz", []byte(xzMagic), func(r io.Reader) (io.ReadCloser, error) {
		d, err := xz.NewReader(r)
		return io.NopCloser(d), err
	}},
	{"bzip2", []byte("BZh"), func(r io.Reader) (io.ReadCloser, error) { return io.NopCloser(bzip2.NewReader(r)), nil }},
}

// xzMagic is how xz begins, see the .xz file format, 2.1.1.1.
const xzMagic = "\xfd7zXZ\x00"

// zstdWindow is the most memory one stream may ask for, in bytes: what the
// zstd command takes without --long.
const zstdWindow = 128 << 20

func openZstd(r io.Reader) (io.ReadCloser, error) {
	d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(zstdWindow))
	if err != nil {
		return nil, err
	}
	return d.IOReadCloser(), nil
}

// sourceBuffer is read from the source at once, in bytes.
const sourceBuffer = 256 << 10

// decompress returns the stream as it was before compression.
func decompress(r io.Reader) (io.ReadCloser, error) {
	b := bufio.NewReaderSize(r, sourceBuffer)
	head, err := b.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	for _, c := range compressions {
		if !bytes.HasPrefix(head, c.magic) {
			continue
		}
		d, err := c.open(b)
		if err != nil {
			return nil, &damagedError{format: c.name, cause: err}
		}
		return &decompressor{ReadCloser: d, format: c.name}, nil
	}
	return io.NopCloser(b), nil
}

// decompressor names the format in errors, and tells a compressed stream that
// is cut short from one that contains a tar that is.
type decompressor struct {
	io.ReadCloser
	format string
}

func (d *decompressor) Read(p []byte) (int, error) {
	n, err := d.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = &damagedError{format: d.format, cause: err}
	}
	return n, err
}

// damagedError deliberately does not unwrap to io.ErrUnexpectedEOF, which
// means something else to the reader of the tar inside.
type damagedError struct {
	format string
	cause  error
}

func (e *damagedError) Error() string {
	if errors.Is(e.cause, io.ErrUnexpectedEOF) {
		return fmt.Sprintf("the %s data is truncated; fetch or make the archive again", e.format)
	}
	return fmt.Sprintf("the %s data cannot be decompressed: %v; fetch or make the archive again", e.format, e.cause)
}

func (e *damagedError) Unwrap() []error {
	if errors.Is(e.cause, io.ErrUnexpectedEOF) {
		return []error{cnm.ErrInvalid}
	}
	return []error{cnm.ErrInvalid, e.cause}
}

// Sizes of what may wait between the source and its consumer.
const (
	chunkSize  = 512 << 10 // bytes
	chunkCount = 4
)

type chunk struct {
	data []byte
	err  error
}

// stream reads, decompresses and digests in a goroutine of its own, while its
// consumer writes files.
type stream struct {
	ctx    context.Context
	full   chan chunk
	free   chan []byte
	stop   context.CancelFunc
	done   chan struct{}
	sum    hash.Hash
	size   int64
	rest   []byte
	buf    []byte // rest is a part of it
	err    error
	source io.Reader
	room   *space
	tap    io.Writer // where the decompressed stream goes besides; nil for nowhere
}

// openStream starts reading. A Read of the source that never returns keeps
// close waiting: the caller that passes the source ends it with the context.
func openStream(ctx context.Context, source io.Reader, room *space, tap io.Writer) *stream {
	ctx, stop := context.WithCancel(ctx)
	s := &stream{
		ctx: ctx, stop: stop, source: source, room: room, tap: tap, sum: sha256.New(),
		full: make(chan chunk, chunkCount), free: make(chan []byte, chunkCount), done: make(chan struct{}),
	}
	for range chunkCount {
		s.free <- make([]byte, chunkSize)
	}
	go s.run()
	return s
}

func (s *stream) run() {
	defer close(s.done)
	defer close(s.full)
	in, err := decompress(s.source)
	if err != nil {
		s.full <- chunk{err: err}
		return
	}
	defer in.Close()
	for {
		var buf []byte
		select {
		case buf = <-s.free:
		case <-s.ctx.Done():
			return
		}
		n, err := fill(in, buf)
		s.sum.Write(buf[:n])
		s.size += int64(n)
		if s.tap != nil {
			if _, terr := s.tap.Write(buf[:n]); terr != nil {
				n, err = 0, terr
			}
		}
		if full := s.room.take(n); full != nil && (err == nil || errors.Is(err, io.EOF)) {
			n, err = 0, full
		}
		select {
		case s.full <- chunk{data: buf[:n], err: err}:
		case <-s.ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

// fill reads until the buffer is full or the source fails; unlike
// io.ReadFull it passes the source's error on as it is.
func fill(r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var m int
		m, err = r.Read(buf[n:])
		n += m
	}
	return n, err
}

func (s *stream) Read(p []byte) (int, error) {
	for len(s.rest) == 0 {
		if s.buf != nil {
			s.free <- s.buf[:cap(s.buf)] // never blocks: there is room for every buffer
			s.buf = nil
		}
		if s.err != nil {
			return 0, s.err
		}
		select {
		case c, ok := <-s.full:
			if !ok {
				s.err = io.EOF
				if s.ctx.Err() != nil {
					s.err = context.Cause(s.ctx)
				}
				continue
			}
			s.rest, s.buf, s.err = c.data, c.data, c.err
		case <-s.ctx.Done():
			return 0, context.Cause(s.ctx)
		}
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// digest reads the rest, padding behind the archive's end, and returns the
// digest of all there was.
func (s *stream) digest() (v1.Hash, int64, error) {
	if _, err := io.Copy(io.Discard, s); err != nil {
		return v1.Hash{}, 0, fmt.Errorf("read behind the end of the archive: %w", err)
	}
	<-s.done
	return v1.Hash{Algorithm: "sha256", Hex: fmt.Sprintf("%x", s.sum.Sum(nil))}, s.size, nil
}

// close ends the goroutine and waits for it.
func (s *stream) close() {
	s.stop()
	<-s.done
}

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
	"runtime/debug"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/therootcompany/xz"
	"golang.org/x/sync/semaphore"

	"github.com/vethloom/vethloom/cnm"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// opening starts to decompress.
type opening = func(context.Context, *bufio.Reader, *decoders) (io.ReadCloser, error)

// compressions are told by how a stream starts, whatever the file's name.
var compressions = []struct {
	name  string
	magic []byte
	open  opening
}{
	{"gzip", []byte{0x1f, 0x8b}, plainly(func(r io.Reader) (io.ReadCloser, error) { return gzip.NewReader(r) })},
	{"zstd", []byte{0x28, 0xb5, 0x2f, 0xfd}, openZstd},
	{"xz", []byte(xzMagic), plainly(func(r io.Reader) (io.ReadCloser, error) {
		d, err := xz.NewReader(r, xzDictionary)
		return io.NopCloser(d), err
	})},
	{"bzip2", []byte("BZh"), plainly(func(r io.Reader) (io.ReadCloser, error) {
		return io.NopCloser(bzip2.NewReader(r)), nil
	})},
}

// xzMagic is how xz begins, see the .xz file format, 2.1.1.1.
const xzMagic = "\xfd7zXZ\x00"

// xzDictionary is the largest dictionary of xz, in bytes: what xz -9 makes. A block may ask for 4 GiB in a few bytes.
const xzDictionary = 64 << 20

// plainly is for formats whose windows have one size, or are a user's archives alone.
func plainly(open func(io.Reader) (io.ReadCloser, error)) opening {
	return func(_ context.Context, r *bufio.Reader, _ *decoders) (io.ReadCloser, error) { return open(r) }
}

// Windows of zstd, in bytes: what it keeps of what was decompressed.
const (
	zstdWindow  = 128 << 20 // the most that one stream may ask for: what the zstd command takes without --long
	usualWindow = 8 << 20   // what every decoder has to have, by RFC 8878, section 3.1.1.1.2
)

// wideWindows lets one stream of zstd at a time have a large window, whatever operation it is of. Those with the usual
// one wait for none of another operation, however slowly its source gives what it has.
type wideWindows = semaphore.Weighted

func newWideWindows() *wideWindows { return semaphore.NewWeighted(1) }

// usualStreams is how many streams of one operation have a usual window at a time.
const usualStreams = 2

// decoders are used again with their windows, by one operation.
type decoders struct {
	wide  *wideWindows
	turns *semaphore.Weighted
	usual spare[*zstd.Decoder]
}

func newDecoders(wide *wideWindows) decoders {
	return decoders{wide: wide, turns: semaphore.NewWeighted(usualStreams)}
}

// openZstd gives a stream the window that its first frame has, or the usual one. A frame behind it with a larger one is
// an error.
func openZstd(ctx context.Context, r *bufio.Reader, all *decoders) (io.ReadCloser, error) {
	size := int64(zstdWindow) // behind a frame that is to be skipped may be any
	var first zstd.Header
	start, _ := r.Peek(zstd.HeaderMaxSize) // less is told by the decoder
	if err := first.Decode(start); err == nil && !first.Skippable {
		size = int64(min(max(first.WindowSize, usualWindow), zstdWindow))
	}
	if size == usualWindow {
		return all.openUsual(ctx, r)
	}
	if err := all.wide.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	give := func(d *zstd.Decoder) {
		if d != nil {
			d.Close()
		}
		debug.FreeOSMemory() // or the next window comes on top of this one, and both stay for minutes
		all.wide.Release(1)
	}
	d, err := newZstd(r, size)
	if err != nil {
		give(nil)
		return nil, err
	}
	return &windowed{Decoder: d, give: give}, nil
}

func newZstd(r io.Reader, window int64) (*zstd.Decoder, error) {
	return zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(uint64(window)))
}

func (all *decoders) openUsual(ctx context.Context, r io.Reader) (io.ReadCloser, error) {
	if err := all.turns.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	d, ok := all.usual.get()
	var err error
	if ok {
		err = d.Reset(r)
	} else {
		d, err = newZstd(r, usualWindow)
	}
	if err != nil {
		all.turns.Release(1)
		return nil, err
	}
	// Without a reader, a decoder holds nothing but memory.
	return &windowed{Decoder: d, give: func(d *zstd.Decoder) {
		if d.Reset(nil) == nil {
			all.usual.put(d)
		}
		all.turns.Release(1)
	}}, nil
}

// windowed gives its decoder back when it is closed.
type windowed struct {
	*zstd.Decoder
	give func(*zstd.Decoder)
}

func (w *windowed) Close() error {
	d := w.Decoder
	w.Decoder = nil
	w.give(d)
	return nil
}

// decompress returns the stream as it was before compression.
func decompress(ctx context.Context, r io.Reader, all *decoders) (io.ReadCloser, error) {
	b := bufio.NewReaderSize(r, 64<<10)
	head, err := b.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	for _, c := range compressions {
		if !bytes.HasPrefix(head, c.magic) {
			continue
		}
		d, err := c.open(ctx, b, all)
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		} else if err != nil {
			err = &damagedError{format: c.name, cause: err}
		}
		if err != nil {
			return nil, err
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
	switch {
	case errors.Is(e.cause, io.ErrUnexpectedEOF):
		return fmt.Sprintf("the %s data is truncated; fetch or make the archive again", e.format)
	case errors.Is(e.cause, xz.ErrMemlimit):
		return fmt.Sprintf("the %s data needs a dictionary of more than %d MiB, which is the limit; compress the "+
			"archive again, with 'xz -9' at most", e.format, xzDictionary>>20)
	}
	return fmt.Sprintf("the %s data cannot be decompressed: %v; fetch or make the archive again", e.format, e.cause)
}

func (e *damagedError) Unwrap() []error {
	if errors.Is(e.cause, io.ErrUnexpectedEOF) {
		return []error{cnm.ErrInvalid}
	}
	return []error{cnm.ErrInvalid, e.cause}
}

// Sizes of what may wait between a stage of a stream and the next.
const (
	chunkSize  = 256 << 10 // bytes
	chunkCount = 4
	copyBuffer = 256 << 10 // bytes that are copied at once where nobody waits
)

// spare are things to be used again by one operation: an image may have hundreds of layers. They go with it, which
// those of a sync.Pool do not.
type spare[T any] struct {
	mu     sync.Mutex
	list   []T
	lacked int // how often there was none
}

func (s *spare[T]) get() (one T, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := len(s.list) - 1
	if last < 0 {
		s.lacked++
		return one, false
	}
	one, s.list = s.list[last], s.list[:last]
	return one, true
}

// made is how many were made for want of a spare one.
func (s *spare[T]) made() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int64(s.lacked)
}

func (s *spare[T]) put(one T) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, one)
}

type chunk struct {
	data []byte
	err  error
}

// ahead reads in a goroutine of its own, while its consumer is at what was read before.
type ahead struct {
	ctx  context.Context
	read func([]byte) (int, error)
	pool *spare[[]byte]
	full chan chunk
	free chan []byte // nil is one that was not needed yet
	done chan struct{}
	rest []byte
	buf  []byte // rest is a part of it
	err  error
}

// readAhead starts reading. It ends with the context, when a read under way returns.
func readAhead(ctx context.Context, pool *spare[[]byte], read func([]byte) (int, error)) *ahead {
	a := &ahead{ctx: ctx, read: read, pool: pool, full: make(chan chunk, chunkCount),
		free: make(chan []byte, chunkCount), done: make(chan struct{})}
	for range chunkCount {
		a.free <- nil
	}
	go a.run()
	return a
}

func (a *ahead) run() {
	defer close(a.done)
	defer close(a.full)
	for {
		var buf []byte
		select {
		case buf = <-a.free:
		case <-a.ctx.Done():
			return
		}
		if buf == nil {
			if buf, _ = a.pool.get(); buf == nil {
				buf = make([]byte, chunkSize)
			}
		}
		n, err := a.read(buf)
		select {
		case a.full <- chunk{data: buf[:n], err: err}:
		case <-a.ctx.Done():
			a.put(buf)
			return
		}
		if err != nil {
			return
		}
	}
}

// Read implements [io.Reader].
func (a *ahead) Read(p []byte) (int, error) {
	for len(a.rest) == 0 {
		if a.buf != nil {
			a.free <- a.buf[:cap(a.buf)] // never blocks: there is room for every buffer
			a.buf = nil
		}
		if a.err != nil {
			return 0, a.err
		}
		select {
		case c, ok := <-a.full:
			if !ok {
				a.err = io.EOF
				if a.ctx.Err() != nil {
					a.err = context.Cause(a.ctx)
				}
				continue
			}
			a.rest, a.buf, a.err = c.data, c.data, c.err
		case <-a.ctx.Done():
			return 0, context.Cause(a.ctx)
		}
	}
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	return n, nil
}

// close gives the buffers back once the goroutine has ended. Nothing is read any more.
func (a *ahead) close() {
	<-a.done
	for c := range a.full {
		a.put(c.data)
	}
	close(a.free)
	for b := range a.free {
		a.put(b)
	}
	a.put(a.buf)
}

func (a *ahead) put(buf []byte) {
	if buf != nil {
		a.pool.put(buf[:cap(buf)])
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

// stream reads what is compressed, and decompresses and digests it, in a goroutine each, while its consumer writes
// files.
type stream struct {
	*ahead
	stop   context.CancelFunc
	source *ahead
	in     io.ReadCloser // the source decompressed; nil at first
	sum    hash.Hash
	size   int64
	room   *space
	tap    io.Writer // where the decompressed stream goes besides; nil for nowhere
}

// openStream starts reading. A Read of the source that never returns keeps
// close waiting: the caller that passes the source ends it with the context.
func openStream(ctx context.Context, source io.Reader, room *space, tap io.Writer) *stream {
	ctx, stop := context.WithCancel(ctx)
	s := &stream{stop: stop, room: room, tap: tap, sum: sha256.New()}
	s.source = readAhead(ctx, &room.chunks, func(buf []byte) (int, error) { return fill(source, buf) })
	s.ahead = readAhead(ctx, &room.chunks, func(buf []byte) (int, error) { return s.decompressed(ctx, buf) })
	return s
}

func (s *stream) decompressed(ctx context.Context, buf []byte) (n int, err error) {
	if s.in == nil {
		if s.in, err = decompress(ctx, s.source, &s.room.decoders); err != nil {
			return 0, err
		}
	}
	n, err = fill(s.in, buf)
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
	return n, err
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

// close ends the goroutines and waits for them: nobody reads the source any more.
func (s *stream) close() {
	s.stop()
	s.ahead.close()
	s.source.close()
	if s.in != nil {
		s.in.Close()
	}
}

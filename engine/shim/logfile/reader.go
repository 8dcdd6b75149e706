package logfile

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"slices"
	"time"
)

// Options says what of a log to read.
type Options struct {
	Tail  int       // entries from the end; negative: all
	Since time.Time // the zero value: from the start
	Until time.Time // the zero value: to the end
	// Follow, when not nil, keeps reading as the log grows, until the channel is
	// closed and everything written before is read. Watcher tells that it grows.
	Follow  <-chan struct{}
	Watcher *Watcher
}

// Read yields a log's entries in order. A log that does not exist has none. A
// line that cannot be decoded (the disk was full while it was written) yields
// an error, and reading goes on behind it.
func Read(ctx context.Context, path string, o Options) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		if err := read(ctx, path, o, yield); err != nil {
			yield(Entry{}, err)
		}
	}
}

var errStopped = errors.New("the reader wants no more")

func read(ctx context.Context, path string, o Options, yield func(Entry, error) bool) error {
	var grown *watch
	if o.Follow != nil {
		var err error
		if grown, err = o.Watcher.watch(path); err != nil { // before the first read: nothing is missed
			return err
		}
		defer grown.close()
	}
	r := &reader{path: path, o: o, yield: yield}
	defer r.close()
	err := r.begin()
	for err == nil {
		finished := o.Follow == nil || isClosed(o.Follow) // looked at before the read
		if err = r.drain(); err != nil || finished {
			break
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-o.Follow:
		case <-grown.wake:
		case <-grown.look:
		}
	}
	if errors.Is(err, errStopped) {
		return nil
	}
	return err
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

type reader struct {
	path  string
	o     Options
	yield func(Entry, error) bool
	f     *os.File // the newest file read so far; nil when there is none yet
	buf   *bufio.Reader
	line  []byte // begun
}

func (r *reader) close() {
	if r.f != nil {
		r.f.Close()
	}
}

// newer opens the files newer than the current one, oldest first. Files move to
// older names while we look: one that is met twice counts once.
func (r *reader) newer() ([]*os.File, error) {
	var found []*os.File
	for i := 0; ; i++ {
		f, err := os.Open(older(r.path, i))
		if errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err != nil {
			closeAll(found)
			return nil, fmt.Errorf("open the log: %w", err)
		}
		if r.f != nil && same(r.f, f) {
			f.Close()
			break
		}
		if n := len(found); n > 0 && same(found[n-1], f) {
			f.Close()
			continue
		}
		found = append(found, f)
	}
	slices.Reverse(found)
	return found, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

func same(a, b *os.File) bool {
	ai, aerr := a.Stat()
	bi, berr := b.Stat()
	return aerr == nil && berr == nil && os.SameFile(ai, bi)
}

// begin reads the files that are there, all but what comes before the tail.
func (r *reader) begin() error {
	files, err := r.newer()
	if err != nil {
		return err
	}
	left := r.o.Tail
	start := 0
	if left >= 0 {
		for start = len(files); start > 0; {
			start--
			if left, err = seekTail(files[start], left); err != nil {
				closeAll(files)
				return err
			}
			if left == 0 {
				break
			}
		}
	}
	closeAll(files[:start])
	return r.through(files[start:])
}

// through reads files to their ends; the last becomes the current one.
func (r *reader) through(files []*os.File) error {
	for i, f := range files {
		r.close()
		r.f, r.buf, r.line = f, bufio.NewReaderSize(f, 64<<10), nil
		if err := r.lines(); err != nil {
			closeAll(files[i+1:])
			return err
		}
	}
	return nil
}

// drain reads what was written since.
func (r *reader) drain() error {
	files, err := r.newer() // first: what is rotated away after this is found next time
	if err != nil {
		return err
	}
	if r.f != nil {
		if err := r.lines(); err != nil {
			closeAll(files)
			return err
		}
	}
	return r.through(files)
}

// lines yields the whole lines to the current end of the file.
func (r *reader) lines() error {
	for {
		piece, err := r.buf.ReadSlice('\n')
		r.line = append(r.line, piece...)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case err != nil:
			return fmt.Errorf("read the log: %w", err)
		}
		entry, err := parseEntry(bytes.TrimSuffix(r.line, []byte("\n")))
		r.line = r.line[:0]
		if err == nil && !r.wanted(entry) {
			continue
		}
		if !r.yield(entry, err) {
			return errStopped
		}
		if !r.o.Until.IsZero() && entry.Time.After(r.o.Until) {
			return errStopped
		}
	}
}

func (r *reader) wanted(e Entry) bool {
	return !e.Time.Before(r.o.Since) && (r.o.Until.IsZero() || !e.Time.After(r.o.Until))
}

// seekTail moves to the n-th line from the end, or to the start when there are
// fewer; it returns how many are still wanted from older files.
func seekTail(f *os.File, n int) (left int, err error) {
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, fmt.Errorf("find the end of the log: %w", err)
	}
	if n == 0 {
		return 0, nil
	}
	buf := make([]byte, 64<<10)
	seen := 0 // line ends met; the first one ends the last line
	for at := end; at > 0; {
		size := min(at, int64(len(buf)))
		at -= size
		if _, err := f.ReadAt(buf[:size], at); err != nil {
			return 0, fmt.Errorf("read the log backwards: %w", err)
		}
		for i := size - 1; i >= 0; i-- {
			if buf[i] != '\n' {
				continue
			}
			if seen == n {
				_, err := f.Seek(at+i+1, io.SeekStart)
				return 0, err
			}
			seen++
		}
	}
	_, err = f.Seek(0, io.SeekStart)
	return n - seen, err
}

package logfile

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"sync"
	"time"
)

// The bounds of a log when none are given.
const (
	DefaultMaxSize = 10 << 20 // bytes a file
	DefaultFiles   = 3
)

// maxLine is the longest piece of output in one entry; longer lines are cut
// into partial entries, so that neither side holds a whole endless line.
const maxLine = 16 << 10

// Writer appends to a log. Several streams may write at the same time.
type Writer struct {
	path    string
	maxSize int64
	files   int

	mu   sync.Mutex
	f    *os.File
	size int64
}

// NewWriter opens a log to append to. Zero bounds mean the defaults; without a path nothing is kept.
func NewWriter(path string, maxSize int64, files int) (*Writer, error) {
	w := &Writer{path: path, maxSize: maxSize, files: files}
	if maxSize <= 0 {
		w.maxSize = DefaultMaxSize
	}
	if files <= 0 {
		w.files = DefaultFiles
	}
	if path == "" {
		return w, nil
	}
	return w, w.open()
}

func (w *Writer) open() error {
	f, err := os.OpenFile(w.path, os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o640)
	if err != nil {
		return fmt.Errorf("open the log: %w", err)
	}
	size, err := mend(f)
	if err != nil {
		f.Close()
		return fmt.Errorf("open the log: %w", err)
	}
	w.f, w.size = f, size
	return nil
}

// mend ends a last line that a crash has cut short, so that the next one is not taken for a part of it.
func mend(f *os.File) (size int64, err error) {
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return 0, err
	}
	last := make([]byte, 1)
	if _, err := f.ReadAt(last, info.Size()-1); err != nil || last[0] == '\n' {
		return info.Size(), err
	}
	_, err = f.Write([]byte("\n"))
	return info.Size() + 1, err
}

// Close closes the log.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.f == nil {
		return nil
	}
	err := w.f.Close()
	w.f = nil
	return err
}

func (w *Writer) append(b []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.path == "" {
		return nil
	}
	if w.f == nil {
		return fmt.Errorf("append to the log: %w", fs.ErrClosed)
	}
	if w.size > 0 && w.size+int64(len(b)) > w.maxSize {
		// Without a new file the old one takes up to as much again, and the next output tries anew.
		if err := w.rotate(); err != nil && w.size+int64(len(b)) > 2*w.maxSize {
			return err
		}
	}
	n, err := w.f.Write(b)
	if err == nil {
		w.size += int64(n)
		return nil
	}
	if n > 0 { // the disk is full: no half of a line stays
		err = errors.Join(err, w.f.Truncate(w.size))
	}
	return fmt.Errorf("append to the log: %w", err)
}

// rotate begins a new file and renames every other to the next older name; the oldest is replaced. The new one is
// made first: when that fails, everything is as it was.
func (w *Writer) rotate() error {
	fresh := w.path + ".new"
	f, err := os.OpenFile(fresh, os.O_CREATE|os.O_TRUNC|os.O_APPEND|os.O_RDWR, 0o640)
	if err != nil {
		return fmt.Errorf("rotate the log: %w", err)
	}
	for i := w.files - 1; i >= 1 && err == nil; i-- {
		if err = os.Rename(older(w.path, i-1), older(w.path, i)); errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	}
	if err == nil {
		err = os.Rename(fresh, w.path)
	}
	if err != nil {
		return fmt.Errorf("rotate the log: %w", errors.Join(err, f.Close(), os.Remove(fresh)))
	}
	old := w.f
	w.f, w.size = f, 0
	if err := old.Close(); err != nil {
		return fmt.Errorf("close the old log: %w", err)
	}
	return nil
}

// older names the i-th file back in time.
func older(path string, i int) string {
	if i == 0 {
		return path
	}
	return path + "." + strconv.Itoa(i)
}

// Stream is one output stream of a container. It is used by one goroutine.
type Stream struct {
	w    *Writer
	name string
	rest []byte // the begun line
	out  []byte
}

// Stream returns a writer for a stream of that name.
func (w *Writer) Stream(name string) *Stream { return &Stream{w: w, name: name} }

// Write takes output that came at a time. The begun line at its end is kept
// until it ends, grows too long, or Flush.
func (s *Stream) Write(at time.Time, p []byte) error {
	s.out = s.out[:0]
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		ended := i >= 0
		if !ended {
			i = len(p)
		}
		piece := min(i, maxLine-len(s.rest))
		line := p[:piece]
		if len(s.rest) > 0 {
			s.rest = append(s.rest, line...)
			line = s.rest
		}
		var err error
		switch {
		case ended && piece == i:
			p = p[piece+1:]
			s.out, err = appendEntry(s.out, at, s.name, line, false)
			s.rest = s.rest[:0]
		case len(line) == maxLine:
			p = p[piece:]
			s.out, err = appendEntry(s.out, at, s.name, line, true)
			s.rest = s.rest[:0]
		default:
			p = p[piece:]
			if len(s.rest) == 0 {
				s.rest = append(s.rest, line...)
			}
		}
		if err != nil {
			return err
		}
	}
	if len(s.out) == 0 {
		return nil
	}
	return s.w.append(s.out)
}

// Flush writes a begun line.
func (s *Stream) Flush(at time.Time) error {
	if len(s.rest) == 0 {
		return nil
	}
	b, err := appendEntry(nil, at, s.name, s.rest, true)
	s.rest = s.rest[:0]
	if err != nil {
		return err
	}
	return s.w.append(b)
}

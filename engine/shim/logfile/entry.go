package logfile

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"
)

// Entry is one line of output, or a part of a long one.
type Entry struct {
	Time    time.Time `json:"time"`
	Stream  string    `json:"stream"`          // stdout or stderr
	Text    string    `json:"text,omitempty"`  // without its newline
	Bytes   []byte    `json:"bytes,omitempty"` // instead of Text when that would not be UTF-8
	Partial bool      `json:"partial,omitempty"`
}

// Line is the output as the process wrote it.
func (e Entry) Line() []byte {
	b := e.Bytes
	if b == nil {
		b = []byte(e.Text)
	}
	if e.Partial {
		return b
	}
	return append(b[:len(b):len(b)], '\n')
}

func appendEntry(dst []byte, at time.Time, stream string, text []byte, partial bool) ([]byte, error) {
	e := Entry{Time: at.UTC(), Stream: stream, Partial: partial}
	if utf8.Valid(text) {
		e.Text = string(text)
	} else {
		e.Bytes = text
	}
	b, err := json.Marshal(e)
	if err != nil {
		return dst, fmt.Errorf("encode a log line: %w", err)
	}
	return append(append(dst, b...), '\n'), nil
}

// ErrTorn says that a line of a log cannot be decoded: it was cut short, by a crash or a full disk.
var ErrTorn = errors.New("decode a log line")

func parseEntry(line []byte) (Entry, error) {
	var e Entry
	if err := json.Unmarshal(line, &e); err != nil {
		return Entry{}, fmt.Errorf("%w: %w", ErrTorn, err)
	}
	return e, nil
}

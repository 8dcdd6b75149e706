package shim

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// Version is the protocol's. It is the first byte of every frame, so that a
// netd that was upgraded under a running container knows whom it talks to.
const Version = 1

// MaxPayload bounds a frame. A bundle is the largest, a few kilobytes.
const MaxPayload = 1 << 20

// MaxPiece is how much of a stream one frame carries at most: as much as a pipe holds.
const MaxPiece = 64 << 10

const headerLen = 6

// Kind says what a frame carries.
type Kind byte

// The kinds of frames. Requests go to the shim, replies and events come back.
const (
	KindRequest    Kind = 1 + iota // JSON Request
	KindReply                      // JSON Reply
	KindStdin                      // bytes
	KindCloseStdin                 // nothing
	KindStdout                     // bytes
	KindStderr                     // bytes
	KindExit                       // JSON Exit; the last frame
	kindEnd
)

// What readers of frames branch on.
var (
	ErrVersion = errors.New("the peer speaks another version of the shim protocol")
	ErrFrame   = errors.New("malformed frame")
)

// Frame is one message: a version byte, a kind byte, the payload's length in
// four bytes (big endian), the payload.
type Frame struct {
	Kind    Kind
	Payload []byte
}

// AppendFrame appends the encoded frame to dst.
func AppendFrame(dst []byte, f Frame) []byte {
	return append(appendHeader(dst, f), f.Payload...)
}

func appendHeader(dst []byte, f Frame) []byte {
	dst = append(dst, Version, byte(f.Kind))
	return binary.BigEndian.AppendUint32(dst, uint32(len(f.Payload)))
}

// ReadFrame reads one frame; its payload is only valid until buf is used again.
// It returns io.EOF only at a frame's border, and the possibly grown buffer.
func ReadFrame(r io.Reader, buf []byte) (Frame, []byte, error) {
	var head [headerLen]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return Frame{}, buf, fmt.Errorf("%w: header cut short", ErrFrame)
		}
		return Frame{}, buf, err
	}
	if head[0] != Version {
		return Frame{}, buf, fmt.Errorf("%w: got %d, want %d", ErrVersion, head[0], Version)
	}
	kind := Kind(head[1])
	if kind == 0 || kind >= kindEnd {
		return Frame{}, buf, fmt.Errorf("%w: unknown kind %d", ErrFrame, kind)
	}
	n := binary.BigEndian.Uint32(head[2:])
	if n > MaxPayload {
		return Frame{}, buf, fmt.Errorf("%w: %d bytes of payload, at most %d", ErrFrame, n, MaxPayload)
	}
	if uint32(cap(buf)) < n {
		buf = make([]byte, n)
	}
	buf = buf[:n]
	if _, err := io.ReadFull(r, buf); err != nil {
		return Frame{}, buf, fmt.Errorf("%w: payload cut short: %w", ErrFrame, err)
	}
	return Frame{Kind: kind, Payload: buf}, buf, nil
}

// Conn sends and receives frames. One goroutine may read while any number write.
type Conn struct {
	c   net.Conn
	r   *bufio.Reader
	buf []byte // of the last frame read
	mu  sync.Mutex
	out []byte // of the frame being written, kept under mu; of one with much in it the header alone
}

// gathered is from which size on a payload is not copied behind its header.
const gathered = 4 << 10

// NewConn wraps a stream.
func NewConn(c net.Conn) *Conn { return &Conn{c: c, r: bufio.NewReaderSize(c, 4096)} }

// Read returns the next frame; its payload is valid until the next Read.
func (c *Conn) Read() (Frame, error) {
	f, buf, err := ReadFrame(c.r, c.buf)
	c.buf = buf
	return f, err
}

// Write sends one frame.
func (c *Conn) Write(f Frame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(f.Payload) < gathered {
		c.out = AppendFrame(c.out[:0], f)
		_, err := c.c.Write(c.out)
		return err
	}
	c.out = appendHeader(c.out[:0], f)
	parts := net.Buffers{c.out, f.Payload}
	_, err := parts.WriteTo(c.c)
	return err
}

// WriteJSON sends a frame whose payload is v as JSON.
func (c *Conn) WriteJSON(k Kind, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode a frame: %w", err)
	}
	if len(b) > MaxPayload {
		return fmt.Errorf("%w: %d bytes of payload, at most %d", ErrFrame, len(b), MaxPayload)
	}
	return c.Write(Frame{Kind: k, Payload: b})
}

// Close closes the stream; reads and writes under way return.
func (c *Conn) Close() error { return c.c.Close() }

package descriptor

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// MaxMessage bounds a message in bytes, MaxFiles the descriptors with it (the kernel's own limit is 253).
const (
	MaxMessage = 4 << 20
	MaxFiles   = 16
)

// Conn sends and receives messages, which are JSON, with descriptors. One goroutine may send while another receives.
type Conn struct {
	c        *net.UnixConn
	send     sync.Mutex
	received atomic.Int64
}

// NewConn makes a Conn of a connection.
func NewConn(c *net.UnixConn) *Conn { return &Conn{c: c} }

// Dial connects to a socket.
func Dial(path string) (*Conn, error) {
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	return NewConn(c), nil
}

// Close ends the connection.
func (c *Conn) Close() error { return c.c.Close() }

// Received is how many bytes messages had that have come, the one included that could not be decoded.
func (c *Conn) Received() int64 { return c.received.Load() }

// SetDeadline bounds what is under way and what comes.
func (c *Conn) SetDeadline(t time.Time) error { return c.c.SetDeadline(t) }

// Send sends a message with descriptors, which stay the caller's.
func (c *Conn) Send(v any, files ...Descriptor) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode a message: %w", err)
	}
	if len(b) > MaxMessage || len(files) > MaxFiles {
		return fmt.Errorf("a message of %d bytes with %d descriptors: at most %d and %d can be sent", len(b),
			len(files), MaxMessage, MaxFiles)
	}
	head := binary.BigEndian.AppendUint32(nil, uint32(len(b)))
	head = binary.BigEndian.AppendUint32(head, uint32(len(files)))
	var rights []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = f.FD()
		}
		rights = unix.UnixRights(fds...)
	}
	c.send.Lock()
	defer c.send.Unlock()
	msg := append(head, b...)
	n, _, err := c.c.WriteMsgUnix(msg, rights, nil)
	if err == nil && n < len(msg) {
		_, err = c.c.Write(msg[n:])
	}
	return err
}

// Receive reads a message into v and returns the descriptors that came with it.
func (c *Conn) Receive(v any) (files []Descriptor, err error) {
	defer func() {
		if err != nil {
			Close(files)
			files = nil
		}
	}()
	head := make([]byte, 8)
	oob := make([]byte, unix.CmsgSpace(4*MaxFiles))
	n, oobn, flags, _, err := c.c.ReadMsgUnix(head, oob)
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, io.EOF
	}
	if files, err = descriptors(oob[:oobn]); err != nil {
		return files, err
	}
	if flags&unix.MSG_CTRUNC != 0 {
		return files, fmt.Errorf("more than %d descriptors came with a message", MaxFiles)
	}
	if _, err := io.ReadFull(c.c, head[n:]); err != nil {
		return files, err
	}
	size, count := binary.BigEndian.Uint32(head), binary.BigEndian.Uint32(head[4:])
	if size > MaxMessage || int(count) != len(files) {
		return files, fmt.Errorf("a message of %d bytes with %d of %d descriptors: want at most %d bytes and all",
			size, len(files), count, MaxMessage)
	}
	c.received.Add(int64(size))
	b := make([]byte, size)
	if _, err := io.ReadFull(c.c, b); err != nil {
		return files, err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return files, fmt.Errorf("decode a message: %w", err)
	}
	return files, nil
}

// descriptors takes those out of control messages.
func descriptors(oob []byte) ([]Descriptor, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("read control messages: %w", err)
	}
	var files []Descriptor
	var errs []error
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		errs = append(errs, err)
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, Of(fd))
		}
	}
	return files, errors.Join(errs...)
}

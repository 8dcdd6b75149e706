package control

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

	"github.com/vethloom/vethloom/internal/descriptor"
	"github.com/vethloom/vethloom/plan"
)

// Version is that of the protocol. A resolver of another one gives its sockets back and ends.
const Version = 1

// MaxMessage bounds a message in bytes, MaxFiles the descriptors with it (the kernel's own limit is 253).
const (
	MaxMessage = 4 << 20
	MaxFiles   = 16
)

// ListenerFD is the descriptor of the control socket that the resolver is started with.
const ListenerFD = 3

// WaitFD is that of a pipe from which the resolver reads a byte before it does anything, when it is told to wait.
const WaitFD = 4

// MaxObjects is how many names a message has at most.
const MaxObjects = 1000

// Request is what netd asks. One field is set.
type Request struct {
	Hello *Hello           `json:"hello,omitempty"`
	Names *Names           `json:"names,omitempty"` // put and remove names: one change
	Serve *plan.NameServer `json:"serve,omitempty"` // with its sockets
	Stop  string           `json:"stop,omitempty"`  // [plan.NameServer.Key]
	// all that there is: messages with names, then those with a server each, then one that says Done
	List   bool    `json:"list,omitempty"`
	Quit   bool    `json:"quit,omitempty"` // end: it answers nothing any more
	Lookup *Lookup `json:"lookup,omitempty"`
	Watch  *Watch  `json:"watch,omitempty"` // answers until the connection ends
}

// Hello is the first message each way.
type Hello struct {
	Version int    `json:"version"`
	Build   string `json:"build"` // of netd, and of the resolver
}

// Names are zones and members that are there from now on, and the keys of those that go.
type Names struct {
	Zones       []plan.NameZone   `json:"zones,omitempty"`
	Members     []plan.NameMember `json:"members,omitempty"`
	GoneZones   []string          `json:"goneZones,omitempty"`
	GoneMembers []plan.NameMember `json:"goneMembers,omitempty"` // by their keys
}

// Lookup asks what a server would answer.
type Lookup struct {
	Server string `json:"server"` // key
	Name   string `json:"name"`
	Type   uint16 `json:"type"`
}

// Explanation is what would be answered, and why.
type Explanation struct {
	Rcode   string   `json:"rcode"`
	Answers []string `json:"answers,omitempty"` // as in a zone file
	Steps   []string `json:"steps,omitempty"`
}

// Watch asks for the queries to servers with these keys; none: to all.
type Watch struct {
	Servers []string `json:"servers,omitempty"`
}

// Query is one that was answered.
type Query struct {
	Time    time.Time     `json:"time"`
	Server  string        `json:"server"` // key
	Client  string        `json:"client"` // its address and port
	Name    string        `json:"name"`
	Type    string        `json:"type"`
	Rcode   string        `json:"rcode"`
	Answers []string      `json:"answers,omitempty"`
	Source  string        `json:"source"` // names, cache, or the upstream's address
	Took    time.Duration `json:"took"`
	Lost    int           `json:"lost,omitempty"` // entries before this one that did not fit
}

// Answer is what the resolver says to a request.
type Answer struct {
	Error   string           `json:"error,omitempty"`
	Hello   *Hello           `json:"hello,omitempty"`
	Names   *Names           `json:"names,omitempty"`
	Server  *plan.NameServer `json:"server,omitempty"` // with its sockets
	Done    bool             `json:"done,omitempty"`
	Explain *Explanation     `json:"explain,omitempty"`
	Query   *Query           `json:"query,omitempty"`
}

// Conn sends and receives messages. One goroutine may send while another receives.
type Conn struct {
	c        *net.UnixConn
	send     sync.Mutex
	received atomic.Int64
}

// New makes a Conn of a connection.
func New(c *net.UnixConn) *Conn { return &Conn{c: c} }

// Dial connects to a resolver's socket.
func Dial(path string) (*Conn, error) {
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	return New(c), nil
}

// Close ends the connection.
func (c *Conn) Close() error { return c.c.Close() }

// Received is how many bytes messages had that have come, the one included that could not be decoded.
func (c *Conn) Received() int64 { return c.received.Load() }

// SetDeadline bounds what is under way and what comes.
func (c *Conn) SetDeadline(t time.Time) error { return c.c.SetDeadline(t) }

// Send sends a message with descriptors, which stay the caller's.
func (c *Conn) Send(v any, files ...descriptor.Descriptor) error {
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
func (c *Conn) Receive(v any) (files []descriptor.Descriptor, err error) {
	defer func() {
		if err != nil {
			descriptor.Close(files)
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
func descriptors(oob []byte) ([]descriptor.Descriptor, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("read control messages: %w", err)
	}
	var files []descriptor.Descriptor
	var errs []error
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		errs = append(errs, err)
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, descriptor.Of(fd))
		}
	}
	return files, errors.Join(errs...)
}

package kern

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// conn is a routing netlink socket in one namespace. It is used by one
// goroutine at a time.
type conn struct {
	nl     *netlink.Conn
	broken bool // replies are out of step; not to be used again
}

// dial opens a socket in the namespace fd refers to; 0 is the calling thread's.
func dial(fd int) (*conn, error) {
	nl, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{NetNS: fd, MessageBufferSize: 64 << 10})
	if err != nil {
		return nil, fmt.Errorf("open a routing netlink socket: %w", err)
	}
	// Extended acknowledgements only make errors clearer, and strict checks only
	// make dumps smaller: kernels before 4.12 and 4.20 do without.
	_ = nl.SetOption(netlink.ExtendedAcknowledge, true)
	_ = nl.SetOption(netlink.GetStrictCheck, true)
	return &conn{nl: nl}, nil
}

func (c *conn) close() error { return c.nl.Close() }

// request is one message of a batch.
type request struct {
	kind  uint16
	flags netlink.HeaderFlags
	data  []byte
	// reply takes the answer of a request for one object; without it the answer is
	// an acknowledgement.
	reply func([]byte) error
	// settled are the errors that mean there was nothing to do.
	settled []unix.Errno
	op      int // index of the operation it is part of
}

// batchSize keeps the answers to one send within the socket's receive buffer.
const batchSize = 64

// batch sends the requests in as few system calls as possible and returns the
// position of the first that failed. The kernel carries on with
// those after it in the same send.
func (c *conn) batch(requests []request) (int, error) {
	for start := 0; start < len(requests); start += batchSize {
		part := requests[start:min(start+batchSize, len(requests))]
		if i, err := c.send(part); err != nil {
			return start + i, err
		}
	}
	return 0, nil
}

func (c *conn) send(part []request) (int, error) {
	msgs := make([]netlink.Message, len(part))
	for i, r := range part {
		msgs[i] = netlink.Message{
			Header: netlink.Header{Type: netlink.HeaderType(r.kind), Flags: r.flags | netlink.Request},
			Data:   r.data,
		}
		if r.reply == nil {
			msgs[i].Header.Flags |= netlink.Acknowledge
		}
	}
	sent, err := c.nl.SendMessages(msgs)
	if err != nil {
		c.broken = true
		return 0, err
	}
	failed, first := 0, error(nil)
	for i, r := range part {
		answer, err := c.receive(sent[i].Header.Sequence)
		if c.broken {
			return i, err
		}
		if err == nil && r.reply != nil {
			err = r.reply(answer)
		}
		if errnoIs(err, r.settled...) {
			err = nil
		}
		if err != nil && first == nil {
			failed, first = i, err
		}
	}
	return failed, first
}

// receive takes the answer with the given sequence number. Every answer is a
// datagram of its own, and they come in the order of the requests.
func (c *conn) receive(sequence uint32) ([]byte, error) {
	msgs, err := c.nl.Receive()
	var refused *netlink.OpError
	if errors.As(err, &refused) && refused.Op == "receive" && isRefusal(refused) {
		return nil, readable(refused)
	}
	if err != nil {
		c.broken = true
		return nil, err
	}
	if len(msgs) != 1 || msgs[0].Header.Sequence != sequence {
		c.broken = true
		return nil, errors.New("routing netlink: an answer to another request")
	}
	return msgs[0].Data, nil
}

// isRefusal tells an error the kernel answered with from one of the socket.
func isRefusal(e *netlink.OpError) bool {
	return !errnoIs(e.Err, unix.ENOBUFS, unix.EBADF, unix.ENOTCONN) && !e.Timeout()
}

// readable is the error number with the kernel's explanation, if it gave one.
func readable(e *netlink.OpError) error {
	if e.Message == "" {
		return e.Err
	}
	return fmt.Errorf("%s: %w", e.Message, e.Err)
}

// dumpIntr is NLM_F_DUMP_INTR: the table changed during the dump.
const dumpIntr = netlink.HeaderFlags(unix.NLM_F_DUMP_INTR)

// dumpTries bounds how often an interrupted dump is started again.
const dumpTries = 16

// dump reads a whole table. A dump that was interrupted by a change has holes, so it
// is started again.
func (c *conn) dump(kind uint16, data []byte, each func([]byte) error) error {
	for try := 0; ; try++ {
		msgs, err := c.nl.Execute(netlink.Message{
			Header: netlink.Header{Type: netlink.HeaderType(kind), Flags: netlink.Request | netlink.Dump},
			Data:   data,
		})
		again := errnoIs(err, unix.EINTR, unix.EBUSY)
		for _, m := range msgs {
			again = again || m.Header.Flags&dumpIntr != 0
		}
		switch {
		case again && try < dumpTries:
			continue
		case err != nil:
			c.broken = true
			return err
		}
		for _, m := range msgs {
			if err := each(m.Data); err != nil {
				return err
			}
		}
		return nil
	}
}

// builder builds a list of netlink attributes after a fixed header.
type builder struct{ b []byte }

func header(n int) *builder { return &builder{b: make([]byte, n, n+256)} }

func (a *builder) bytes(kind uint16, v []byte) {
	n := 4 + len(v)
	a.b = binary.NativeEndian.AppendUint16(a.b, uint16(n))
	a.b = binary.NativeEndian.AppendUint16(a.b, kind)
	a.b = append(a.b, v...)
	a.b = append(a.b, make([]byte, -n&3)...)
}

func (a *builder) str(kind uint16, v string) { a.bytes(kind, append([]byte(v), 0)) }
func (a *builder) u8(kind uint16, v uint8)   { a.bytes(kind, []byte{v}) }
func (a *builder) u32(kind uint16, v uint32) {
	a.bytes(kind, binary.NativeEndian.AppendUint32(nil, v))
}

// nest adds an attribute that is a list of attributes, after head.
func (a *builder) nest(kind uint16, f func(*builder)) {
	start := len(a.b)
	a.b = append(a.b, 0, 0, 0, 0)
	f(a)
	binary.NativeEndian.PutUint16(a.b[start:], uint16(len(a.b)-start))
	binary.NativeEndian.PutUint16(a.b[start+2:], kind|unix.NLA_F_NESTED)
}

// eachAttr calls f for every attribute in b. It is strict about lengths: what is
// too short is an error.
func eachAttr(b []byte, f func(kind uint16, v []byte) error) error {
	for len(b) >= 4 {
		n := int(binary.NativeEndian.Uint16(b))
		if n < 4 || n > len(b) {
			return errors.New("netlink attribute with a wrong length")
		}
		kind := binary.NativeEndian.Uint16(b[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
		if err := f(kind, b[4:n]); err != nil {
			return err
		}
		b = b[min((n+3)&^3, len(b)):]
	}
	return nil
}

func u32(v []byte) uint32 {
	if len(v) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(v)
}

func u8(v []byte) uint8 {
	if len(v) < 1 {
		return 0
	}
	return v[0]
}

// text is a string attribute without its terminating zero.
func text(v []byte) string {
	for i, c := range v {
		if c == 0 {
			return string(v[:i])
		}
	}
	return string(v)
}

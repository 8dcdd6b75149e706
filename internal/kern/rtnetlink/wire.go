package rtnetlink

import (
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Conn is a routing netlink socket in one namespace. It is used by one
// goroutine at a time.
type Conn struct {
	nl     *netlink.Conn
	Broken bool // replies are out of step; not to be used again
}

// Dial opens a socket in the namespace fd refers to; 0 is the calling thread's.
func Dial(fd int) (*Conn, error) {
	nl, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{NetNS: fd, MessageBufferSize: 64 << 10})
	if err != nil {
		return nil, fmt.Errorf("open a routing netlink socket: %w", err)
	}
	// Extended acknowledgements only make errors clearer, and strict checks only
	// make dumps smaller: kernels before 4.12 and 4.20 do without.
	_ = nl.SetOption(netlink.ExtendedAcknowledge, true)
	_ = nl.SetOption(netlink.GetStrictCheck, true)
	return &Conn{nl: nl}, nil
}

func (c *Conn) Close() error { return c.nl.Close() }

// Request is one message of a batch.
type Request struct {
	Kind  uint16
	flags netlink.HeaderFlags
	Data  []byte
	// reply takes the answer of a request for one object; without it the answer is
	// an acknowledgement.
	Reply func([]byte) error
	// settled are the errors that mean there was nothing to do.
	Settled []unix.Errno
	Op      int // index of the operation it is part of
}

// batchSize keeps the answers to one send within the socket's receive buffer.
const batchSize = 64

// Batch sends the requests in as few system calls as possible and returns the
// position of the first that failed. The kernel carries on with
// those after it in the same send.
func (c *Conn) Batch(requests []Request) (int, error) {
	for start := 0; start < len(requests); start += batchSize {
		part := requests[start:min(start+batchSize, len(requests))]
		if i, err := c.send(part); err != nil {
			return start + i, err
		}
	}
	return 0, nil
}

func (c *Conn) send(part []Request) (int, error) {
	msgs := make([]netlink.Message, len(part))
	for i, r := range part {
		msgs[i] = netlink.Message{
			Header: netlink.Header{Type: netlink.HeaderType(r.Kind), Flags: r.flags | netlink.Request},
			Data:   r.Data,
		}
		if r.Reply == nil {
			msgs[i].Header.Flags |= netlink.Acknowledge
		}
	}
	sent, err := c.nl.SendMessages(msgs)
	if err != nil {
		c.Broken = true
		return 0, err
	}
	failed, first := 0, error(nil)
	for i, r := range part {
		answer, err := c.receive(sent[i].Header.Sequence)
		if c.Broken {
			return i, err
		}
		if err == nil && r.Reply != nil {
			err = r.Reply(answer)
		}
		if ErrnoIs(err, r.Settled...) {
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
func (c *Conn) receive(sequence uint32) ([]byte, error) {
	msgs, err := c.nl.Receive()
	var refused *netlink.OpError
	if errors.As(err, &refused) && refused.Op == "receive" && isRefusal(refused) {
		return nil, readable(refused)
	}
	if err != nil {
		c.Broken = true
		return nil, err
	}
	if len(msgs) != 1 || msgs[0].Header.Sequence != sequence {
		c.Broken = true
		return nil, errors.New("routing netlink: an answer to another request")
	}
	return msgs[0].Data, nil
}

// isRefusal tells an error the kernel answered with from one of the socket.
func isRefusal(e *netlink.OpError) bool {
	return !ErrnoIs(e.Err, unix.ENOBUFS, unix.EBADF, unix.ENOTCONN) && !e.Timeout()
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

// Dump reads a whole table. A dump that was interrupted by a change has holes, so it
// is started again.
func (c *Conn) Dump(kind uint16, data []byte, each func([]byte) error) error {
	for try := 0; ; try++ {
		msgs, err := c.nl.Execute(netlink.Message{
			Header: netlink.Header{Type: netlink.HeaderType(kind), Flags: netlink.Request | netlink.Dump},
			Data:   data,
		})
		again := ErrnoIs(err, unix.EINTR, unix.EBUSY)
		for _, m := range msgs {
			again = again || m.Header.Flags&dumpIntr != 0
		}
		switch {
		case again && try < dumpTries:
			continue
		case err != nil:
			c.Broken = true
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

// ErrnoIs reports whether err is one of the given error numbers.
func ErrnoIs(err error, any ...unix.Errno) bool {
	var e unix.Errno
	if !errors.As(err, &e) {
		return false
	}
	for _, a := range any {
		if e == a {
			return true
		}
	}
	return false
}

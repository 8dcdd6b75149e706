package nftables

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/mdlayher/socket"
	"github.com/vethloom/vethloom/internal/kern/attr"
	"golang.org/x/sys/unix"
)

// Socket buffers. The kernel takes a transaction as one datagram, so the send
// buffer grows with the transaction. It can report an error for each message, and each
// takes about 1 KiB of the receive buffer, twice what is asked for.
const (
	nftReadBuffer  = 1 << 20
	nftErrorRoom   = 1 << 10
	nftWriteBuffer = 1 << 18
	nftDatagram    = 1 << 17
)

// errInterrupted is a dump during which the ruleset changed.
var errInterrupted = errors.New("the ruleset changed while it was read")

// conn is a netlink socket to nf_tables. It is not safe for concurrent use.
type conn struct {
	sock  *socket.Conn
	port  uint32 // of netlink, which no other socket of the namespace has
	seq   uint32
	buf   []byte
	write int // bytes of send buffer asked for so far
	read  int // of receive buffer
}

func dial(nsFd int) (*conn, error) {
	sock, err := socket.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER, "nft",
		&socket.Config{NetNS: nsFd})
	if err != nil {
		if errors.Is(err, unix.EPROTONOSUPPORT) {
			return nil, unsupported("nfnetlink (CONFIG_NETFILTER_NETLINK)")
		}
		return nil, fmt.Errorf("open netfilter netlink socket: %w", err)
	}
	s := &conn{sock: sock, buf: make([]byte, nftDatagram), write: nftWriteBuffer, read: nftReadBuffer}
	err = errors.Join(
		sock.SetsockoptInt(unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1),
		sock.SetsockoptInt(unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1),
		sock.SetReadBuffer(nftReadBuffer),
		sock.SetWriteBuffer(nftWriteBuffer),
		sock.Bind(&unix.SockaddrNetlink{Family: unix.AF_NETLINK}),
	)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("set up netfilter netlink socket: %w", err), sock.Close())
	}
	name, err := sock.Getsockname()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("find the port of a netlink socket: %w", err), sock.Close())
	}
	if a, ok := name.(*unix.SockaddrNetlink); ok {
		s.port = a.Pid
	}
	return s, nil
}

func (s *conn) close() error { return s.sock.Close() }

// send hands one datagram to the kernel, which has carried it out when this returns.
func (s *conn) send(ctx context.Context, b []byte) error {
	if need := len(b) + attr.Align*1024; need > s.write {
		if err := s.sock.SetWriteBuffer(need); err != nil {
			return fmt.Errorf("grow the send buffer to %d bytes: %w", need, err)
		}
		s.write = need
	}
	err := s.sock.Sendto(ctx, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	if errors.Is(err, unix.EMSGSIZE) {
		return fmt.Errorf("send %d bytes in one transaction: %w: raise net.core.wmem_max or give CAP_NET_ADMIN",
			len(b), err)
	}
	return err
}

// expect makes room for an answer to each of n messages.
func (s *conn) expect(n int) error {
	need := n * nftErrorRoom
	if need <= s.read {
		return nil
	}
	if err := s.sock.SetReadBuffer(need); err != nil {
		return fmt.Errorf("grow the receive buffer to %d bytes: %w", need, err)
	}
	s.read = need
	return nil
}

// receive returns the messages of one datagram; they are valid until the next call.
func (s *conn) receive(ctx context.Context) ([]message, error) {
	n, _, flags, _, err := s.sock.Recvmsg(ctx, s.buf, nil, unix.MSG_TRUNC)
	if err != nil {
		return nil, err
	}
	if flags&unix.MSG_TRUNC != 0 || n > len(s.buf) {
		return nil, fmt.Errorf("netlink datagram of %d bytes was cut", n)
	}
	return messages(s.buf[:n])
}

// nextSeq reserves n sequence numbers and returns the first.
func (s *conn) nextSeq(n int) uint32 {
	first := s.seq + 1
	s.seq += uint32(n)
	return first
}

// request sends one message built by fill and passes each message of the
// answer to each: the one reply, or with NLM_F_DUMP all of them.
func (s *conn) request(ctx context.Context, typ, flags uint16, family byte, fill func(*wire),
	each func(message)) error {
	var w wire
	seq := s.nextSeq(1)
	// Without NLM_F_ACK a successful GET is answered by its reply alone.
	at := w.message(unix.NFNL_SUBSYS_NFTABLES<<8|typ, flags, seq, family, 0)
	fill(&w)
	w.endMessage(at)
	if err := s.send(ctx, w.B); err != nil {
		return err
	}
	interrupted := false
	for {
		msgs, err := s.receive(context.WithoutCancel(ctx))
		if err != nil {
			return err
		}
		for _, m := range msgs {
			if m.seq != seq {
				continue // a leftover of a request that failed half-way
			}
			interrupted = interrupted || m.flags&unix.NLM_F_DUMP_INTR != 0
			done, err := answer(m, each)
			if err != nil {
				return err
			}
			if done || flags&unix.NLM_F_DUMP == 0 {
				if interrupted {
					return errInterrupted
				}
				return nil
			}
		}
	}
}

// answer handles one message of an answer; done is true for the last.
func answer(m message, each func(message)) (done bool, err error) {
	switch m.typ {
	case unix.NLMSG_DONE:
		return true, nil
	case unix.NLMSG_ERROR:
		errno, _, text := m.ack()
		if errno == 0 {
			return true, nil
		}
		return true, withText(errno, text)
	}
	each(m)
	return false, nil
}

// withText adds the kernel's own words to an error number.
func withText(errno unix.Errno, text string) error {
	if text == "" {
		return os.NewSyscallError("nf_tables", errno)
	}
	return fmt.Errorf("%w (%s)", os.NewSyscallError("nf_tables", errno), text)
}

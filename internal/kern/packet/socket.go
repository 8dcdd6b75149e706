package packet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"net"
	"os"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/internal/kern/netns"
	"github.com/vethloom/vethloom/plan"
)

// Socket sends and receives frames on a link. It sees them before the kernel gives them to links that sit on it.
type Socket struct {
	MAC  plan.MAC // the link's
	link net.Interface
	file *os.File
}

// Open opens a socket on an Ethernet link in a namespace. It receives what the filter accepts, of what is addressed to
// the link itself or a link that sits on it, and carries no VLAN tag. The error is a [plan.NoLinkError] when there is
// no such link.
func Open(ns int, link string, accept []bpf.Instruction) (*Socket, error) {
	s := &Socket{}
	if err := netns.Enter(ns, func() error { return s.open(link, accept) }); err != nil {
		return nil, fmt.Errorf("open a packet socket on %s: %w", link, err)
	}
	return s, nil
}

func (s *Socket) open(link string, accept []bpf.Instruction) error {
	found, err := net.InterfaceByName(link)
	if err != nil {
		return &plan.NoLinkError{Link: link, Err: err}
	}
	if s.link = *found; len(s.link.HardwareAddr) != len(s.MAC) {
		return fmt.Errorf("a hardware address of %d bytes: no Ethernet", len(s.link.HardwareAddr))
	}
	s.MAC = plan.MAC(s.link.HardwareAddr)
	filter, err := bpf.Assemble(append([]bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtVLANTagPresent}, bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0, SkipTrue: 1},
		bpf.RetConstant{},
	}, accept...))
	if err != nil {
		return fmt.Errorf("write the filter: %w", err)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	s.file = os.NewFile(uintptr(fd), "packet:"+link)
	if err := s.bind(fd, filter); err != nil {
		s.file.Close()
		return err
	}
	return nil
}

// bind has the socket receive, once the filter is there: until then it is for no protocol at all.
func (s *Socket) bind(fd int, filter []bpf.RawInstruction) error {
	program := make([]unix.SockFilter, len(filter))
	for i, f := range filter {
		program[i] = unix.SockFilter{Code: f.Op, Jt: f.Jt, Jf: f.Jf, K: f.K}
	}
	err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
	if err != nil {
		return os.NewSyscallError("setsockopt SO_ATTACH_FILTER", err)
	}
	// Answers to a solicitation without a source go to all nodes, and the link may be without IPv6.
	if err := s.join(unix.PACKET_MR_MULTICAST, plan.MAC{0x33, 0x33, 0, 0, 0, 1}); err != nil {
		return err
	}
	err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: bigEndian(unix.ETH_P_ALL), Ifindex: s.link.Index})
	return os.NewSyscallError("bind", err)
}

func bigEndian(v uint16) uint16 {
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 {
		return v
	}
	return bits.ReverseBytes16(v)
}

// join has the link take frames to one more hardware address.
func (s *Socket) join(kind uint16, mac plan.MAC) error {
	conn, err := s.file.SyscallConn()
	if err != nil {
		return err
	}
	m := unix.PacketMreq{Ifindex: int32(s.link.Index), Type: kind, Alen: uint16(len(mac))}
	copy(m.Address[:], mac[:])
	var joined error
	err = conn.Control(func(fd uintptr) {
		joined = unix.SetsockoptPacketMreq(int(fd), unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &m)
	})
	return errors.Join(err, os.NewSyscallError("setsockopt PACKET_ADD_MEMBERSHIP", joined))
}

// Close closes the socket.
func (s *Socket) Close() error { return s.file.Close() }

// SetReadDeadline bounds [Socket.Receive].
func (s *Socket) SetReadDeadline(t time.Time) error { return s.file.SetReadDeadline(t) }

// Send sends a frame.
func (s *Socket) Send(frame []byte) error {
	conn, err := s.file.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	err = conn.Write(func(fd uintptr) bool {
		sent = unix.Sendto(int(fd), frame, 0, &unix.SockaddrLinklayer{Ifindex: s.link.Index})
		return !errors.Is(sent, unix.EAGAIN)
	})
	return errors.Join(err, os.NewSyscallError("sendto", sent))
}

// Receive receives a frame that somebody else has sent into b. The error is an [os.ErrDeadlineExceeded] when there is
// none in time.
func (s *Socket) Receive(b []byte) ([]byte, error) {
	conn, err := s.file.SyscallConn()
	if err != nil {
		return nil, err
	}
	for {
		var n int
		var from unix.Sockaddr
		var received error
		err := conn.Read(func(fd uintptr) bool {
			n, from, received = unix.Recvfrom(int(fd), b, 0)
			return !errors.Is(received, unix.EAGAIN)
		})
		if err = errors.Join(err, os.NewSyscallError("recvfrom", received)); err != nil {
			return nil, err
		}
		if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype != unix.PACKET_OUTGOING {
			return b[:n], nil
		}
	}
}

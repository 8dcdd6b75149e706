package packet

import (
	"net"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/plan"
)

// Conn carries IPv4 packets with UDP on a link, for a program that has no address there yet, as a client of DHCP is. It
// speaks with a hardware address that may be another than the link's. Its addresses are of type [packet.Addr].
type Conn struct {
	s   *Socket
	mac plan.MAC
}

var _ net.PacketConn = (*Conn)(nil)

// ListenUDP opens a connection that receives what is sent to a port, by whatever hardware and IPv4 address. The error
// is a [plan.NoLinkError] when the namespace has no such link.
func ListenUDP(ns int, link string, mac plan.MAC, port uint16) (*Conn, error) {
	s, err := Open(ns, link, toPort(port))
	if err != nil {
		return nil, err
	}
	// A link without a filter of addresses becomes promiscuous by it; a bridge shows then what it forwards.
	if err := s.join(unix.PACKET_MR_UNICAST, mac); err != nil {
		s.Close()
		return nil, err
	}
	return &Conn{s: s, mac: mac}, nil
}

// toPort accepts whole packets of UDP and IPv4 to a port.
func toPort(port uint16) []bpf.Instruction {
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: 12, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.ETH_P_IP, SkipFalse: 8},
		bpf.LoadAbsolute{Off: etherLen + 9, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.IPPROTO_UDP, SkipFalse: 6},
		bpf.LoadAbsolute{Off: etherLen + 6, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 0x3fff, SkipTrue: 4}, // a fragment
		bpf.LoadMemShift{Off: etherLen},
		bpf.LoadIndirect{Off: etherLen + 2, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(port), SkipFalse: 1},
		bpf.RetConstant{Val: 65535},
		bpf.RetConstant{},
	}
}

// ReadFrom receives a packet, beginning with its IPv4 header.
func (c *Conn) ReadFrom(b []byte) (int, net.Addr, error) {
	buf := make([]byte, etherLen+len(b))
	f, err := c.s.Receive(buf)
	if err != nil {
		return 0, nil, err
	}
	from := make(net.HardwareAddr, len(c.mac))
	copy(from, f[6:])
	return copy(b, f[etherLen:]), &packet.Addr{HardwareAddr: from}, nil
}

// WriteTo sends a packet, beginning with its IPv4 header.
func (c *Conn) WriteTo(b []byte, to net.Addr) (int, error) {
	a, ok := to.(*packet.Addr)
	if !ok || len(a.HardwareAddr) != len(c.mac) {
		return 0, &net.AddrError{Err: "not a hardware address of Ethernet", Addr: to.String()}
	}
	return len(b), c.s.Send(append(header(plan.MAC(a.HardwareAddr), c.mac, unix.ETH_P_IP), b...))
}

// Close closes the connection.
func (c *Conn) Close() error { return c.s.Close() }

// LocalAddr is the hardware address that the connection speaks with.
func (c *Conn) LocalAddr() net.Addr { return &packet.Addr{HardwareAddr: c.mac[:]} }

// SetDeadline bounds reading and writing.
func (c *Conn) SetDeadline(t time.Time) error { return c.s.file.SetDeadline(t) }

// SetReadDeadline bounds reading.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.s.file.SetReadDeadline(t) }

// SetWriteDeadline bounds writing.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.s.file.SetWriteDeadline(t) }

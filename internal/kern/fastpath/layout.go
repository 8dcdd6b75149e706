package fastpath

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"

	"github.com/vethloom/vethloom/plan"
)

// What follows are the keys and values of the tables, byte for byte as bpf/fastpath.c has them. Numbers are in the
// host's byte order but for UDP and TCP ports.

// number is how programs know a network; 0 is all that plain routes lead to.
type number uint64

func numberOf(n plan.FastNetwork) (number, error) {
	v, err := strconv.ParseUint(string(n), 16, 64)
	if err != nil || len(n) != 16 || v == 0 {
		return 0, fmt.Errorf("network %q: want 16 hexadecimal digits that are not all zero", n)
	}
	return number(v), nil
}

// bytes are the number in the host's byte order.
func (n number) bytes() (b [8]byte) {
	binary.NativeEndian.PutUint64(b[:], uint64(n))
	return b
}

func numberIn(b [8]byte) number { return number(binary.NativeEndian.Uint64(b[:])) }

func (n number) network() plan.FastNetwork { return plan.FastNetwork(fmt.Sprintf("%016x", uint64(n))) }

// address is IPv6, or IPv4 mapped into it (RFC 4291 section 2.5.5.2).
type address [16]byte

func addressOf(a netip.Addr) address {
	if !a.IsValid() {
		return address{}
	}
	return a.As16()
}

func (a address) addr() netip.Addr {
	if a == (address{}) {
		return netip.Addr{}
	}
	return netip.AddrFrom16(a).Unmap()
}

// port is in network byte order.
type port [2]byte

func portOf(n uint16) (p port) {
	binary.BigEndian.PutUint16(p[:], n)
	return p
}

func (p port) number() uint16 { return binary.BigEndian.Uint16(p[:]) }

type sender struct {
	Network number
	MAC     plan.MAC
	_       [2]byte
}

type place struct {
	Network number
	Addr    address
}

// What is known of an endpoint.
const (
	publishes = 1
	slow      = 2
)

type endpoint struct {
	Network number
	Link    uint32
	MTU     uint32
	Flags   uint32
	MAC     plan.MAC
	Via     plan.MAC
}

type endpointPort struct {
	Network number
	Addr    address
	Port    port
	Proto   byte
	_       [5]byte
}

type prefix struct {
	Bits    uint32
	Network [8]byte
	Addr    address
}

// Flags of ways to other nodes.
const (
	routed = 1
	aside  = 2
	block  = 4
)

type peer struct {
	Node, Self, Hop address
	Link            uint32
	MTU             uint32
	VNI             uint32
	Port            port
	Way             way
	Flags           byte
	Via, Src, Dst   plan.MAC
	_               [2]byte
}

const noVNI = 1<<32 - 1

type end struct {
	VNI    uint32
	Port   port
	Family uint16
}

type tunnel struct {
	Network number
	Self    address
	MAC     plan.MAC
	Way     way
	Flags   byte
	Link    uint32
	_       [4]byte
}

// way is how packets get to another node.
type way byte

func ways() []plan.FastWay { return []plan.FastWay{plan.FastPlain, plan.FastUDP, plan.FastVXLAN} }

func wayOf(w plan.FastWay) (way, error) {
	for i, o := range ways() {
		if o == w {
			return way(i + 1), nil
		}
	}
	return 0, fmt.Errorf("no way %q to other nodes", w)
}

func (w way) plan() plan.FastWay {
	if i := int(w) - 1; i >= 0 && i < len(ways()) {
		return ways()[i]
	}
	return ""
}

func flag(on bool, bit byte) byte {
	if on {
		return bit
	}
	return 0
}

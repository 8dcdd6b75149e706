package control

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/internal/descriptor"
	"github.com/vethloom/vethloom/plan"
)

// Sockets are those of one server: two to answer at, bound and listening, and those to ask by from inside of a
// sandbox, which are neither bound nor connected and of both families where the kernel has both.
type Sockets struct {
	UDP, TCP       descriptor.Descriptor
	AskUDP, AskTCP []descriptor.Descriptor
}

// Held is a server with its UDP socket, which tells where both are.
type Held struct {
	plan.NameServer
	UDP descriptor.Descriptor
}

// All are all of them, as they are sent.
func (s Sockets) All() []descriptor.Descriptor {
	out := append([]descriptor.Descriptor{s.UDP, s.TCP}, s.AskUDP...)
	return append(out, s.AskTCP...)
}

// Close closes all of them.
func (s Sockets) Close() { descriptor.Close(s.All()) }

// Duplicate makes further descriptors of the same sockets.
func (s Sockets) Duplicate() (Sockets, error) {
	var out []descriptor.Descriptor
	for _, d := range s.All() {
		dup, err := d.Duplicate()
		if err != nil {
			descriptor.Close(out)
			return Sockets{}, err
		}
		out = append(out, dup)
	}
	return Sockets{UDP: out[0], TCP: out[1], AskUDP: out[2 : 2+len(s.AskUDP)], AskTCP: out[2+len(s.AskUDP):]}, nil
}

// SocketsOf tells by their types which descriptors are which. The first two are those to answer at.
func SocketsOf(all []descriptor.Descriptor) (Sockets, error) {
	var s Sockets
	if len(all) < 2 {
		return s, fmt.Errorf("a server with %d sockets: want one of UDP and one of TCP", len(all))
	}
	for i, d := range all {
		kind, err := unix.GetsockoptInt(d.FD(), unix.SOL_SOCKET, unix.SO_TYPE)
		switch {
		case err != nil:
			return s, fmt.Errorf("look at socket %d of a server: %w", i, err)
		case i == 0 && kind == unix.SOCK_DGRAM:
			s.UDP = d
		case i == 1 && kind == unix.SOCK_STREAM:
			s.TCP = d
		case i > 1 && kind == unix.SOCK_DGRAM:
			s.AskUDP = append(s.AskUDP, d)
		case i > 1 && kind == unix.SOCK_STREAM:
			s.AskTCP = append(s.AskTCP, d)
		default:
			return s, fmt.Errorf("socket %d of a server is of type %d", i, kind)
		}
	}
	return s, nil
}

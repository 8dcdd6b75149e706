package kern

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/internal/descriptor"
	"github.com/vethloom/vethloom/internal/kern/netns"
	"github.com/vethloom/vethloom/internal/kern/nftables"
	"github.com/vethloom/vethloom/internal/resolver/control"
	"github.com/vethloom/vethloom/plan"
)

// OnSpareThread runs f on a thread that ends with it, whatever f made of the thread.
func OnSpareThread(f func() error) error { return netns.OnSpareThread(f) }

// NameHost answers questions about names, in a process of its own. Its methods may be called concurrently.
//
// It outlives the [Kernel], and its process outlives this one: what it has is found again by List.
type NameHost interface {
	// Names adds, changes and removes zones and members, by the operations on them.
	Names(context.Context, []plan.Op) error
	// Serve answers at sockets from now on, instead of at those that the server had. It takes them over.
	Serve(context.Context, plan.NameServer, control.Sockets) error
	// Stop ends a server and closes its sockets, by its key. One that is not there is no error.
	Stop(context.Context, string) error
	// List returns all there is. The sockets stay those of the host.
	List() ([]plan.NameZone, []plan.NameMember, []control.Held)
}

// How many sockets a server gets to ask from inside of its namespace. Questions share them.
const (
	askUDP = 8
	askTCP = 2
)

// sharedBuffer is for questions over UDP at a gateway, in bytes: some thousands.
const sharedBuffer = 2 << 20

// dnsPort is where names are asked for (RFC 1035 section 4.2).
const dnsPort = 53

func (k *Kernel) namesHandler() handler {
	return handler{group: "names", apply: func(ctx context.Context, s *session, part []plan.Op) error {
		if s.k.names == nil {
			return fmt.Errorf("names: %w", plan.ErrUnsupported)
		}
		return s.k.names.Names(ctx, part)
	}}
}

func (k *Kernel) nameServerHandler() handler {
	return handler{
		apply: one(func(ctx context.Context, s *session, op plan.Op, n plan.NameServer) error {
			return s.k.nameServer(ctx, s, op, n)
		}),
		observe: func(ctx context.Context, s *plan.State) error { return k.listNames(ctx, s) },
	}
}

// nameServer opens the sockets of a server and hands them over, or has them closed.
func (k *Kernel) nameServer(ctx context.Context, s *session, op plan.Op, n plan.NameServer) error {
	switch {
	case k.names == nil && op.Verb == plan.Delete:
		return nil
	case k.names == nil:
		return fmt.Errorf("names: %w", plan.ErrUnsupported)
	case op.Verb == plan.Delete:
		return k.names.Stop(ctx, n.Key())
	case op.Verb == plan.Modify: // another address may not be free before
		if err := k.names.Stop(ctx, n.Key()); err != nil {
			return err
		}
	}
	fd, err := s.fd(n.NS)
	if err != nil {
		return err
	}
	socks, err := k.openNames(fd, n)
	if err != nil {
		return fmt.Errorf("open the sockets of %s: %w", n, err)
	}
	return k.names.Serve(ctx, n, socks)
}

// openNames opens the sockets of a server in its namespace. Port 53 is a sandbox's own: there the sockets are on
// another one, and packets led to it; on hosts without nftables the server has port 53 all the same.
func (k *Kernel) openNames(fd int, n plan.NameServer) (control.Sockets, error) {
	open := func(port uint16) (socks control.Sockets, err error) {
		err = netns.Enter(fd, func() error {
			socks, err = openNameSockets(n, port)
			return err
		})
		return socks, err
	}
	if n.NS == "" {
		return open(dnsPort)
	}
	socks, err := open(0)
	if err != nil {
		return socks, err
	}
	bound, err := boundTo(socks.UDP)
	if err == nil {
		err = nftables.SetNamePort(fd, n.Addr, bound.Port())
	}
	if err == nil {
		return socks, nil
	}
	socks.Close()
	if errors.Is(err, plan.ErrUnsupported) {
		return open(dnsPort)
	}
	return control.Sockets{}, fmt.Errorf("lead questions there: %w", err)
}

// listNames adds the names there are. A server whose sockets are in a namespace or on a link that is another one now,
// or that questions are not led to any more, does not count: it is served anew.
func (k *Kernel) listNames(ctx context.Context, s *plan.State) error {
	if k.names == nil {
		return nil
	}
	zones, members, servers := k.names.List()
	s.NameZones, s.NameMembers = zones, members
	for _, h := range servers {
		if err := ctx.Err(); err != nil {
			return err
		}
		if n := h.NameServer; k.nameServerWorks(h) {
			s.NameServers = append(s.NameServers, n)
		} else {
			n.Network = stale // differs from whatever is wanted, and can be removed by its key
			s.NameServers = append(s.NameServers, n)
		}
	}
	return nil
}

// stale is the network of no server.
const stale = "-"

func (k *Kernel) nameServerWorks(h control.Held) bool {
	if h.NS == "" {
		return onItsLink(h.UDP, h.Link)
	}
	pin, err := k.openPin(h.NS)
	if err != nil {
		return false
	}
	defer pin.Close()
	if !inNamespace(h.UDP, pin) {
		return false
	}
	bound, err := boundTo(h.UDP)
	if err != nil || bound.Port() == dnsPort {
		return err == nil
	}
	led, err := nftables.HasNamePort(int(pin.Fd()), bound.Port())
	return err == nil && led
}

// inNamespace reports whether a socket is of a namespace.
func inNamespace(sock descriptor.Descriptor, ns *os.File) bool {
	of, err := unix.IoctlRetInt(sock.FD(), unix.SIOCGSKNS)
	if err != nil {
		return false
	}
	defer unix.Close(of)
	var a, b unix.Stat_t
	return unix.Fstat(of, &a) == nil && unix.Fstat(int(ns.Fd()), &b) == nil && a.Ino == b.Ino && a.Dev == b.Dev
}

// onItsLink reports whether a socket is bound to the link that has a name now. The kernel tells the name of a link
// that is gone to nobody.
func onItsLink(sock descriptor.Descriptor, link string) bool {
	is, err := unix.GetsockoptString(sock.FD(), unix.SOL_SOCKET, unix.SO_BINDTODEVICE)
	return err == nil && is == link
}

// openNameSockets runs in the server's namespace.
func openNameSockets(n plan.NameServer, port uint16) (s control.Sockets, err error) {
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if s.UDP, s.TCP, err = bindNames(n, port); err != nil || len(n.Upstreams) == 0 {
		return s, err
	}
	for range askUDP {
		f, err := unboundSocket(unix.SOCK_DGRAM)
		if err != nil {
			return s, err
		}
		s.AskUDP = append(s.AskUDP, f)
	}
	for range askTCP {
		f, err := unboundSocket(unix.SOCK_STREAM)
		if err != nil {
			return s, err
		}
		s.AskTCP = append(s.AskTCP, f)
	}
	return s, nil
}

// bindNames opens both sockets on one port. A free one for UDP may be taken for TCP: then it is another one.
func bindNames(n plan.NameServer, port uint16) (udp, tcp descriptor.Descriptor, err error) {
	for range 32 {
		if udp, err = nameSocket(n, unix.SOCK_DGRAM, port); err != nil {
			return udp, tcp, err
		}
		at, err := boundTo(udp)
		if err != nil {
			return udp, tcp, err
		}
		if tcp, err = nameSocket(n, unix.SOCK_STREAM, at.Port()); err == nil {
			return udp, tcp, nil
		}
		udp.Close()
		if port != 0 || !errors.Is(err, unix.EADDRINUSE) {
			return descriptor.Descriptor{}, tcp, err
		}
	}
	return descriptor.Descriptor{}, tcp, fmt.Errorf("find a port that is free for UDP and TCP: %w", unix.EADDRINUSE)
}

// nameSocket opens a socket, bound and of TCP listening.
func nameSocket(n plan.NameServer, kind int, port uint16) (descriptor.Descriptor, error) {
	domain := unix.AF_INET
	var sa unix.Sockaddr = &unix.SockaddrInet4{Port: int(port), Addr: as4(n.Addr)}
	if n.Addr.Is6() {
		domain, sa = unix.AF_INET6, &unix.SockaddrInet6{Port: int(port), Addr: n.Addr.As16()}
	}
	fd, err := unix.Socket(domain, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return descriptor.Descriptor{}, err
	}
	set := func() error {
		if n.Link != "" {
			// Nothing that comes by another link is taken in, whatever address it was sent to.
			if err := unix.BindToDevice(fd, n.Link); err != nil {
				return fmt.Errorf("bind to link %s: %w", n.Link, err)
			}
		}
		if n.Link != "" && kind == unix.SOCK_DGRAM {
			// Several ask there: what one of them sends while the server does not run leaves room for the others.
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, sharedBuffer); err != nil {
				return fmt.Errorf("make room for questions: %w", err)
			}
		}
		if n.Link != "" || kind == unix.SOCK_STREAM {
			// Beside servers of others on all addresses, where those allow it too. In a sandbox any program could take
			// questions away by it.
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
				return err
			}
		}
		if err := unix.Bind(fd, sa); err != nil {
			return fmt.Errorf("bind to %s: %w", netip.AddrPortFrom(n.Addr, port), err)
		}
		if kind == unix.SOCK_STREAM {
			return unix.Listen(fd, 64)
		}
		return nil
	}
	if err := set(); err != nil {
		unix.Close(fd)
		return descriptor.Descriptor{}, err
	}
	return descriptor.Of(fd), nil
}

// unboundSocket opens a socket that reaches both families, or IPv4 where the kernel has no IPv6.
func unboundSocket(kind int) (descriptor.Descriptor, error) {
	flags := kind | unix.SOCK_CLOEXEC | unix.SOCK_NONBLOCK
	fd, err := unix.Socket(unix.AF_INET6, flags, 0)
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0)
	}
	if errors.Is(err, unix.EAFNOSUPPORT) {
		fd, err = unix.Socket(unix.AF_INET, flags, 0)
	}
	if err != nil {
		return descriptor.Descriptor{}, fmt.Errorf("open a socket to ask by: %w", err)
	}
	return descriptor.Of(fd), nil
}

// boundTo is the address that a socket is bound to.
func boundTo(sock descriptor.Descriptor) (netip.AddrPort, error) {
	sa, err := unix.Getsockname(sock.FD())
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("read a socket's address: %w", err)
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)), nil
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port)), nil
	}
	return netip.AddrPort{}, fmt.Errorf("a socket of family %T", sa)
}

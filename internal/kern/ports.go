package kern

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/vethloom/vethloom/internal/kern/netns"
	"github.com/vethloom/vethloom/plan"
	"golang.org/x/sys/unix"
)

// ports are the host ports this process holds.
type ports struct {
	mu     sync.Mutex
	held   map[string]*hold
	byPort map[heldPort][]*hold // one of the port for each address
}

type heldPort struct {
	proto plan.L4
	port  uint16
}

// enter and leave keep byPort; the caller holds mu.
func (p *ports) enter(h *hold) {
	p.held[h.Key()] = h
	for port := int(h.From); port <= int(h.To); port++ {
		at := heldPort{h.Proto, uint16(port)}
		p.byPort[at] = append(p.byPort[at], h)
	}
}

func (p *ports) leave(h *hold) {
	delete(p.held, h.Key())
	for port := int(h.From); port <= int(h.To); port++ {
		at := heldPort{h.Proto, uint16(port)}
		left := slices.DeleteFunc(p.byPort[at], func(x *hold) bool { return x == h })
		if p.byPort[at] = left; len(left) == 0 {
			delete(p.byPort, at)
		}
	}
}

// overlap finds a hold that has a port in common with what is wanted.
func (p *ports) overlap(want plan.PortReservation) *hold {
	for port := int(want.From); port <= int(want.To); port++ {
		for _, h := range p.byPort[heldPort{want.Proto, uint16(port)}] {
			if h.Overlaps(want) {
				return h
			}
		}
	}
	return nil
}

// hold is one held range with a bound socket for each of its ports.
type hold struct {
	plan.PortReservation
	sockets []int
}

func (h *hold) release() {
	for _, fd := range h.sockets {
		unix.Close(fd)
	}
	h.sockets = nil
}

func (p *ports) list() []plan.PortReservation {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]plan.PortReservation, 0, len(p.held))
	for _, h := range p.held {
		out = append(out, h.PortReservation)
	}
	return out
}

func (p *ports) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, h := range p.held {
		h.release()
	}
	clear(p.held)
	clear(p.byPort)
}

// port binds or releases the ports of one hold. All are bound or none.
func (k *Kernel) port(op plan.Op) error {
	want := op.Object.(plan.PortReservation)
	k.ports.mu.Lock()
	defer k.ports.mu.Unlock()
	switch op.Verb {
	case plan.Create:
	case plan.Delete:
		if h := k.ports.held[want.Key()]; h != nil {
			h.release()
			k.ports.leave(h)
		}
		return nil
	default:
		return badVerb(op)
	}
	if !want.Addr.IsValid() || want.From == 0 || want.To < want.From {
		return fmt.Errorf("%s: want an address and ports from 1 to 65535", want)
	}
	if h := k.ports.overlap(want); h != nil {
		one := want
		one.From = max(want.From, h.From)
		one.To = one.From
		return &plan.PortTakenError{Port: one, For: h.Owner}
	}
	h := &hold{PortReservation: want}
	err := k.enter(want.NS, func() error {
		for port := int(want.From); port <= int(want.To); port++ {
			fd, err := bindPort(want.Addr, want.Proto, uint16(port))
			if err != nil {
				return portError(want, uint16(port), err)
			}
			h.sockets = append(h.sockets, fd)
		}
		return nil
	})
	if err != nil {
		h.release()
		return err
	}
	k.ports.enter(h)
	return nil
}

// portError names the address, the port, and who has it.
func portError(p plan.PortReservation, port uint16, err error) error {
	one := p
	one.From, one.To = port, port
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return &plan.PortTakenError{Port: one, By: usedBy(p.Proto, port)}
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return fmt.Errorf("%s: the host has no such address: %w", one, err)
	case errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EAFNOSUPPORT), errors.Is(err, unix.ESOCKTNOSUPPORT):
		return fmt.Errorf("%s: %w: %w", one, plan.ErrUnsupported, err)
	}
	return fmt.Errorf("%s: %w", one, err)
}

// bindPort binds a socket that nobody else can share and that takes nothing in.
func bindPort(addr netip.Addr, proto plan.L4, port uint16) (int, error) {
	domain := unix.AF_INET
	var sa unix.Sockaddr = &unix.SockaddrInet4{Port: int(port), Addr: as4(addr)}
	if addr.Is6() {
		domain = unix.AF_INET6
		in6 := &unix.SockaddrInet6{Port: int(port), Addr: addr.As16()}
		if zone, err := strconv.ParseUint(addr.Zone(), 10, 32); err == nil {
			in6.ZoneId = uint32(zone)
		}
		sa = in6
	}
	var kind, number int
	switch proto {
	case plan.TCP:
		kind, number = unix.SOCK_STREAM, unix.IPPROTO_TCP
	case plan.UDP:
		kind, number = unix.SOCK_DGRAM, unix.IPPROTO_UDP
	case plan.SCTP:
		kind, number = unix.SOCK_STREAM, unix.IPPROTO_SCTP
	default:
		return -1, fmt.Errorf("transport %q: want tcp, udp or sctp", proto)
	}
	fd, err := unix.Socket(domain, kind|unix.SOCK_CLOEXEC, number)
	if err != nil {
		return -1, err
	}
	if err := bindExclusively(fd, sa, domain, proto); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func as4(a netip.Addr) (b [4]byte) {
	if a.Is4() {
		b = a.As4()
	}
	return b
}

// bindExclusively binds so that connections in TIME-WAIT are no conflict but a
// listener is, and so that later nobody can listen there, even with SO_REUSEADDR:
// that option counts when the socket is bound, and for others' attempts as it is then.
// A UDP socket's filter drops whatever would be queued.
func bindExclusively(fd int, sa unix.Sockaddr, domain int, proto plan.L4) error {
	if domain == unix.AF_INET6 {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
			return err
		}
	}
	if proto == plan.UDP {
		drop := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K}}
		prog := unix.SockFprog{Len: uint16(len(drop)), Filter: &drop[0]}
		if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog); err != nil {
			return err
		}
	}
	reuse := func(on int) error {
		if proto != plan.TCP {
			return nil
		}
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, on)
	}
	if err := reuse(1); err != nil {
		return err
	}
	// The host may get the address later: then the port is held already, and packets to it are led on.
	free := func() error { return unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_FREEBIND, 1) }
	if domain == unix.AF_INET6 {
		free = func() error { return unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_FREEBIND, 1) }
	}
	if err := free(); err != nil {
		return err
	}
	if err := unix.Bind(fd, sa); err != nil {
		return err
	}
	return reuse(0)
}

// PortRange is a range of ports, both ends included.
type PortRange struct{ From, To uint16 }

// lowestDynamic is the first port given where nobody asked for one: below are
// the ports that services are known by.
const lowestDynamic = 20000

// DynamicPorts are the ports to publish on when nobody has asked for one:
// those the kernel gives to no outgoing connection (ip_local_port_range) and nobody has
// reserved (ip_local_reserved_ports), the high ones first.
func (k *Kernel) DynamicPorts() ([]PortRange, error) {
	var local, reserved string
	err := netns.Enter(k.fd(), func() (err error) {
		if local, err = readSysctl(plan.Sysctl{Path: "ipv4/ip_local_port_range"}); err != nil {
			return err
		}
		reserved, err = readSysctl(plan.Sysctl{Path: "ipv4/ip_local_reserved_ports"})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the range of dynamic ports: %w", err)
	}
	busy := make([]bool, 1<<16)
	fields := strings.Fields(local)
	if len(fields) == 2 {
		markPorts(busy, fields[0]+"-"+fields[1])
	}
	for part := range strings.SplitSeq(reserved, ",") {
		markPorts(busy, part)
	}
	return freePorts(busy), nil
}

// markPorts marks "from-to" or "port"; anything else is nothing.
func markPorts(busy []bool, s string) {
	a, b, ok := strings.Cut(strings.TrimSpace(s), "-")
	if !ok {
		b = a
	}
	from, err := strconv.ParseUint(a, 10, 16)
	if err != nil {
		return
	}
	to, err := strconv.ParseUint(b, 10, 16)
	if err != nil {
		return
	}
	for p := from; p <= to; p++ {
		busy[p] = true
	}
}

// freePorts are the ranges that are not busy, from the highest on.
func freePorts(busy []bool) []PortRange {
	var out []PortRange
	for to := len(busy) - 1; to >= lowestDynamic; to-- {
		if busy[to] {
			continue
		}
		from := to
		for from > lowestDynamic && !busy[from-1] {
			from--
		}
		out = append(out, PortRange{From: uint16(from), To: uint16(to)})
		to = from
	}
	return out
}

// usedBy names the process that has a port, as far as it can be found:
// "nginx (pid 812)". It must run in the port's namespace.
func usedBy(proto plan.L4, port uint16) string {
	inodes := map[string]bool{}
	for _, file := range []string{string(proto), string(proto) + "6"} {
		b, err := os.ReadFile("/proc/thread-self/net/" + file)
		if err != nil {
			continue
		}
		suffix := fmt.Sprintf(":%04X", port)
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if len(f) > 9 && strings.HasSuffix(f[1], suffix) && f[9] != "0" {
				inodes["socket:["+f[9]+"]"] = true
			}
		}
	}
	if len(inodes) == 0 {
		return ""
	}
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return ""
	}
	for _, p := range procs {
		if _, err := strconv.Atoi(p.Name()); err != nil {
			continue
		}
		if hasSocket("/proc/"+p.Name()+"/fd", inodes) {
			comm, _ := os.ReadFile("/proc/" + p.Name() + "/comm")
			return fmt.Sprintf("%s (pid %s)", strings.TrimSpace(string(comm)), p.Name())
		}
	}
	return ""
}

func hasSocket(dir string, inodes map[string]bool) bool {
	fds, err := os.ReadDir(dir)
	if err != nil {
		return false
	}
	for _, fd := range fds {
		if target, err := os.Readlink(dir + "/" + fd.Name()); err == nil && inodes[target] {
			return true
		}
	}
	return false
}

func (k *Kernel) portHandler() handler {
	return handler{
		apply: one(func(_ context.Context, s *session, op plan.Op, _ plan.PortReservation) error {
			return s.k.port(
				op)
		}),
		observe: func(_ context.Context, s *plan.State) error {
			s.Ports = k.ports.list()
			return nil
		},
	}
}

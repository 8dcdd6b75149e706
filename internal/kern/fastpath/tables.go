package fastpath

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/plan"
)

// Resolve finds a link's index by its name.
type Resolve func(link string) (uint32, error)

// PutEndpoint leads an address to an endpoint.
func (p *Path) PutEndpoint(e plan.FastEndpoint, resolve Resolve) error {
	o, err := p.objects()
	if err != nil {
		return err
	}
	key, n, err := placeOf(e)
	if err != nil {
		return err
	}
	index, err := resolve(e.Link)
	if err != nil {
		return err
	}
	return full("endpoints", o.Endpoints.Put(key, endpoint{Network: n, Link: index, MTU: uint32(e.MTU), MAC: e.MAC,
		Via: e.Via, Flags: uint32(flag(e.Publishes, publishes) | flag(e.Slow, slow))}))
}

func placeOf(e plan.FastEndpoint) (place, number, error) {
	n, err := numberOf(e.Network)
	key := place{Network: n, Addr: addressOf(e.Addr)}
	if e.Plain {
		key.Network = 0
	}
	return key, n, err
}

// DeleteEndpoint forgets an address.
func (p *Path) DeleteEndpoint(e plan.FastEndpoint) error {
	key, _, err := placeOf(e)
	return errors.Join(err, drop(p, key, func(o *kernelObjects) *ebpf.Map { return o.Endpoints }))
}

// Endpoints are the addresses there are.
func (p *Path) Endpoints(links map[uint32]string) (out []plan.FastEndpoint, err error) {
	return out, list(p, func(o *kernelObjects) *ebpf.Map { return o.Endpoints }, func(k place, v endpoint) {
		out = append(out, plan.FastEndpoint{Network: v.Network.network(), Addr: k.Addr.addr(), Plain: k.Network == 0,
			Link: nameOf(links, v.Link), MAC: v.MAC, Via: v.Via, MTU: int(v.MTU), Publishes: v.Flags&publishes != 0,
			Slow: v.Flags&slow != 0})
	})
}

// PutPort keeps connections of a port off the fast path.
func (p *Path) PutPort(f plan.FastPort) error {
	o, err := p.objects()
	if err != nil {
		return err
	}
	key, err := endpointPortOf(f)
	if err != nil {
		return err
	}
	return full("ports", o.Ports.Put(key, byte(1)))
}

// DeletePort forgets a port.
func (p *Path) DeletePort(f plan.FastPort) error {
	key, err := endpointPortOf(f)
	return errors.Join(err, drop(p, key, func(o *kernelObjects) *ebpf.Map { return o.Ports }))
}

// Ports are those there are.
func (p *Path) Ports() (out []plan.FastPort, err error) {
	return out, list(p, func(o *kernelObjects) *ebpf.Map { return o.Ports }, func(k endpointPort, _ byte) {
		f := plan.FastPort{Network: k.Network.network(), Addr: k.Addr.addr(), Port: k.Port.number()}
		for _, l := range transports() {
			if l.number == k.Proto {
				f.Proto = l.name
			}
		}
		out = append(out, f)
	})
}

type transport struct {
	name   plan.L4
	number byte // IANA's
}

// transports are those of which packets take the fast path.
func transports() []transport {
	return []transport{{plan.TCP, unix.IPPROTO_TCP}, {plan.UDP, unix.IPPROTO_UDP}}
}

func endpointPortOf(f plan.FastPort) (endpointPort, error) {
	n, err := numberOf(f.Network)
	key := endpointPort{Network: n, Addr: addressOf(f.Addr), Port: portOf(f.Port)}
	for _, l := range transports() {
		if l.name == f.Proto {
			key.Proto = l.number
		}
	}
	if key.Proto == 0 {
		err = errors.Join(err, fmt.Errorf("port %d of %q: want tcp or udp", f.Port, f.Proto))
	}
	return key, err
}

// Hop is where a packet for an address goes next: the link, and the router or the address itself.
type Hop struct {
	Link uint32
	Addr netip.Addr
}

// PutPeer leads a prefix to another node by the uplink. Where the next hop is on another link, what is for the node
// takes the slow path.
func (p *Path) PutPeer(f plan.FastPeer, uplink uint32, next Hop) error {
	o, err := p.objects()
	if err != nil {
		return err
	}
	key, err := prefixOf(f)
	if err != nil {
		return err
	}
	w, err := wayOf(f.Way)
	if err != nil {
		return err
	}
	flags := flag(f.Routed, routed) | flag(next.Link != uplink || f.Node == f.Self, aside) | flag(f.Block, block)
	return full("peers", o.Peers.Put(key, peer{Node: addressOf(f.Node), Self: addressOf(f.Self),
		Hop: addressOf(next.Addr), Link: uplink, MTU: uint32(f.MTU), VNI: f.VNI, Port: portOf(f.Port), Way: w,
		Flags: flags, Via: f.Via, Src: f.SourceMAC, Dst: f.DestMAC}))
}

// mapped is how many bits of a mapped address say that it is IPv4.
const mapped = 96

func prefixOf(f plan.FastPeer) (prefix, error) {
	n, err := numberOf(f.Network)
	key := prefix{Bits: 64 + uint32(f.Prefix.Bits()), Network: n.bytes(), Addr: addressOf(f.Prefix.Masked().Addr())}
	if f.Prefix.Addr().Is4() {
		key.Bits += mapped
	}
	if !f.Prefix.IsValid() {
		err = errors.Join(err, fmt.Errorf("peer %s: want a prefix", f.Node))
	}
	return key, err
}

// DeletePeer forgets a prefix.
func (p *Path) DeletePeer(f plan.FastPeer) error {
	key, err := prefixOf(f)
	return errors.Join(err, drop(p, key, func(o *kernelObjects) *ebpf.Map { return o.Peers }))
}

// Peers are the prefixes there are. Next is where packets for a node go now.
func (p *Path) Peers(links map[uint32]string, next func(node netip.Addr) Hop) (out []plan.FastPeer, err error) {
	return out, list(p, func(o *kernelObjects) *ebpf.Map { return o.Peers }, func(k prefix, v peer) {
		f := plan.FastPeer{Network: numberIn(k.Network).network(), Way: v.Way.plan(), Node: v.Node.addr(),
			Self: v.Self.addr(), Link: nameOf(links, v.Link), MTU: int(v.MTU), VNI: v.VNI, Port: v.Port.number(),
			Via: v.Via, Routed: v.Flags&routed != 0, SourceMAC: v.Src, DestMAC: v.Dst, Block: v.Flags&block != 0}
		now := next(f.Node)
		f.Stale = v.Flags&aside == 0 && now != Hop{v.Link, v.Hop.addr()} ||
			v.Flags&aside != 0 && now.Link == v.Link && f.Node != f.Self
		bits, a := int(k.Bits)-64, k.Addr.addr()
		if a.Is4() {
			bits -= mapped
		}
		f.Prefix = netip.PrefixFrom(a, bits)
		out = append(out, f)
	})
}

// PutTunnel takes packets from an end of a tunnel.
func (p *Path) PutTunnel(f plan.FastTunnel, resolve Resolve) error {
	o, err := p.objects()
	if err != nil {
		return err
	}
	w, err := wayOf(f.Way)
	if err != nil {
		return err
	}
	v := tunnel{Self: addressOf(f.Self), MAC: f.MAC, Way: w, Flags: flag(f.Routed, routed)}
	if f.Network != "" {
		if v.Network, err = numberOf(f.Network); err != nil {
			return err
		}
	}
	if f.Link != "" {
		if v.Link, err = resolve(f.Link); err != nil {
			return err
		}
	}
	return full("tunnels", o.Tunnels.Put(endOf(f), v))
}

func endOf(f plan.FastTunnel) end {
	key := end{VNI: noVNI, Port: portOf(f.Port), Family: 4}
	if f.IPv6 {
		key.Family = 6
	}
	if f.Way == plan.FastVXLAN && f.Network != "" {
		key.VNI = f.VNI
	}
	return key
}

// DeleteTunnel forgets an end.
func (p *Path) DeleteTunnel(f plan.FastTunnel) error {
	return drop(p, endOf(f), func(o *kernelObjects) *ebpf.Map { return o.Tunnels })
}

// Tunnels are the ends there are.
func (p *Path) Tunnels(links map[uint32]string) (out []plan.FastTunnel, err error) {
	return out, list(p, func(o *kernelObjects) *ebpf.Map { return o.Tunnels }, func(k end, v tunnel) {
		f := plan.FastTunnel{Port: k.Port.number(), IPv6: k.Family == 6, Way: v.Way.plan(), Self: v.Self.addr(),
			MAC: v.MAC, Routed: v.Flags&routed != 0}
		if v.Network != 0 {
			f.Network = v.Network.network()
		}
		if k.VNI != noVNI {
			f.VNI = k.VNI
		}
		if v.Link != 0 {
			f.Link = nameOf(links, v.Link)
		}
		out = append(out, f)
	})
}

// drop deletes an entry. That there is none is no error.
func drop(p *Path, key any, of func(*kernelObjects) *ebpf.Map) error {
	o := p.found()
	if o == nil {
		return nil
	}
	return absent(of(o).Delete(key))
}

func absent(err error) error {
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil
	}
	return err
}

// list calls f with every entry of a table.
func list[K, V any](p *Path, of func(*kernelObjects) *ebpf.Map, f func(K, V)) error {
	o := p.found()
	if o == nil {
		return nil
	}
	return each(of(o), f)
}

func each[K, V any](m *ebpf.Map, f func(K, V)) error {
	var k K
	var v V
	i := m.Iterate()
	for i.Next(&k, &v) {
		f(k, v)
	}
	if err := i.Err(); err != nil {
		return fmt.Errorf("list the table %s: %w", m, err)
	}
	return nil
}

// full says what to do about a table that takes no more.
func full(table string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.E2BIG), errors.Is(err, unix.ENOSPC):
		return fmt.Errorf("the fast path's table %s is full: what does not fit takes the slow path", table)
	}
	return fmt.Errorf("change the fast path's table %s: %w", table, err)
}

// nameOf is a link's name, or its index behind "#" when there is no such link.
func nameOf(links map[uint32]string, index uint32) string {
	if name, ok := links[index]; ok {
		return name
	}
	return "#" + strconv.FormatUint(uint64(index), 10)
}

// Index is a link's index by the name that [Path.Programs] has for it. That of a link which is gone is told from the
// name alone; one that was never there has none.
func (p *Path) Index(name string, resolve Resolve) (uint32, error) {
	number, ok := strings.CutPrefix(name, "#")
	if !ok {
		index, err := resolve(name)
		if errors.Is(err, os.ErrNotExist) {
			return 0, nil
		}
		return index, err
	}
	index, err := strconv.ParseUint(number, 10, 32)
	return uint32(index), err
}

package dhcp

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/mdlayher/packet"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/plan"
)

// A message is sent three times, and an answer waited for 1, 2 and 4 s.
const (
	firstWait = time.Second
	sendings  = 3
)

// errRefused is a server's answer that the address is not the client's (DHCPNAK).
var errRefused = errors.New("the DHCP server refuses the address")

// client asks on behalf of one endpoint. It is for one lease at a time.
type client struct {
	*nclient4.Client
	link *wire
	udp  net.PacketConn
	l    cnm.Lease
}

// wire has packets carry the endpoint's address, and frames that of who is asked.
type wire struct {
	net.PacketConn
	mu   sync.Mutex
	to   net.HardwareAddr
	from net.HardwareAddr // of the last packet
}

func (w *wire) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := w.PacketConn.ReadFrom(b)
	if a, ok := from.(*packet.Addr); ok {
		w.mu.Lock()
		w.from = a.HardwareAddr
		w.mu.Unlock()
	}
	return n, from, err
}

func (w *wire) WriteTo(b []byte, _ net.Addr) (int, error) {
	w.mu.Lock()
	to := w.to
	w.mu.Unlock()
	return w.PacketConn.WriteTo(b, &packet.Addr{HardwareAddr: to})
}

// toward has frames go to a hardware address; the zero value: to everybody.
func (w *wire) toward(mac plan.MAC) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.to = mac[:]; mac == (plan.MAC{}) {
		w.to = nclient4.BroadcastMac
	}
}

func (w *wire) last() plan.MAC {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.from) != len(plan.MAC{}) {
		return plan.MAC{}
	}
	return plan.MAC(w.from)
}

// dial opens a client for a lease's endpoint. By what it has, it speaks with its address to its server alone; else
// without an address to everybody.
func (s *Leases) dial(l cnm.Lease, byWhatItHas bool) (*client, error) {
	conn, err := s.cfg.Network.DHCP(l.Link, l.MAC)
	if err != nil {
		return nil, err
	}
	c := &client{l: l, link: &wire{PacketConn: conn, to: nclient4.BroadcastMac}}
	bound := &net.UDPAddr{Port: nclient4.ClientPort}
	udp := nclient4.NewBroadcastUDPConn(c.link, bound)
	if byWhatItHas {
		// What it sends has this source; to what is received it makes no difference.
		udp = sourced{udp, nclient4.NewBroadcastUDPConn(c.link,
			&net.UDPAddr{IP: l.Addr.Addr().AsSlice(), Port: nclient4.ClientPort})}
	}
	c.udp = udp
	c.Client, err = nclient4.NewWithConn(udp, l.MAC[:], nclient4.WithTimeout(firstWait),
		nclient4.WithRetry(sendings))
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("open a client of DHCP: %w", err)
	}
	return c, nil
}

// sourced sends by another connection than it receives by.
type sourced struct {
	net.PacketConn
	out net.PacketConn
}

func (s sourced) WriteTo(b []byte, to net.Addr) (int, error) { return s.out.WriteTo(b, to) }

// ask are the options of every message. The client identifier is the endpoint's: type 0, which is no hardware address
// (RFC 2132 section 9.14), and the first half of its ID.
func (c *client) ask(more ...dhcpv4.Modifier) []dhcpv4.Modifier {
	id, err := hex.DecodeString(c.l.Endpoint[:min(32, len(c.l.Endpoint))])
	if err != nil {
		id = []byte(c.l.Endpoint)
	}
	mods := []dhcpv4.Modifier{
		dhcpv4.WithOption(dhcpv4.OptClientIdentifier(append([]byte{0}, id...))),
		dhcpv4.WithRequestedOptions(dhcpv4.OptionSubnetMask, dhcpv4.OptionRouter, dhcpv4.OptionClasslessStaticRoute,
			dhcpv4.OptionIPAddressLeaseTime, dhcpv4.OptionRenewTimeValue, dhcpv4.OptionRebindingTimeValue),
	}
	if c.l.Hostname != "" {
		mods = append(mods, dhcpv4.WithOption(dhcpv4.OptHostName(c.l.Hostname)))
	}
	return append(mods, more...)
}

// offer asks everybody for an address and returns the first offer that is accepted. Without one, the error says why
// the last one was not.
func (c *client) offer(ctx context.Context, hint netip.Addr, accept func(*terms) error) (*dhcpv4.DHCPv4, terms, error) {
	mods := c.ask(dhcpv4.WithBroadcast(true))
	if hint.IsValid() {
		mods = append(mods, dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(hint.AsSlice())))
	}
	m, err := dhcpv4.NewDiscovery(c.l.MAC[:], mods...)
	if err != nil {
		return nil, terms{}, fmt.Errorf("write a DHCPDISCOVER: %w", err)
	}
	var found terms
	var refused error
	p, err := c.SendAndRead(ctx, nclient4.DefaultServers, m, func(p *dhcpv4.DHCPv4) bool {
		if p == nil || p.MessageType() != dhcpv4.MessageTypeOffer {
			return false
		}
		t, err := read(p)
		if err == nil {
			err = accept(&t)
		}
		if err != nil {
			refused = err
			return false
		}
		found = t
		return true
	})
	if err != nil && refused != nil {
		return nil, terms{}, &offerError{refused}
	}
	return p, found, err
}

// offerError tells why what was offered is not taken.
type offerError struct{ why error }

func (e *offerError) Error() string {
	return fmt.Sprintf("what the DHCP server offers is not taken: %.300s", e.why)
}

func (e *offerError) Unwrap() error { return e.why }

// request takes an offer. The terms are those of the acknowledgement.
func (c *client) request(ctx context.Context, offer *dhcpv4.DHCPv4, t terms, accept func(*terms) error) (terms, error) {
	m, err := dhcpv4.NewRequestFromOffer(offer, c.ask(dhcpv4.WithBroadcast(true))...)
	if err != nil {
		return t, fmt.Errorf("write a DHCPREQUEST: %w", err)
	}
	return c.answer(ctx, m, t.addr, t.server, accept)
}

// extend asks for more time: the server that gave the lease, or everybody once that has not answered for long.
func (c *client) extend(ctx context.Context, everybody bool, accept func(*terms) error) (terms, error) {
	server := c.l.Server
	if everybody {
		server = netip.Addr{}
	} else {
		c.link.toward(c.l.Via)
	}
	m, err := dhcpv4.New(c.ask(dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest), dhcpv4.WithHwAddr(c.l.MAC[:]),
		dhcpv4.WithClientIP(c.l.Addr.Addr().AsSlice()))...)
	if err != nil {
		return terms{}, fmt.Errorf("write a DHCPREQUEST: %w", err)
	}
	return c.answer(ctx, m, c.l.Addr.Addr(), server, accept)
}

// answer sends a request for an address and waits for what a server says to it.
func (c *client) answer(ctx context.Context, m *dhcpv4.DHCPv4, addr, server netip.Addr, accept func(*terms) error) (
	terms, error) {
	to := nclient4.DefaultServers
	if server.IsValid() && m.ServerIdentifier() == nil {
		to = &net.UDPAddr{IP: server.AsSlice(), Port: nclient4.ServerPort}
	}
	var t terms
	var refused error
	p, err := c.SendAndRead(ctx, to, m, func(p *dhcpv4.DHCPv4) bool {
		if p == nil || server.IsValid() && addrOf(p.ServerIdentifier()) != server {
			return false
		}
		if p.MessageType() == dhcpv4.MessageTypeNak {
			return true
		}
		if p.MessageType() != dhcpv4.MessageTypeAck {
			return false
		}
		t, refused = read(p)
		if refused == nil && t.addr != addr {
			refused = fmt.Errorf("address %s in place of %s", t.addr, addr)
		}
		if refused == nil {
			refused = accept(&t)
		}
		return refused == nil
	})
	switch {
	case err == nil && p.MessageType() == dhcpv4.MessageTypeNak:
		return t, errRefused
	case err != nil && refused != nil:
		return t, &offerError{refused}
	}
	return t, err
}

// tell sends a message that has no answer: to the lease's server, that it is released, or to everybody, that somebody
// else has the address.
func (c *client) tell(kind dhcpv4.MessageType) error {
	mods := []dhcpv4.Modifier{dhcpv4.WithMessageType(kind), dhcpv4.WithHwAddr(c.l.MAC[:]),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(c.l.Server.AsSlice())), c.ask()[0]}
	to := nclient4.DefaultServers
	if kind == dhcpv4.MessageTypeRelease {
		mods = append(mods, dhcpv4.WithClientIP(c.l.Addr.Addr().AsSlice()))
		to = &net.UDPAddr{IP: c.l.Server.AsSlice(), Port: nclient4.ServerPort}
		c.link.toward(c.l.Via)
	} else {
		mods = append(mods, dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(c.l.Addr.Addr().AsSlice())))
	}
	m, err := dhcpv4.New(mods...)
	if err != nil {
		return fmt.Errorf("write a message of DHCP: %w", err)
	}
	_, err = c.udp.WriteTo(m.ToBytes(), to)
	return err
}

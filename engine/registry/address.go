package registry

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
)

// addressKind says where an address may be reached from.
type addressKind string

const (
	public      addressKind = "public"
	loopback    addressKind = "loopback"
	linkLocal   addressKind = "link-local"
	private     addressKind = "private"
	unspecified addressKind = "unspecified"
	group       addressKind = "multicast" // nobody is sent on to one of these
)

var (
	sharedSpace = netip.MustParsePrefix("100.64.0.0/10") // RFC 6598: inside a provider's network
	thisNetwork = netip.MustParsePrefix("0.0.0.0/8")     // RFC 1122; Linux takes some of it for itself
	reserved    = netip.MustParsePrefix("240.0.0.0/4")   // RFC 1112, with the broadcast address
	nat64       = netip.MustParsePrefix("64:ff9b::/96")  // RFC 6052: an IPv4 address in its last four bytes
	sixToFour   = netip.MustParsePrefix("2002::/16")     // RFC 3056: an IPv4 address in its bytes 2 to 5
)

// kindOf tells the kind of an address, of the IPv4 address in it where there is one.
func kindOf(a netip.Addr) addressKind {
	a = a.Unmap().WithZone("")
	b := a.As16()
	switch {
	case nat64.Contains(a):
		return kindOf(netip.AddrFrom4([4]byte(b[12:16])))
	case sixToFour.Contains(a):
		return kindOf(netip.AddrFrom4([4]byte(b[2:6])))
	case a.IsUnspecified(), thisNetwork.Contains(a):
		return unspecified
	case a.IsLoopback():
		return loopback
	case a.IsLinkLocalUnicast(), a.IsLinkLocalMulticast():
		return linkLocal
	case a.IsPrivate(), sharedSpace.Contains(a):
		return private
	case a.IsMulticast(), reserved.Contains(a):
		return group
	}
	return public
}

// reached are the kinds of addresses that a registry itself has answered from.
type reached struct {
	mu    sync.Mutex
	kinds map[addressKind]bool
}

func (r *reached) add(a net.Addr) {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.kinds == nil {
		r.kinds = map[addressKind]bool{}
	}
	r.kinds[kindOf(tcp.AddrPort().Addr())] = true
}

// any reports whether the registry has answered at all.
func (r *reached) any() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.kinds) > 0
}

// allows reports whether the registry may send us on to an address.
func (r *reached) allows(a netip.Addr) error {
	kind := kindOf(a)
	r.mu.Lock()
	defer r.mu.Unlock()
	if kind == public || kind != group && r.kinds[kind] {
		return nil
	}
	return &Error{Kind: KindRedirect,
		Reason: fmt.Sprintf("it sends us on to %s (%s), and has no such address itself", a, kind),
		Remedy: "correct the registry's settings, or tell its owner"}
}

// dialer makes connections to a registry, or to whom it has sent us on to.
func dialer(onward *reached) *net.Dialer {
	d := &net.Dialer{Timeout: dialTimeout, KeepAlive: keepAlive}
	if onward != nil {
		// The address is checked that is connected to, not the name: a name may have another address next time.
		d.ControlContext = func(_ context.Context, _, address string, _ syscall.RawConn) error {
			a, err := netip.ParseAddrPort(address)
			if err != nil {
				return fmt.Errorf("check the address %q: %w", address, err)
			}
			return onward.allows(a.Addr())
		}
	}
	return d
}

// throughProxy checks where a registry sends us on to when a proxy makes the connection: only what the name itself
// says can be checked here.
func (r *reached) throughProxy(host string) error {
	if strings.EqualFold(host, "localhost") || strings.HasSuffix(strings.ToLower(host), ".localhost") {
		return r.allows(netip.AddrFrom4([4]byte{127, 0, 0, 1}))
	}
	if a, err := netip.ParseAddr(host); err == nil {
		return r.allows(a)
	}
	return nil
}

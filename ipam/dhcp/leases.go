package dhcp

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/plan"
)

const (
	// acquireTime bounds how long an endpoint waits for a lease.
	acquireTime = 10 * time.Second
	// declines bounds how many addresses are given back because somebody else has them.
	declines = 4
)

// Network reaches LANs.
type Network interface {
	// DHCP opens a connection that receives what is sent to the client's port on the LAN of a link, and speaks there
	// with the hardware address. The error is a [plan.NoLinkError] when the host has no such link.
	DHCP(link string, mac plan.MAC) (net.PacketConn, error)
	// InUse are those of the addresses that somebody has on the LAN of a link, with the hardware address there.
	InUse(ctx context.Context, link string, addrs []netip.Addr) (map[netip.Addr]plan.MAC, error)
}

// Config is what [Leases] work with. Log and Now may be nil.
type Config struct {
	IPAM    cnm.IPAM // of all other networks
	Pools   cnm.IPAM // keeps the subnets apart
	Store   cnm.Store
	Drivers []cnm.Driver
	Network Network
	Log     *slog.Logger
	Now     func() time.Time
}

// Leases is the IPAM of networks whose addresses a DHCP server gives, and passes the others on.
type Leases struct {
	cnm.IPAM
	cfg  Config
	lans map[string]cnm.LANDriver // by driver
	wake chan struct{}

	mu     sync.Mutex
	leases map[string]cnm.Lease // by endpoint
	held   map[string]bool      // endpoints that have no record yet
	busy   map[string]bool      // endpoints whose lease is being looked at
	next   map[string]time.Time // by endpoint: when that is next; the zero value: now
	failed map[string]error     // by endpoint: why its lease could not be kept the last time
}

var _ cnm.EndpointClaimer = (*Leases)(nil)

// New reads the leases in the store. [Leases.Run] keeps them.
func New(ctx context.Context, c Config) (*Leases, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	s := &Leases{IPAM: c.IPAM, cfg: c, lans: map[string]cnm.LANDriver{}, wake: make(chan struct{}, 1),
		leases: map[string]cnm.Lease{}, held: map[string]bool{}, busy: map[string]bool{}, next: map[string]time.Time{},
		failed: map[string]error{}}
	for _, d := range c.Drivers {
		if l, ok := d.(cnm.LANDriver); ok {
			s.lans[d.Name()] = l
		}
	}
	leases, err := cnm.ListLeases(ctx, c.Store)
	if err != nil {
		return nil, err
	}
	for _, l := range leases {
		s.leases[l.Endpoint] = l
	}
	return s, nil
}

func ours(n cnm.Network) bool { return n.IPAM != nil && n.IPAM.Driver == cnm.DHCP }

func invalid(field, value, reason, remedy string) error {
	return &cnm.Error{Kind: cnm.ErrInvalid, Field: field, Value: value, Reason: reason, Remedy: remedy}
}

// Pools implements [cnm.IPAM]. The server is asked for the subnet and the router that are not named, by an offer that
// is not taken.
func (s *Leases) Pools(ctx context.Context, n cnm.Network, requests []cnm.PoolRequest) ([]cnm.Pool, error) {
	if !ours(n) {
		return s.IPAM.Pools(ctx, n, requests)
	}
	lan, err := s.lanOf(n)
	if err != nil {
		return nil, err
	}
	switch {
	case n.IPv6 || !n.IPv4:
		return nil, invalid("IPAM driver", cnm.DHCP, "it gives addresses of IPv4, and of IPv4 alone",
			"leave IPv6 out, and IPv4 on")
	case len(n.IPAM.Options) > 0:
		return nil, invalid("IPAM driver", cnm.DHCP, "it has no options", "leave them out")
	}
	requests = slices.Clone(requests)
	r := &requests[0]
	if r.Range.IsValid() {
		return nil, invalid("ip-range", r.Range.String(), "the DHCP server chooses the addresses", "leave it out")
	}
	if !r.Subnet.IsValid() || !r.Gateway.IsValid() {
		if err := s.learn(ctx, n, lan.Link, r); err != nil {
			return nil, err
		}
	}
	return s.cfg.Pools.Pools(ctx, n, requests)
}

// lanOf is where a network's endpoints can have leases.
func (s *Leases) lanOf(n cnm.Network) (cnm.LAN, error) {
	refuse := func(reason string) (cnm.LAN, error) {
		return cnm.LAN{}, invalid("IPAM driver", cnm.DHCP, reason,
			"choose the driver macvlan without mode=passthru, or bridge with -o parent=LINK")
	}
	d := s.lans[n.Driver]
	if d == nil {
		return refuse(fmt.Sprintf("networks of driver %s are on no LAN", n.Driver))
	}
	lan := d.LAN(n)
	if lan.Link == "" {
		if err := d.CheckNetwork(n); err != nil {
			return lan, err
		}
		return refuse("the network is on no LAN")
	}
	if !lan.OwnMACs {
		return refuse("the network's containers have no hardware addresses of their own, which leases are for")
	}
	return lan, nil
}

// learn asks the server for the subnet and the router.
func (s *Leases) learn(ctx context.Context, n cnm.Network, link string, r *cnm.PoolRequest) error {
	ctx, cancel := context.WithTimeout(ctx, acquireTime)
	defer cancel()
	c, err := s.dial(cnm.Lease{Endpoint: n.ID, Link: link, MAC: macOf(n.ID)}, false)
	if _, missing := errors.AsType[*plan.NoLinkError](err); missing {
		return invalid("link", link, "it is not there yet, so the DHCP server cannot be asked for the subnet",
			"name the parent that is there, or the subnet and its router: --subnet and --gateway")
	}
	if err != nil {
		return fmt.Errorf("ask the DHCP server for the subnet: %w", err)
	}
	defer c.Close()
	_, t, err := c.offer(ctx, netip.Addr{}, func(t *terms) error {
		if !r.Subnet.IsValid() && t.mask == 0 {
			return errors.New("it has no subnet mask")
		}
		p := cnm.Pool{Subnet: r.Subnet}
		if !p.Subnet.IsValid() {
			p.Subnet = netip.PrefixFrom(t.addr, t.mask).Masked()
		}
		return t.within(p)
	})
	if err != nil {
		return silent(link, err)
	}
	if !r.Subnet.IsValid() {
		r.Subnet = netip.PrefixFrom(t.addr, t.mask).Masked()
	}
	if !r.Gateway.IsValid() {
		r.Gateway, r.NoGateway = t.leased.Router, !t.leased.Router.IsValid()
	}
	return nil
}

// silent says what to do when there is no lease.
func silent(link string, err error) error {
	e := &cnm.Error{Kind: cnm.ErrUnavailable, Field: "IPAM driver", Value: cnm.DHCP, Cause: err,
		Reason: "no address on the LAN of link " + link,
		Remedy: "see that the LAN has a DHCP server elsewhere than on this host, that it has addresses left, and " +
			"that the switch lets hardware addresses through that are not the link's own"}
	if errors.Is(err, nclient4.ErrNoResponse) || errors.Is(err, context.DeadlineExceeded) {
		e.Reason, e.Cause = "no DHCP server answers on the LAN of link "+link, nil
	}
	if _, answered := errors.AsType[*offerError](err); answered {
		e.Remedy = "look who answers to DHCP on the LAN: tcpdump -eni " + link + " port 67 or port 68"
	}
	return e
}

// macOf is a hardware address that depends on an ID alone, locally administered.
func macOf(id string) plan.MAC {
	sum := sha256.Sum256([]byte(id))
	m := plan.MAC{0x02}
	copy(m[1:], sum[:])
	return m
}

// Claim implements [cnm.IPAM]. Of networks with leases it only knows endpoints that have one.
func (s *Leases) Claim(ctx context.Context, n cnm.Network, owner string, want, before []netip.Addr) (*cnm.Claim,
	error) {
	if ours(n) {
		return nil, errors.New("claim an address of a DHCP server: the endpoint is not known")
	}
	return s.IPAM.Claim(ctx, n, owner, want, before)
}

// ClaimFor implements [cnm.EndpointClaimer].
func (s *Leases) ClaimFor(ctx context.Context, n cnm.Network, e cnm.Endpoint, want, before []netip.Addr) (*cnm.Claim,
	error) {
	if !ours(n) {
		return s.IPAM.Claim(ctx, n, "endpoint/"+e.ID, want, before)
	}
	lan, err := s.lanOf(n)
	if err != nil {
		return nil, fmt.Errorf("network %s: %w", n.Name, err)
	}
	l := cnm.Lease{Endpoint: e.ID, Network: n.ID, Link: lan.Link, MAC: e.MAC, Hostname: hostname(e)}
	if l.MAC == (plan.MAC{}) {
		l.MAC = macOf(e.ID)
	}
	hint := slices.Concat(want, before)
	s.hold(e.ID, true)
	l, err = s.acquire(ctx, n, l, hint, len(want) > 0)
	if err != nil {
		s.hold(e.ID, false)
		s.soon(e.ID)
		return nil, fmt.Errorf("network %s: %w", n.Name, err)
	}
	return &cnm.Claim{Addrs: []netip.Prefix{l.Addr}, MAC: l.MAC, Leased: &l.Leased, Finish: func(bool) {
		s.hold(e.ID, false)
		s.soon(e.ID) // to give it back if there is no endpoint, and to know when to renew it
	}}, nil
}

// hostname is what the server is told of the container's name.
func hostname(e cnm.Endpoint) string {
	for _, name := range []string{e.Hostname, e.Name} {
		if name != "" && len(name) <= 63 {
			return name
		}
	}
	return ""
}

func (s *Leases) hold(endpoint string, on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if on {
		s.held[endpoint] = true
	} else {
		delete(s.held, endpoint)
	}
}

// Release implements [cnm.IPAM]. The server is told by Run.
func (s *Leases) Release(ctx context.Context, network, owner string) (*cnm.Claim, error) {
	claim, err := s.IPAM.Release(ctx, network, owner)
	if err != nil {
		return nil, err
	}
	finish := claim.Finish
	claim.Finish = func(committed bool) {
		if finish != nil {
			finish(committed)
		}
		s.soon(strings.TrimPrefix(owner, "endpoint/"))
	}
	return claim, nil
}

// acquire gets the endpoint of l a lease, and writes it down before the server is asked for good, and again before it
// is used. The first hint that is of the network is asked for; a wanted one, or none.
func (s *Leases) acquire(ctx context.Context, n cnm.Network, l cnm.Lease, hints []netip.Addr, wanted bool) (cnm.Lease,
	error) {
	ctx, cancel := context.WithTimeout(ctx, acquireTime)
	defer cancel()
	c, err := s.dial(l, false)
	if err != nil {
		return l, silent(l.Link, err)
	}
	defer c.Close()
	pool := n.Pools[0]
	var hint netip.Addr
	if i := slices.IndexFunc(hints, pool.Subnet.Contains); i >= 0 {
		hint = hints[i]
	}
	accept := func(t *terms) error {
		if wanted && t.addr != hints[0] {
			return fmt.Errorf("address %s, where %s is asked for", t.addr, hints[0])
		}
		return errors.Join(t.within(pool), s.free(l.Endpoint, n.ID, t.addr))
	}
	for range declines {
		offer, t, err := c.offer(ctx, hint, accept)
		if err != nil {
			return l, silent(l.Link, err)
		}
		l.Addr, l.Server = netip.PrefixFrom(t.addr, pool.Subnet.Bits()), t.server
		if l, err = s.write(ctx, l); err != nil {
			return l, err
		}
		if t, err = c.request(ctx, offer, t, accept); err != nil {
			return l, silent(l.Link, err)
		}
		mac, used, err := s.used(ctx, n, l)
		if err != nil {
			return l, err
		}
		if !used {
			l.Via = c.link.last()
			return s.write(ctx, s.agreed(l, t))
		}
		hint = netip.Addr{}
		s.cfg.Log.WarnContext(ctx, "the DHCP server gives an address that somebody else has; it is told", "address",
			t.addr, "by", mac, "link", l.Link)
		c.l = l
		if err := c.tell(dhcpv4.MessageTypeDecline); err != nil {
			return l, fmt.Errorf("tell the DHCP server: %w", err)
		}
	}
	return l, silent(l.Link, fmt.Errorf("somebody has each of the %d addresses that it gives", declines))
}

// agreed is a lease as the server has said.
func (s *Leases) agreed(l cnm.Lease, t terms) cnm.Lease {
	l.Since, l.For, l.Renew, l.Rebind = s.cfg.Now().Round(0), t.length, t.renew, t.rebind
	l.Server, l.Leased, l.Lost = t.server, t.leased, false
	return l
}

// used tells who has a lease's address, on networks where the LAN is asked.
func (s *Leases) used(ctx context.Context, n cnm.Network, l cnm.Lease) (plan.MAC, bool, error) {
	if d := s.lans[n.Driver]; d == nil || !d.LAN(n).Detect {
		return plan.MAC{}, false, nil
	}
	used, err := s.cfg.Network.InUse(ctx, l.Link, []netip.Addr{l.Addr.Addr()})
	mac, ok := used[l.Addr.Addr()]
	return mac, ok && mac != l.MAC, err
}

// free refuses an address that another endpoint of the network has.
func (s *Leases) free(endpoint, network string, a netip.Addr) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.leases {
		if l.Endpoint != endpoint && l.Network == network && l.Addr.Addr() == a && !l.Lost {
			return fmt.Errorf("address %s, which endpoint %s has", a, cnm.Short(l.Endpoint))
		}
	}
	return nil
}

// write writes a lease down.
func (s *Leases) write(ctx context.Context, l cnm.Lease) (cnm.Lease, error) {
	key := cnm.Key{Kind: cnm.KindLease, ID: l.Endpoint}
	w, err := cnm.Put(key.Kind, key.ID, l, l.Revision)
	if err == nil {
		err = s.cfg.Store.Commit(ctx, w)
	}
	if err != nil {
		return l, fmt.Errorf("write the lease of %s down: %w", l.Addr, err)
	}
	rec, err := s.cfg.Store.Get(ctx, key)
	if err != nil {
		return l, fmt.Errorf("read the lease of %s: %w", l.Addr, err)
	}
	l.Revision = rec.Revision
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leases[l.Endpoint] = l
	return l, nil
}

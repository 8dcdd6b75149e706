package lan

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/plan"
)

const (
	// busyFor is how long an address that somebody had is passed over without asking.
	busyFor = 10 * time.Minute
	// maxBusy bounds the addresses that are remembered.
	maxBusy = 4096
	// maxTries bounds the addresses that are tried for one endpoint. Those in use answer within a millisecond or so.
	maxTries = 1024
	// maxTriesPlugin is maxTries where each is a call to somebody else's program.
	maxTriesPlugin = 16
)

// Prober asks a LAN.
type Prober interface {
	// InUse are those of the addresses that somebody has on the LAN of a link, with the hardware address there; the
	// zero value is the host itself. The error is a [plan.NoLinkError] when the host has no such link.
	InUse(ctx context.Context, link string, addrs []netip.Addr) (map[netip.Addr]plan.MAC, error)
}

// Config is what [Addresses] work with. Log and Now may be nil.
type Config struct {
	IPAM    cnm.IPAM // gives the addresses
	Drivers []cnm.Driver
	Prober  Prober
	Log     *slog.Logger
	Now     func() time.Time
}

// Addresses is an IPAM over another one that gives no address that somebody on the network's LAN has. Networks that are
// on none are passed on.
type Addresses struct {
	cnm.IPAM
	cfg  Config
	lans map[string]cnm.LANDriver // by driver

	mu   sync.Mutex
	busy map[place]time.Time // until when it is passed over
}

// place is an address on the LAN of a link.
type place struct {
	link string
	addr netip.Addr
}

// Over puts the question to the LAN over an IPAM.
func Over(c Config) *Addresses {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	a := &Addresses{IPAM: c.IPAM, cfg: c, lans: map[string]cnm.LANDriver{}, busy: map[place]time.Time{}}
	for _, d := range c.Drivers {
		if l, ok := d.(cnm.LANDriver); ok {
			a.lans[d.Name()] = l
		}
	}
	return a
}

// Claim implements [cnm.IPAM]. A wanted address that somebody has is a [cnm.ErrExists].
func (a *Addresses) Claim(ctx context.Context, n cnm.Network, owner string, want, before []netip.Addr) (*cnm.Claim,
	error) {
	lan := cnm.LAN{}
	if d := a.lans[n.Driver]; d != nil {
		lan = d.LAN(n)
	}
	if !lan.Detect {
		return a.IPAM.Claim(ctx, n, owner, want, before)
	}
	s := search{a: a, n: n, link: lan.Link, want: want, met: map[netip.Addr]plan.MAC{}, skipped: map[netip.Addr]bool{}}
	tries := maxTries
	if n.IPAM != nil {
		tries = maxTriesPlugin
	}
	for range tries {
		claim, err := a.IPAM.Claim(ctx, n, owner, want, before)
		if err != nil || len(claim.Writes) == 0 { // or it has them already
			return claim, err
		}
		free, err := s.free(ctx, claim.Addrs)
		if err == nil && len(free) == len(claim.Addrs) {
			return claim, nil
		}
		claim.Done(false)
		if err != nil {
			return nil, err
		}
		before = free
	}
	return nil, s.exhausted()
}

// search looks for addresses of one endpoint that nobody has.
type search struct {
	a       *Addresses
	n       cnm.Network
	link    string
	want    []netip.Addr
	met     map[netip.Addr]plan.MAC // those that somebody answered for
	skipped map[netip.Addr]bool     // those that are remembered as busy
}

// free are those of the addresses that nobody has. It is an error when all that there are have been tried.
func (s *search) free(ctx context.Context, addrs []netip.Prefix) ([]netip.Addr, error) {
	var ask, out []netip.Addr
	for _, p := range addrs {
		a := p.Addr()
		if _, again := s.met[a]; again {
			return nil, s.exhausted()
		}
		if s.a.isBusy(place{s.link, a}) && !s.skipped[a] && !slices.Contains(s.want, a) {
			s.skipped[a] = true // its turn comes when there are no others
			continue
		}
		ask = append(ask, a)
	}
	if len(ask) < len(addrs) {
		return ask, nil // they are asked for with the others
	}
	used, err := s.a.cfg.Prober.InUse(ctx, s.link, ask)
	if _, missing := errors.AsType[*plan.NoLinkError](err); missing {
		return ask, nil // the pass says so
	}
	if err != nil {
		return nil, fmt.Errorf("network %s: %w (to give addresses without asking: -o duplicate-detection=false)",
			s.n.Name, err)
	}
	for _, a := range ask {
		mac, taken := used[a]
		if !taken {
			out = append(out, a)
			s.a.note(place{s.link, a}, false)
			continue
		}
		s.a.note(place{s.link, a}, true)
		s.met[a] = mac
		if slices.Contains(s.want, a) {
			return nil, &cnm.Error{Kind: cnm.ErrExists, Field: "address", Value: a.String(),
				Reason: whose(mac) + " has it already, on the LAN of link " + s.link,
				Remedy: "ask for another address, or for none to have a free one picked; if that answer is wrong: " +
					"net network update -o duplicate-detection=false " + s.n.Name}
		}
		s.a.cfg.Log.WarnContext(ctx, "an address of a network is in use on its LAN; another one is taken",
			"network", s.n.Name, "address", a, "by", whose(mac))
	}
	return out, nil
}

func whose(mac plan.MAC) string {
	if mac == (plan.MAC{}) {
		return "the host itself"
	}
	return "the host with MAC address " + mac.String()
}

func (s *search) exhausted() error {
	reason := fmt.Sprintf("network %q has no free address left: those that netd has not given are in use on the LAN "+
		"of link %s", s.n.Name, s.link)
	if len(s.met) > 0 {
		a := slices.MinFunc(slices.Collect(maps.Keys(s.met)), netip.Addr.Compare)
		reason += fmt.Sprintf(", such as %s, which %s has", a, whose(s.met[a]))
	}
	return &cnm.Error{Kind: cnm.ErrExhausted, Reason: reason,
		Remedy: "make the network with an --ip-range that nobody else on the LAN has addresses from"}
}

// isBusy reports whether somebody had an address lately.
func (a *Addresses) isBusy(p place) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	until, ok := a.busy[p]
	return ok && a.cfg.Now().Before(until)
}

// note remembers whether somebody has an address.
func (a *Addresses) note(p place, busy bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !busy {
		delete(a.busy, p)
		return
	}
	now := a.cfg.Now()
	if len(a.busy) >= maxBusy {
		maps.DeleteFunc(a.busy, func(_ place, until time.Time) bool { return now.After(until) })
	}
	if len(a.busy) < maxBusy {
		a.busy[p] = now.Add(busyFor)
	}
}

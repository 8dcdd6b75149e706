package dhcp

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/plan"
)

const (
	idleTime = time.Minute // between two looks when nothing is due
	atATime  = 64          // leases whose server is asked
	// A server that does not answer is asked again after half of the time that is left, as in RFC 2131 section 4.4.5,
	// and within these bounds. There the lower one is a minute, which leases of some minutes do not have.
	firstRetry = time.Second
	mostRetry  = time.Minute
	// lostRetry is the time between two questions for an endpoint that has no address any more.
	lostRetry = 5 * time.Second
)

// Readdress gives an endpoint other addresses, or none. The error is a [cnm.ErrNotFound] when it is gone.
type Readdress func(ctx context.Context, endpoint string, addrs []netip.Prefix, l *cnm.Leased) error

// Wake has Run look at the leases.
func (s *Leases) Wake() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Run renews the leases and gives those back that no endpoint has, until the context ends.
func (s *Leases) Run(ctx context.Context, readdress Readdress) error {
	slots := make(chan struct{}, atATime)
	var all sync.WaitGroup
	defer all.Wait()
	for ctx.Err() == nil {
		for _, l := range s.due() {
			all.Go(func() {
				slots <- struct{}{}
				defer func() { <-slots }()
				s.keep(ctx, l, readdress)
			})
		}
		timer := time.NewTimer(s.idle())
		select {
		case <-ctx.Done():
		case <-s.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
	return nil
}

// due are the leases to look at now.
func (s *Leases) due() []cnm.Lease {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.cfg.Now()
	var out []cnm.Lease
	for id, l := range s.leases {
		if !s.held[id] && !s.busy[id] && !now.Before(s.next[id]) {
			s.busy[id], s.next[id] = true, now
			out = append(out, l)
		}
	}
	return out
}

// soon has a lease looked at as soon as nobody else does.
func (s *Leases) soon(endpoint string) {
	s.mu.Lock()
	delete(s.next, endpoint)
	s.mu.Unlock()
	s.Wake()
}

// idle is the time until a lease is due.
func (s *Leases) idle() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	wait := idleTime
	for id := range s.leases {
		if !s.held[id] && !s.busy[id] {
			wait = min(wait, max(0, s.next[id].Sub(s.cfg.Now())))
		}
	}
	return wait
}

// keep makes the server and the endpoint agree with a lease.
func (s *Leases) keep(ctx context.Context, l cnm.Lease, readdress Readdress) {
	again, err := s.tend(ctx, l, readdress)
	if err != nil && ctx.Err() == nil {
		s.cfg.Log.WarnContext(ctx, "a lease could not be kept so far", "address", l.Addr, "server", l.Server,
			"endpoint", cnm.Short(l.Endpoint), "again at", again, "err", err)
	}
	s.mu.Lock()
	delete(s.busy, l.Endpoint)
	if s.failed[l.Endpoint] = err; err == nil {
		delete(s.failed, l.Endpoint)
	}
	if _, same := s.next[l.Endpoint]; same { // else somebody wants it looked at once more
		s.next[l.Endpoint] = again
	}
	if _, there := s.leases[l.Endpoint]; !there {
		delete(s.next, l.Endpoint)
	}
	s.mu.Unlock()
	s.Wake()
}

// Trouble is why leases could not be kept so far, or nil.
func (s *Leases) Trouble() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(s.failed)) {
		l := s.leases[id]
		return fmt.Errorf("%d leases of DHCP could not be renewed so far, such as that of %s for endpoint %s, "+
			"which %s: %w",
			len(s.failed), l.Addr.Addr(), cnm.Short(id), ends(l), s.failed[id])
	}
	return nil
}

func ends(l cnm.Lease) string {
	if l.Lost || l.Since.IsZero() {
		return "has ended"
	}
	return "ends at " + l.Since.Add(l.For).Format(time.TimeOnly)
}

// tend does what a lease's time or its endpoint's end asks for, and returns when it is to be looked at again.
func (s *Leases) tend(ctx context.Context, l cnm.Lease, readdress Readdress) (again time.Time, err error) {
	soon := s.cfg.Now().Add(lostRetry)
	rec, err := s.cfg.Store.Get(ctx, cnm.Key{Kind: cnm.KindEndpoint, ID: l.Endpoint})
	if errors.Is(err, cnm.ErrNotFound) {
		return soon, s.giveBack(ctx, l)
	}
	if err != nil {
		return soon, err
	}
	e, err := cnm.EndpointOf(rec)
	if err != nil || e.Phase == cnm.Deleting {
		return soon, err
	}
	l, asked := s.prolong(ctx, l)
	var addrs []netip.Prefix
	if !l.Lost {
		addrs = []netip.Prefix{l.Addr}
	}
	if slices.Equal(e.Addrs, addrs) && (l.Lost || e.Leased != nil && equal(*e.Leased, l.Leased)) {
		return s.nextOf(l), asked
	}
	s.cfg.Log.InfoContext(ctx, "an endpoint has another address of the DHCP server, or none", "endpoint",
		cnm.Short(l.Endpoint), "was", e.Addrs, "is", addrs)
	err = readdress(ctx, l.Endpoint, addrs, &l.Leased)
	if errors.Is(err, cnm.ErrNotFound) {
		return s.cfg.Now(), nil
	}
	if err != nil {
		return soon, errors.Join(asked, err)
	}
	return s.nextOf(l), asked
}

func equal(a, b cnm.Leased) bool { return a.Router == b.Router && slices.Equal(a.Routes, b.Routes) }

// prolong extends a lease whose time has come, and gets another one for it when it is over. The lease is right even
// with an error.
func (s *Leases) prolong(ctx context.Context, l cnm.Lease) (cnm.Lease, error) {
	now := s.cfg.Now()
	if !l.Lost && !l.Since.IsZero() {
		if l.For == 0 || now.Before(l.Since.Add(l.Renew)) {
			return l, nil
		}
		if now.Before(l.Since.Add(l.For)) {
			longer, err := s.extend(ctx, l, !now.Before(l.Since.Add(l.Rebind)))
			if !errors.Is(err, errRefused) {
				return longer, err
			}
		}
	}
	fresh, err := s.anew(ctx, l)
	if err == nil {
		return fresh, nil
	}
	if fresh.Lost = true; l.Lost && l.Since.IsZero() {
		return l, err // as it is written
	}
	fresh.Since = time.Time{}
	written, e := s.write(ctx, fresh)
	return written, errors.Join(err, e)
}

// extend asks for more time.
func (s *Leases) extend(ctx context.Context, l cnm.Lease, everybody bool) (cnm.Lease, error) {
	ctx, cancel := context.WithTimeout(ctx, min(acquireTime, l.Since.Add(l.For).Sub(s.cfg.Now())))
	defer cancel()
	n, err := s.networkOf(ctx, l)
	if err != nil {
		return l, err
	}
	c, err := s.dial(l, true)
	if err != nil {
		return l, err
	}
	defer c.Close()
	t, err := c.extend(ctx, everybody, func(t *terms) error { return t.within(n.Pools[0]) })
	if err != nil {
		return l, err
	}
	l.Via = c.link.last()
	longer, err := s.write(ctx, s.agreed(l, t))
	if err != nil {
		return l, err
	}
	return longer, nil
}

// anew gets an endpoint another lease, with the same address if it can be.
func (s *Leases) anew(ctx context.Context, l cnm.Lease) (cnm.Lease, error) {
	n, err := s.networkOf(ctx, l)
	if err != nil {
		return l, err
	}
	l.Since = time.Time{}
	return s.acquire(ctx, n, l, []netip.Addr{l.Addr.Addr()}, false)
}

func (s *Leases) networkOf(ctx context.Context, l cnm.Lease) (cnm.Network, error) {
	rec, err := s.cfg.Store.Get(ctx, cnm.Key{Kind: cnm.KindNetwork, ID: l.Network})
	if err != nil {
		return cnm.Network{}, fmt.Errorf("read the network of the lease of %s: %w", l.Addr, err)
	}
	n, err := cnm.NetworkOf(rec)
	if err == nil && len(n.Pools) == 0 {
		err = fmt.Errorf("network %s has no subnet", n.Name)
	}
	return n, err
}

// nextOf is when a lease is to be looked at again.
func (s *Leases) nextOf(l cnm.Lease) time.Time {
	now := s.cfg.Now()
	if l.Lost || l.Since.IsZero() {
		return now.Add(lostRetry)
	}
	if l.For == 0 {
		return now.Add(24 * time.Hour)
	}
	renew, rebind, end := l.Since.Add(l.Renew), l.Since.Add(l.Rebind), l.Since.Add(l.For)
	if now.Before(renew) {
		return renew
	}
	if now.Before(rebind) {
		end = rebind
	}
	return now.Add(min(max(end.Sub(now)/2, firstRetry), mostRetry))
}

// giveBack tells the server that nobody has a lease any more, and forgets it. Nobody answers to that; a server that has
// not heard it waits for the lease's end.
func (s *Leases) giveBack(ctx context.Context, l cnm.Lease) error {
	over := !l.Since.IsZero() && l.For != 0 && s.cfg.Now().After(l.Since.Add(l.For))
	if l.Addr.IsValid() && l.Server.IsValid() && !l.Lost && !over {
		if err := s.release(l); err != nil {
			s.cfg.Log.WarnContext(ctx, "the DHCP server could not be told that a lease is released", "address", l.Addr,
				"server", l.Server, "err", err)
		}
	}
	err := s.cfg.Store.Commit(ctx, cnm.Write{Key: cnm.Key{Kind: cnm.KindLease, ID: l.Endpoint}, Revision: l.Revision})
	if err != nil {
		return fmt.Errorf("forget the lease of %s: %w", l.Addr, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.leases, l.Endpoint)
	return nil
}

func (s *Leases) release(l cnm.Lease) error {
	c, err := s.dial(l, true)
	if _, missing := errors.AsType[*plan.NoLinkError](err); missing {
		return nil // and so is the LAN
	}
	if err != nil {
		return err
	}
	defer c.Close()
	return c.tell(dhcpv4.MessageTypeRelease)
}

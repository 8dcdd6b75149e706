package remote

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/drivers/remote/plugin"
)

// Addresses is the IPAM of networks whose subnets and addresses a plugin gives, and passes the others on. What a plugin
// gives is claimed from the IPAM below like what a user asks for, so it is checked and kept in the same way.
type Addresses struct {
	cnm.IPAM
	k *Caller

	mu      sync.Mutex
	pending map[string]bool // IDs of grants whose network or endpoint has no record yet
}

// Over puts the plugins' addresses over an IPAM.
func (k *Caller) Over(below cnm.IPAM) *Addresses {
	k.grants = &Addresses{IPAM: below, k: k, pending: map[string]bool{}}
	return k.grants
}

func (a *Addresses) hold(id string, on bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if on {
		a.pending[id] = true
	} else {
		delete(a.pending, id)
	}
}

func (a *Addresses) held(id string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.pending[id]
}

// Pools implements [cnm.IPAM].
func (a *Addresses) Pools(ctx context.Context, n cnm.Network, requests []cnm.PoolRequest) ([]cnm.Pool, error) {
	if n.IPAM == nil {
		return a.IPAM.Pools(ctx, n, requests)
	}
	g := &grant{Grant: cnm.Grant{Driver: n.IPAM.Driver, Network: n.ID}, k: a.k}
	if err := g.find(ctx); err != nil {
		return nil, err
	}
	a.k.used.Store(true)
	a.hold(g.ID(), true)
	requests = slices.Clone(requests)
	pools, err := func() ([]cnm.Pool, error) {
		for i := range requests {
			if err := g.pool(ctx, n, &requests[i]); err != nil {
				return nil, err
			}
		}
		if err := g.write(ctx); err != nil {
			return nil, err
		}
		return a.IPAM.Pools(ctx, n, requests)
	}()
	if err != nil {
		a.back(ctx, g.ID())
		return nil, ipamError(n, err)
	}
	return pools, nil
}

// ipamError says whose subnets or addresses are refused, unless that is known.
func ipamError(n cnm.Network, err error) error {
	if errors.Is(err, cnm.ErrUnavailable) {
		return err
	}
	return fmt.Errorf("what IPAM plugin %s gives: %w", n.IPAM.Driver, err)
}

// Forget implements [cnm.IPAM]. The caller may hold locks, so the plugin is told by Run.
func (a *Addresses) Forget(network string) {
	a.IPAM.Forget(network)
	a.hold(cnm.CallID(cnm.KindNetwork, network), false)
	a.k.Wake()
}

// endpointOf is the ID of the endpoint that owns addresses.
func endpointOf(owner string) string { return strings.TrimPrefix(owner, string(cnm.KindEndpoint)+"/") }

// Claim implements [cnm.IPAM].
func (a *Addresses) Claim(ctx context.Context, n cnm.Network, owner string, want, before []netip.Addr) (*cnm.Claim,
	error) {
	if n.IPAM == nil {
		return a.IPAM.Claim(ctx, n, owner, want, before)
	}
	g := &grant{Grant: cnm.Grant{Driver: n.IPAM.Driver, Network: n.ID, Endpoint: endpointOf(owner)}, k: a.k}
	if err := g.find(ctx); err != nil {
		return nil, err
	}
	a.hold(g.ID(), true)
	claim, err := func() (*cnm.Claim, error) {
		pools, err := a.k.poolsOf(ctx, n.ID)
		if err != nil {
			return nil, err
		}
		var given []netip.Addr
		for _, p := range pools {
			addr, err := g.endpointAddr(ctx, p, want, before)
			if err != nil {
				return nil, err
			}
			given = append(given, addr)
		}
		if err := g.write(ctx); err != nil {
			return nil, err
		}
		for _, w := range want {
			if !slices.Contains(given, w) {
				given = append(given, w) // it is in none of the network's pools, which is told below
			}
		}
		return a.IPAM.Claim(ctx, n, owner, given, nil)
	}()
	if err != nil {
		a.back(ctx, g.ID())
		return nil, ipamError(n, err)
	}
	claim.Finish = a.then(ctx, g.ID(), claim.Finish, false)
	return claim, nil
}

// then has what is given of a grant go back to the plugin, if the commit was the one that says whether.
func (a *Addresses) then(ctx context.Context, id string, finish func(bool), when bool) func(bool) {
	return func(committed bool) {
		if finish != nil {
			finish(committed)
		}
		if committed == when {
			a.back(ctx, id)
		} else {
			a.hold(id, false)
		}
	}
}

// back gives a grant back to the plugin, whose network or endpoint has no record. What cannot be told now is for Run.
func (a *Addresses) back(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
	defer cancel()
	a.hold(id, false)
	if err := a.k.giveBack(ctx, id); err != nil {
		a.k.cfg.Log.WarnContext(ctx, "an IPAM plugin could not be told of what it has back; later", "about", id,
			"err", err)
		a.k.Wake()
	}
}

// Release implements [cnm.IPAM].
func (a *Addresses) Release(ctx context.Context, network, owner string) (*cnm.Claim, error) {
	claim, err := a.IPAM.Release(ctx, network, owner)
	id := cnm.CallID(cnm.KindEndpoint, endpointOf(owner))
	if err != nil || !a.k.used.Load() {
		return claim, err
	}
	if _, err := a.k.cfg.Store.Get(ctx, cnm.Key{Kind: cnm.KindGrant, ID: id}); err != nil {
		if errors.Is(err, cnm.ErrNotFound) {
			err = nil
		}
		return claim, err
	}
	claim.Finish = a.then(ctx, id, claim.Finish, true)
	return claim, nil
}

// poolsOf are the pools that a network was given, IPv4 first.
func (k *Caller) poolsOf(ctx context.Context, network string) ([]cnm.GrantPart, error) {
	rec, err := k.cfg.Store.Get(ctx, cnm.Key{Kind: cnm.KindGrant, ID: cnm.CallID(cnm.KindNetwork, network)})
	if err != nil {
		return nil, fmt.Errorf("read what the IPAM plugin gave network %s: %w", cnm.Short(network), err)
	}
	g, err := cnm.GrantOf(rec)
	pools := slices.DeleteFunc(g.Parts, func(p cnm.GrantPart) bool { return !p.Pool })
	return pools, err
}

// findIPAM finds an IPAM plugin.
func (k *Caller) findIPAM(ctx context.Context, name string) (plugin.IPAM, error) {
	p, err := k.cfg.Finder.Find(ctx, name, plugin.IPAMDriver)
	switch {
	case errors.Is(err, plugin.ErrNoPlugin):
		return plugin.IPAM{}, &cnm.Error{Kind: cnm.ErrUnavailable, Field: "IPAM driver", Value: name,
			Reason: err.Error(), Remedy: "leave it out to have netd give the addresses"}
	case errors.Is(err, cnm.ErrInvalid):
		return plugin.IPAM{}, err
	case err != nil:
		return plugin.IPAM{}, unusable(name, err)
	}
	return p.IPAM(), nil
}

package ipam

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/vethloom/vethloom/cnm"
)

// Config is what an [IPAM] needs. Only Store is required.
type Config struct {
	Store cnm.Store
	// Avoid returns the prefixes that the host itself uses: addresses and
	// routes. Subnets that are picked keep clear of them; default routes are ignored.
	Avoid func(context.Context) ([]netip.Prefix, error)
	// Site is any text that is the same at each start and differs between
	// hosts, such as the machine ID. The /48 that IPv6 subnets are picked from is derived from it
	// (RFC 4193 section 3.2.2). Empty: a random /48.
	Site string
}

// IPAM implements [cnm.IPAM].
type IPAM struct {
	store cnm.Store
	avoid func(context.Context) ([]netip.Prefix, error)
	site  netip.Prefix

	mu       sync.Mutex
	networks map[string]*network
}

// network is what is known of one network's addresses.
type network struct {
	name    string
	cluster bool           // shared with other nodes
	subnets []netip.Prefix // of a cluster network: those of all nodes
	pools   []*pool
	owners  map[string]*holding
}

// holding is what one owner has in one network.
type holding struct {
	owner   string
	addrs   []netip.Addr
	next    []netip.Addr // those that are to replace some of addrs once the owner's renewal is committed
	pending bool         // claimed or renewed, not committed yet
}

// all are the addresses that no other owner may get.
func (h *holding) all() []netip.Addr { return append(slices.Clone(h.addrs), h.next...) }

// addressRecord is the value of a record of [cnm.KindAddress]; the record's ID is
// <network ID>/<address>.
type addressRecord struct {
	Network string     `json:"network"`
	Addr    netip.Addr `json:"addr"`
	Owner   string     `json:"owner"`
}

func (r addressRecord) key() cnm.Key {
	return cnm.Key{Kind: cnm.KindAddress, ID: r.Network + "/" + r.Addr.String()}
}

// New reads the networks and addresses in the store.
func New(ctx context.Context, c Config) (*IPAM, error) {
	site, err := siteFrom(c.Site)
	if err != nil {
		return nil, err
	}
	m := &IPAM{store: c.Store, avoid: c.Avoid, site: site, networks: map[string]*network{}}
	networks, err := cnm.ListNetworks(ctx, c.Store)
	if err != nil {
		return nil, err
	}
	for _, n := range networks {
		m.network(n)
	}
	records, err := c.Store.List(ctx, cnm.KindAddress)
	if err != nil {
		return nil, fmt.Errorf("list address records: %w", err)
	}
	for _, rec := range records {
		var r addressRecord
		if err := json.Unmarshal(rec.Value, &r); err != nil {
			return nil, fmt.Errorf("decode the address record %s: %w", rec.Key.ID, err)
		}
		m.restore(r)
	}
	return m, nil
}

// network returns the entry of n and makes it when there is none.
func (m *IPAM) network(n cnm.Network) *network {
	e := m.networks[n.ID]
	if e == nil {
		e = &network{name: n.Name, owners: map[string]*holding{}}
		m.networks[n.ID] = e
	}
	if len(e.pools) == 0 && !e.cluster {
		e.take(n) // of a cluster network, Update tells: n may be what it was
	}
	return e
}

// restore takes over a record. Its network may be unknown, when the store
// lost it: the owner can still give the address back.
func (m *IPAM) restore(r addressRecord) {
	e := m.network(cnm.Network{ID: r.Network})
	h := e.owners[r.Owner]
	if h == nil {
		h = &holding{owner: r.Owner}
		e.owners[r.Owner] = h
	}
	h.addrs = append(h.addrs, r.Addr)
	for _, p := range e.pools {
		if p.Subnet.Contains(r.Addr) {
			p.restore(r.Addr, r.Owner)
		}
	}
}

// Claim implements [cnm.IPAM].
func (m *IPAM) Claim(ctx context.Context, n cnm.Network, owner string, want, before []netip.Addr) (*cnm.Claim, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.network(n)
	if h := e.owners[owner]; h != nil {
		return e.again(h, owner, want)
	}
	if e.cluster && len(e.pools) == 0 {
		return nil, &cnm.Error{
			Kind: cnm.ErrUnavailable, Field: "network", Value: n.Name,
			Reason: "this node has no subnet of the network yet",
			Remedy: "try again in a moment; net status tells whether the cluster's store can be reached",
		}
	}
	wanted, err := e.assign(n.Name, want)
	if err != nil {
		return nil, err
	}
	h := &holding{owner: owner, pending: true}
	for _, pools := range e.families() {
		if !cnm.OwnsFamily(owner, pools[0].Subnet.Addr().Is6()) {
			continue
		}
		a, ok := pools.take(owner, wanted, before)
		if !ok {
			e.drop(h)
			return nil, pools.exhausted(n.Name)
		}
		h.addrs = append(h.addrs, a)
	}
	claim := &cnm.Claim{Addrs: e.prefixes(h)}
	if claim.Writes, err = created(n.ID, owner, h.addrs); err != nil {
		e.drop(h)
		return nil, err
	}
	e.owners[owner] = h
	claim.Finish = func(committed bool) { m.claimed(e, owner, h, committed) }
	return claim, nil
}

// created are the writes that make address records.
func created(network, owner string, addrs []netip.Addr) ([]cnm.Write, error) {
	var writes []cnm.Write
	for _, a := range addrs {
		r := addressRecord{Network: network, Addr: a, Owner: owner}
		value, err := json.Marshal(r)
		if err != nil {
			return nil, fmt.Errorf("encode the address record %s: %w", r.key().ID, err)
		}
		writes = append(writes, cnm.Write{Key: r.key(), Value: value})
	}
	return writes, nil
}

// removed are the writes that remove what there is of address records.
func (m *IPAM) removed(ctx context.Context, network, owner string, addrs []netip.Addr) ([]cnm.Write, error) {
	var writes []cnm.Write
	for _, a := range addrs {
		r := addressRecord{Network: network, Addr: a, Owner: owner}
		rec, err := m.store.Get(ctx, r.key())
		if errors.Is(err, cnm.ErrNotFound) {
			continue // removed by somebody else, which is what is wanted
		}
		if err != nil {
			return nil, fmt.Errorf("release %s: %w", a, err)
		}
		writes = append(writes, cnm.Write{Key: r.key(), Revision: rec.Revision})
	}
	return writes, nil
}

func (m *IPAM) claimed(e *network, owner string, h *holding, committed bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	h.pending = false
	if !committed && e.owners[owner] == h {
		e.drop(h)
		delete(e.owners, owner)
	}
}

// again answers an owner that claims a second time.
func (e *network) again(h *holding, owner string, want []netip.Addr) (*cnm.Claim, error) {
	if h.pending {
		return nil, fmt.Errorf("claim addresses for %s: an earlier claim is not decided yet: %w", owner,
			cnm.ErrConflict)
	}
	for _, a := range want {
		if !slices.Contains(h.addrs, a.Unmap()) {
			return nil, &cnm.Error{
				Kind: cnm.ErrExists, Field: "address", Value: a.String(),
				Reason: fmt.Sprintf("%s has %s in network %q already", owner, joinAddrs(h.addrs), e.name),
				Remedy: "detach it first to give it another address",
			}
		}
	}
	return &cnm.Claim{Addrs: e.prefixes(h)}, nil
}

// drop frees what a holding has.
func (e *network) drop(h *holding) { e.free(h, h.all()) }

// free frees addresses of a holding.
func (e *network) free(h *holding, addrs []netip.Addr) {
	for _, a := range addrs {
		for _, p := range e.pools {
			p.drop(a, h.owner)
		}
	}
}

// prefixes are the addresses of a holding with the length of their subnets.
func (e *network) prefixes(h *holding) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range e.pools {
		for _, a := range h.addrs {
			if p.Subnet.Contains(a) {
				out = append(out, netip.PrefixFrom(a, p.Subnet.Bits()))
			}
		}
	}
	return out
}

// assign are the wanted addresses, each of a pool that can give it.
func (e *network) assign(name string, want []netip.Addr) ([]netip.Addr, error) {
	var out []netip.Addr
	for _, a := range want {
		a = a.Unmap()
		i := slices.IndexFunc(e.pools, func(p *pool) bool { return p.Subnet.Contains(a) })
		if i < 0 {
			return nil, e.outside(name, a)
		}
		if by, taken := e.pools[i].holder[a]; taken {
			return nil, &cnm.Error{
				Kind: cnm.ErrExists, Field: "address", Value: a.String(),
				Reason: fmt.Sprintf("taken by %s in network %q", by, name),
				Remedy: "ask for another address, or for none to have a free one picked",
			}
		}
		if j := slices.IndexFunc(out, func(b netip.Addr) bool { return a.Is4() == b.Is4() }); j >= 0 {
			return nil, &cnm.Error{
				Kind: cnm.ErrInvalid, Field: "address", Value: a.String(),
				Reason: fmt.Sprintf("%s is asked for too; an endpoint has one address of each family", out[j]),
				Remedy: "leave one of them out",
			}
		}
		if !e.pools[i].gives(a) {
			return nil, e.pools[i].notOurs(name, a)
		}
		out = append(out, a)
	}
	return out, nil
}

func (e *network) outside(name string, a netip.Addr) error {
	var subnets []string
	for _, p := range e.pools {
		subnets = append(subnets, p.Subnet.String())
	}
	reason, remedy := fmt.Sprintf("not in the subnet of network %q, %s", name, strings.Join(subnets, " and ")),
		"ask for an address in it, or for none to have a free one picked"
	if len(subnets) == 0 {
		reason, remedy = fmt.Sprintf("network %q has no addresses", name), "leave the address out"
	}
	return &cnm.Error{Kind: cnm.ErrInvalid, Field: "address", Value: a.String(), Reason: reason, Remedy: remedy}
}

// Release implements [cnm.IPAM].
func (m *IPAM) Release(ctx context.Context, networkID, owner string) (*cnm.Claim, error) {
	m.mu.Lock()
	e := m.networks[networkID]
	var h *holding
	var addrs []netip.Addr
	if e != nil {
		if h = e.owners[owner]; h != nil {
			addrs = h.all()
		}
	}
	m.mu.Unlock()
	writes, err := m.removed(ctx, networkID, owner, addrs)
	if err != nil {
		return nil, err
	}
	claim := &cnm.Claim{Writes: writes}
	claim.Finish = func(committed bool) {
		m.mu.Lock()
		defer m.mu.Unlock()
		if committed && e != nil && e.owners[owner] == h && h != nil {
			e.drop(h)
			delete(e.owners, owner)
		}
	}
	return claim, nil
}

func joinAddrs(addrs []netip.Addr) string {
	var s []string
	for _, a := range addrs {
		s = append(s, a.String())
	}
	return strings.Join(s, " and ")
}

package remote

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/drivers/remote/plugin"
)

// maxID bounds what a plugin calls a pool, in bytes.
const maxID = 1024

// grant is what is asked for on behalf of one network or endpoint.
type grant struct {
	cnm.Grant
	k *Caller
	p plugin.IPAM
}

// find finds the plugin, and whether it can be asked.
func (g *grant) find(ctx context.Context) (err error) {
	if g.p, err = g.k.findIPAM(ctx, g.Driver); err != nil {
		return err
	}
	c, err := g.p.Capabilities(ctx)
	if err != nil {
		return unusable(g.Driver, err)
	}
	if c.RequiresMACAddress {
		return &cnm.Error{Kind: cnm.ErrForbidden, Field: "IPAM driver", Value: g.Driver,
			Reason: "it wants an endpoint's hardware address before it gives an address, which netd does not know then",
			Remedy: "choose another one"}
	}
	return nil
}

// write writes the grant's record, before the plugin is asked for its last part.
func (g *grant) write(ctx context.Context) error {
	w, err := cnm.Put(cnm.KindGrant, g.ID(), g.Grant, g.Revision)
	if err == nil {
		err = g.k.cfg.Store.Commit(ctx, w)
	}
	if err != nil {
		return fmt.Errorf("write down what IPAM plugin %s is asked for: %w", g.Driver, err)
	}
	rec, err := g.k.cfg.Store.Get(ctx, w.Key)
	g.Revision = rec.Revision
	return err
}

// ask writes down a part, asks for it and takes the answer. One that the plugin refuses is no part.
func (g *grant) ask(ctx context.Context, part cnm.GrantPart, ask func(*cnm.GrantPart) error) (cnm.GrantPart, error) {
	g.Parts = append(g.Parts, part)
	if err := g.write(ctx); err != nil {
		return part, err
	}
	last := &g.Parts[len(g.Parts)-1]
	err := ask(last)
	switch refused, ok := errors.AsType[*plugin.Refusal](err); {
	case ok:
		g.Parts = g.Parts[:len(g.Parts)-1]
		return part, errors.Join(refused, g.write(ctx))
	case err != nil:
		return part, unusable(g.Driver, err)
	}
	last.Done = true
	return *last, nil
}

// pool asks for one pool of a network, and makes the request one for what was given.
func (g *grant) pool(ctx context.Context, n cnm.Network, r *cnm.PoolRequest) error {
	space, _, err := g.p.DefaultAddressSpaces(ctx)
	if err != nil {
		return unusable(g.Driver, err)
	}
	if r.Bits != 0 {
		return &cnm.Error{Kind: cnm.ErrInvalid, Field: "subnet", Value: fmt.Sprintf("/%d", r.Bits),
			Reason: "an IPAM plugin cannot be told the length of a subnet alone",
			Remedy: "give the whole subnet, or none to have the plugin pick one"}
	}
	part := cnm.GrantPart{Pool: true, IPv6: r.IPv6 || r.Subnet.Addr().Is6(), Range: r.Range, Data: n.IPAM.Options}
	if r.Subnet.IsValid() {
		part.Asked = r.Subnet.String()
	}
	data := map[string]string{}
	part, err = g.ask(ctx, part, func(p *cnm.GrantPart) error {
		out, err := g.p.RequestPool(ctx, poolConfig(space, *p))
		if err != nil {
			return err
		}
		data = out.Data
		return odd("RequestPool", takePool(out, p))
	})
	if err != nil {
		return refusal("subnet", part.Asked, g.Driver, err)
	}
	r.Subnet, r.IPv6 = part.Given, part.IPv6
	if err := g.gateway(ctx, part, r, data[plugin.GatewayData]); err != nil {
		return err
	}
	for _, a := range r.Aux {
		if _, err := g.address(ctx, part, a.String(), nil); err != nil {
			return refusal("auxiliary address", a.String(), g.Driver, err)
		}
	}
	return nil
}

// refusal is why a plugin does not give what was asked for.
func refusal(field, value, driver string, err error) error {
	refused, ok := errors.AsType[*plugin.Refusal](err)
	if !ok {
		return err
	}
	if value == "" {
		value = "any"
	}
	return &cnm.Error{Kind: cnm.ErrExists, Field: field, Value: value, Reason: refused.Error(),
		Remedy: "ask for another one, or look at the log of plugin " + driver}
}

func poolConfig(space string, p cnm.GrantPart) plugin.PoolConfig {
	c := plugin.PoolConfig{AddressSpace: space, Pool: p.Asked, Options: p.Data, V6: p.IPv6}
	if p.Range.IsValid() {
		c.SubPool = p.Range.String()
	}
	return c
}

// takePool checks a pool.
func takePool(out plugin.Pool, p *cnm.GrantPart) error {
	subnet, err := netip.ParsePrefix(out.Pool)
	switch {
	case out.PoolID == "" || len(out.PoolID) > maxID:
		return fmt.Errorf("PoolID is %.60q", out.PoolID)
	case err != nil || subnet != subnet.Masked() || subnet.Addr().Is4In6():
		return fmt.Errorf("the field Pool is %.60q, which is no subnet", out.Pool)
	case subnet.Addr().Is6() != p.IPv6:
		return fmt.Errorf("the field Pool is %s, which is of the other family", subnet)
	case p.Asked != "" && p.Asked != subnet.String():
		return fmt.Errorf("the field Pool is %s, and %s was asked for", subnet, p.Asked)
	}
	p.PoolID, p.Given = out.PoolID, subnet
	return nil
}

// gateway gets the gateway of a pool: the one that was asked for, else that of the pool's data, else any.
func (g *grant) gateway(ctx context.Context, pool cnm.GrantPart, r *cnm.PoolRequest, data string) error {
	asked := ""
	if r.Gateway.IsValid() {
		asked = r.Gateway.String()
	} else if data != "" {
		a, err := parseAddr(data)
		if err != nil || !pool.Given.Contains(a) {
			return unusable(g.Driver, fmt.Errorf("the gateway of %s is %.60q", pool.Given, data))
		}
		r.Gateway = a
		return nil
	}
	a, err := g.address(ctx, pool, asked, map[string]string{plugin.RequestAddressType: plugin.GatewayData})
	r.Gateway = a
	return refusal("gateway", asked, g.Driver, err)
}

// parseAddr parses an address with or without a length.
func parseAddr(text string) (netip.Addr, error) {
	if p, err := netip.ParsePrefix(text); err == nil {
		return p.Addr(), nil
	}
	return netip.ParseAddr(text)
}

// address asks for an address of a pool, a certain one or any.
func (g *grant) address(ctx context.Context, pool cnm.GrantPart, asked string, options map[string]string) (netip.Addr,
	error) {
	part := cnm.GrantPart{PoolID: pool.PoolID, Asked: asked, Data: options}
	part, err := g.ask(ctx, part, func(p *cnm.GrantPart) error {
		out, err := g.p.RequestAddress(ctx, p.PoolID, p.Asked, p.Data)
		if err != nil {
			return err
		}
		a, err := parseAddr(out.Address)
		switch {
		case err != nil || !pool.Given.Contains(a):
			err = fmt.Errorf("the field Address is %.60q, which is none of pool %s", out.Address, pool.Given)
		case p.Asked != "" && p.Asked != a.String():
			err = fmt.Errorf("the field Address is %s, and %s was asked for", a, p.Asked)
		default:
			p.Given = netip.PrefixFrom(a, pool.Given.Bits())
		}
		return odd("RequestAddress", err)
	})
	return part.Given.Addr(), err
}

// endpointAddr gets an endpoint its address of a pool: the one that is wanted, else the one of before if the plugin
// gives it again, else any.
func (g *grant) endpointAddr(ctx context.Context, pool cnm.GrantPart, want, before []netip.Addr) (netip.Addr, error) {
	of := func(list []netip.Addr) string {
		if i := slices.IndexFunc(list, pool.Given.Contains); i >= 0 {
			return list[i].String()
		}
		return ""
	}
	if asked := of(want); asked != "" {
		a, err := g.address(ctx, pool, asked, nil)
		return a, refusal("address", asked, g.Driver, err)
	}
	if asked := of(before); asked != "" {
		if a, err := g.address(ctx, pool, asked, nil); err == nil {
			return a, nil
		} else if _, refused := errors.AsType[*plugin.Refusal](err); !refused {
			return a, err
		}
	}
	a, err := g.address(ctx, pool, "", nil)
	return a, refusal("address", "", g.Driver, err)
}

// giveBack gives everything of a grant back and removes its record: addresses first, then pools, and before the pools
// of a network what endpoints on it have.
func (k *Caller) giveBack(ctx context.Context, id string) error {
	unlock, err := k.locks.lock(ctx, "grant/"+id)
	if err != nil {
		return err
	}
	defer unlock()
	rec, err := k.cfg.Store.Get(ctx, cnm.Key{Kind: cnm.KindGrant, ID: id})
	if errors.Is(err, cnm.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	g := &grant{k: k}
	if g.Grant, err = cnm.GrantOf(rec); err != nil {
		return err
	}
	all, err := cnm.ListGrants(ctx, k.cfg.Store)
	if err != nil {
		return err
	}
	for _, o := range all {
		if g.Endpoint == "" && o.Endpoint != "" && o.Network == g.Network {
			if err := k.giveBack(ctx, o.ID()); err != nil {
				return err
			}
		}
	}
	if g.p, err = k.findIPAM(ctx, g.Driver); err != nil {
		return err
	}
	for len(g.Parts) > 0 {
		part := g.Parts[len(g.Parts)-1]
		if err := g.release(ctx, part, all); err != nil {
			return unusable(g.Driver, err)
		}
		g.Parts = g.Parts[:len(g.Parts)-1]
		if len(g.Parts) > 0 {
			if err := g.write(ctx); err != nil {
				return err
			}
		}
	}
	return k.cfg.Store.Commit(ctx, cnm.Write{Key: rec.Key, Revision: g.Revision})
}

// release gives one part back. Of one whose answer was lost it is not known what was given.
func (g *grant) release(ctx context.Context, part cnm.GrantPart, all []cnm.Grant) error {
	addr := part.Asked
	if part.Done {
		addr = part.Given.Addr().String()
	}
	var err error
	switch {
	case part.Pool && !part.Done:
		// A plugin that gives the same again can be given it back.
		space, _, e := g.p.DefaultAddressSpaces(ctx)
		if e != nil {
			return e
		}
		var out plugin.Pool
		if out, err = g.p.RequestPool(ctx, poolConfig(space, part)); err == nil {
			err = g.p.ReleasePool(ctx, out.PoolID)
		}
	case part.Pool:
		err = g.p.ReleasePool(ctx, part.PoolID)
	case addr == "":
		g.k.cfg.Log.WarnContext(ctx, "an IPAM plugin may have given an address that nobody knows of", "plugin",
			g.Driver, "pool", fmt.Sprintf("%q", part.PoolID))
	case taken(all, g.ID(), part.PoolID, addr): // a plugin that gave it twice
	default:
		err = g.p.ReleaseAddress(ctx, part.PoolID, addr)
	}
	if refused, ok := errors.AsType[*plugin.Refusal](err); ok {
		g.k.cfg.Log.InfoContext(ctx, "an IPAM plugin did not take back what it gave", "about", g.ID(), "err", refused)
	}
	if plugin.Answered(err) {
		return nil
	}
	return err
}

// taken reports whether a grant other than that of the ID has an address.
func taken(all []cnm.Grant, id, pool, addr string) bool {
	return slices.ContainsFunc(all, func(g cnm.Grant) bool {
		return g.ID() != id && slices.ContainsFunc(g.Parts, func(p cnm.GrantPart) bool {
			return p.Done && !p.Pool && p.PoolID == pool && p.Given.Addr().String() == addr
		})
	})
}

// replay asks again for what plugins gave that forget it when they start (RequiresRequestReplay). A plugin that has it
// still refuses, which is as good.
func (k *Caller) replay(ctx context.Context) error {
	grants, err := cnm.ListGrants(ctx, k.cfg.Store)
	if err != nil {
		return err
	}
	// Pools come before the addresses of them.
	slices.SortStableFunc(grants, func(a, b cnm.Grant) int { return strings.Compare(a.Endpoint, b.Endpoint) })
	var errs []error
	for _, o := range grants {
		g := &grant{Grant: o, k: k}
		if err := g.replay(ctx); err != nil {
			errs = append(errs, unusable(g.Driver, err))
		}
	}
	return errors.Join(errs...)
}

func (g *grant) replay(ctx context.Context) (err error) {
	if g.p, err = g.k.findIPAM(ctx, g.Driver); err != nil {
		return err
	}
	c, err := g.p.Capabilities(ctx)
	if err != nil || !c.RequiresRequestReplay {
		return err
	}
	space, _, err := g.p.DefaultAddressSpaces(ctx)
	if err != nil {
		return err
	}
	for _, p := range g.Parts {
		switch {
		case !p.Done:
			continue
		case p.Pool:
			p.Asked = p.Given.String()
			_, err = g.p.RequestPool(ctx, poolConfig(space, p))
		default:
			_, err = g.p.RequestAddress(ctx, p.PoolID, p.Given.Addr().String(), p.Data)
		}
		if !plugin.Answered(err) {
			return err
		}
	}
	return nil
}

// orphans gives back what was given to networks and endpoints that have no record.
func (k *Caller) orphans(ctx context.Context) error {
	grants, err := cnm.ListGrants(ctx, k.cfg.Store)
	if err != nil {
		return err
	}
	var errs []error
	for _, g := range grants {
		key := cnm.Key{Kind: cnm.KindNetwork, ID: g.Network}
		if g.Endpoint != "" {
			key = cnm.Key{Kind: cnm.KindEndpoint, ID: g.Endpoint}
		}
		held := k.grants.held(g.ID()) // before the record is looked for: it is let go once there is one
		switch _, err := k.cfg.Store.Get(ctx, key); {
		case err == nil:
			k.grants.hold(g.ID(), false)
		case !errors.Is(err, cnm.ErrNotFound):
			errs = append(errs, err)
		case !held:
			errs = append(errs, k.giveBack(ctx, g.ID()))
		}
	}
	return errors.Join(errs...)
}

package controller

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/vethloom/vethloom/cnm"
)

// createConfig makes a network that only holds what others are made from. Its pools stay requests: who is made from it
// gets the subnets, and what the options mean is for that one's driver to say.
func (k *networks) createConfig(ctx context.Context, r cnm.NetworkRequest) (cnm.Network, error) {
	bad := func(field, value, reason, remedy string) (cnm.Network, error) {
		return cnm.Network{}, &cnm.Error{Kind: cnm.ErrInvalid, Field: field, Value: value, Reason: reason,
			Remedy: remedy}
	}
	if _, ok := builtins[r.Name]; ok {
		return cnm.Network{}, &cnm.Error{Kind: cnm.ErrExists, Field: "name", Value: r.Name,
			Reason: "the name of a builtin network", Remedy: "choose another name"}
	}
	switch {
	case r.Driver != "" && r.Driver != cnm.DriverNull:
		return bad("driver", r.Driver, "a network with config-only has none",
			"leave it out, and give it to the networks that are made with config-from")
	case r.ConfigFrom != "":
		return bad("config-from", r.ConfigFrom, "config-only is given too", "leave out one or the other")
	case r.IPAM != "":
		return bad("IPAM driver", r.IPAM, "what a network with config-only cannot hold",
			"leave it out, and give it to the networks that are made with config-from")
	case r.Internal:
		return bad("internal", "true", "what a network with config-only cannot hold",
			"leave it out, and give it to the networks that are made with config-from")
	}
	if err := cnm.CheckName("name", r.Name); err != nil {
		return cnm.Network{}, err
	}
	n := copyNetwork(cnm.Network{
		Name: r.Name, Driver: cnm.DriverNull, Scope: cnm.Local, IPv4: !r.DisableIPv4, IPv6: r.IPv6, Options: r.Options,
		Labels: r.Labels, ConfigOnly: true, Config: r.Pools, Created: k.now(), Phase: cnm.Active,
	})
	for _, p := range r.Pools {
		n.IPv6 = n.IPv6 || p.IPv6 || p.Subnet.IsValid() && p.Subnet.Addr().Is6()
	}
	var err error
	if n.ID, err = k.holdName(n); err != nil {
		return cnm.Network{}, err
	}
	w, err := cnm.Put(cnm.KindNetwork, n.ID, n, 0)
	if err == nil {
		err = k.store.Commit(ctx, w)
	}
	k.mu.Lock()
	if err != nil {
		k.ix.dropNetwork(n.ID)
	} else {
		k.ix.putNetwork(n, false)
	}
	k.mu.Unlock()
	if err == nil {
		err = k.converge(ctx, cnm.NetworkOwner(n.ID))
	}
	if err != nil {
		return cnm.Network{}, fmt.Errorf("create network %s: %w", n.Name, err)
	}
	k.emitNetwork(ActionCreate, n)
	return copyNetwork(n), nil
}

// configured is a request completed by the network that it is to be made from.
func (k *networks) configured(r cnm.NetworkRequest) (cnm.NetworkRequest, error) {
	if len(r.Pools) > 0 || len(r.Options) > 0 || r.IPv6 || r.DisableIPv4 {
		return r, &cnm.Error{Kind: cnm.ErrInvalid, Field: "config-from", Value: r.ConfigFrom,
			Reason: "subnets, families and options come from there", Remedy: "leave them out, or leave config-from out"}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	c, err := k.findConfig(r.ConfigFrom)
	if err != nil {
		return r, err
	}
	c = copyNetwork(c)
	labels := maps.Clone(c.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	maps.Copy(labels, r.Labels)
	r.Pools, r.Options, r.Labels, r.IPv6, r.DisableIPv4 = c.Config, c.Options, labels, c.IPv6, !c.IPv4
	r.ConfigFrom = c.Name
	return r, nil
}

// findConfig finds a network that others can be made from. The caller holds mu.
func (k *records) findConfig(ref string) (cnm.Network, error) {
	c, err := k.findNetwork(ref)
	switch {
	case err != nil:
		return c, err
	case !c.ConfigOnly:
		return c, &cnm.Error{Kind: cnm.ErrInvalid, Field: "config-from", Value: ref,
			Reason: "a network of its own, which no other is made from",
			Remedy: "name one that was made with config-only"}
	case c.Phase == cnm.Deleting:
		return c, &cnm.Error{Kind: cnm.ErrInUse, Field: "config-from", Value: ref, Reason: "being removed"}
	}
	return c, nil
}

// configUsed refuses the removal of a network that others were made from. The caller holds mu.
func (k *records) configUsed(n cnm.Network) error {
	if !n.ConfigOnly {
		return nil
	}
	var by []string
	for _, e := range k.ix.networks {
		if e.v.ConfigFrom == n.Name {
			by = append(by, e.v.Name)
		}
	}
	if len(by) == 0 {
		return nil
	}
	slices.Sort(by)
	return &cnm.Error{Kind: cnm.ErrInUse, Field: "network", Value: n.Name,
		Reason: "made from it is " + strings.Join(by[:min(len(by), 10)], ", "),
		Remedy: "remove what was made from it first"}
}

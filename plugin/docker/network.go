package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/plugin/docker/relay"
)

// known is the record of a network of Docker's.
type known struct {
	Network string `json:"network"`        // our network's ID
	Made    bool   `json:"made,omitempty"` // for Docker: it goes with Docker's
	// Aux are addresses that Docker has reserved for its user, and gives back with the network.
	Aux []netip.Addr `json:"aux,omitempty"`
}

func keyOf(id string) cnm.Key { return cnm.Key{Kind: cnm.KindDocker, ID: id} }

// lookup finds a network of Docker's.
func (b Backend) lookup(ctx context.Context, id string) (known, cnm.Record, error) {
	var k known
	rec, err := b.Store.Get(ctx, keyOf(id))
	if err == nil {
		err = json.Unmarshal(rec.Value, &k)
	}
	if errors.Is(err, cnm.ErrNotFound) {
		err = &cnm.Error{Kind: cnm.ErrNotFound, Field: "NetworkID", Value: cnm.Short(id), Cause: cnm.ErrNotFound,
			Reason: "netd knows no such network of Docker's", Remedy: "docker network rm it, and make it again"}
	}
	return k, rec, err
}

func (s *Server) createNetwork(ctx context.Context, r networkRequest) (any, error) {
	switch _, _, err := s.back.lookup(ctx, r.NetworkID); {
	case err == nil:
		return struct{}{}, nil // an earlier request has made it
	case !errors.Is(err, cnm.ErrNotFound):
		return nil, err
	}
	pools := append(slices.Clone(r.IPv4Data), r.IPv6Data...)
	ours := slices.ContainsFunc(pools, func(p poolData) bool { return p.AddressSpace == relay.AddressSpace })
	name := r.Options.Generic["net"]
	switch {
	case name != "" && !ours:
		return nil, refuse("-o net", name, "the network's addresses are vethloom's to give",
			"add --ipam-driver vethloom --ipam-opt net="+name+" --subnet SUBNET")
	case name == "" && ours:
		return nil, refuse("--ipam-driver", "vethloom", "there is no -o net=NAME",
			"add -o net=NAME with the name of --ipam-opt net=NAME")
	}
	k := known{Made: name == ""}
	n, err := s.networkFor(ctx, name, r, pools)
	if err != nil {
		return nil, err
	}
	k.Network = n.ID
	for _, p := range pools {
		for _, text := range p.AuxAddresses {
			a, err := parseAddr(text)
			if err != nil {
				return nil, err
			}
			k.Aux = append(k.Aux, a)
		}
	}
	value, err := json.Marshal(k)
	if err == nil {
		err = s.back.Store.Commit(ctx, cnm.Write{Key: keyOf(r.NetworkID), Value: value})
	}
	return struct{}{}, err
}

// networkFor finds the network that is named, or makes one for Docker.
func (s *Server) networkFor(ctx context.Context, name string, r networkRequest, pools []poolData) (cnm.Network,
	error) {
	if name != "" {
		n, err := s.back.Controller.Network(ctx, name)
		if err == nil {
			err = s.back.Controller.HandsOver(n.Driver)
		}
		for _, p := range pools {
			subnet, _ := netip.ParsePrefix(p.Pool)
			if err == nil && !slices.ContainsFunc(n.Pools, func(o cnm.Pool) bool { return o.Subnet == subnet }) {
				err = refuse("--ipam-opt net", p.Pool, "the subnet is not one of network "+n.Name,
					"name the same network with -o net and --ipam-opt net")
			}
		}
		return n, err
	}
	own := nameOf(r.NetworkID)
	if n, err := s.back.Controller.Network(ctx, own); !errors.Is(err, cnm.ErrNotFound) {
		return n, err // a request whose record was not written has made it
	}
	ask := cnm.NetworkRequest{Name: own, Driver: r.Options.Generic["driver"], Internal: r.Options.Internal,
		IPv6: len(r.IPv6Data) > 0, DisableIPv4: len(r.IPv4Data) == 0, Options: maps.Clone(r.Options.Generic),
		Labels: map[string]string{"docker": r.NetworkID}}
	delete(ask.Options, "driver")
	if err := s.back.Controller.HandsOver(ask.Driver); err != nil {
		return cnm.Network{}, err
	}
	for _, p := range pools {
		pool, err := poolFrom(p)
		if err != nil {
			return cnm.Network{}, err
		}
		ask.Pools = append(ask.Pools, pool)
	}
	return s.back.Controller.CreateNetwork(ctx, ask)
}

// poolFrom is a pool of Docker's own IPAM.
func poolFrom(p poolData) (cnm.PoolRequest, error) {
	subnet, err := netip.ParsePrefix(p.Pool)
	if err != nil || subnet.Bits() == 0 {
		return cnm.PoolRequest{}, refuse("--subnet", p.Pool, "no subnet", "give one such as 10.7.0.0/24")
	}
	out := cnm.PoolRequest{Subnet: subnet.Masked()}
	if p.Gateway != "" {
		if out.Gateway, err = parseAddr(p.Gateway); err != nil {
			return out, err
		}
	}
	for what, text := range p.AuxAddresses {
		a, err := parseAddr(text)
		if err != nil {
			return out, err
		}
		if out.Aux == nil {
			out.Aux = map[string]netip.Addr{}
		}
		out.Aux[what] = a
	}
	return out, nil
}

func (s *Server) deleteNetwork(ctx context.Context, r networkRequest) (any, error) {
	return struct{}{}, s.back.forget(ctx, r.NetworkID)
}

// forget removes the record of a network of Docker's, and what was made for it. One that is not known is no error.
func (b Backend) forget(ctx context.Context, id string) error {
	k, rec, err := b.lookup(ctx, id)
	if errors.Is(err, cnm.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if k.Made {
		if _, err := b.Controller.DeleteNetwork(ctx, k.Network); err != nil && !errors.Is(err, cnm.ErrNotFound) {
			return err
		}
	}
	err = b.Store.Commit(ctx, cnm.Write{Key: rec.Key, Revision: rec.Revision})
	if err != nil && !errors.Is(err, cnm.ErrConflict) {
		return fmt.Errorf("forget the network: %w", err)
	}
	kept, err := b.aux(ctx, k.Network)
	for _, a := range k.Aux {
		if err == nil && !kept[a] { // by another network of Docker's
			err = b.Controller.Unreserve(ctx, k.Network, reservationOf(a), a.Is6())
		}
	}
	return err
}

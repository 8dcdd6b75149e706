package docker

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vethloom/vethloom/cnm"
)

// keys of reservations of this package begin so.
const keys = "docker/"

// reservationOf is the key of an address that was named.
func reservationOf(a netip.Addr) string { return keys + "at/" + a.String() }

// poolOf reads the ID of a pool: the network and the family. It says all there is to know, so that nothing is to be
// remembered of it.
func poolOf(id string) (network string, ipv6 bool, err error) {
	network, family, ok := strings.Cut(id, "/")
	if !ok || family != "4" && family != "6" || cnm.CheckID(network) != nil {
		return "", false, refuse("PoolID", id, "no pool of this driver", "make the network again")
	}
	return network, family == "6", nil
}

// requestPool gives the subnet of a network. Docker asks again and again for one that the host has a route to, unless
// its user has named it: then it asks once.
func (s *Server) requestPool(ctx context.Context, r poolRequest) (any, error) {
	n, err := s.back.Controller.Network(ctx, r.Options["net"])
	if err != nil {
		return nil, err
	}
	var subnets []netip.Prefix
	for _, p := range n.Pools {
		if p.Subnet.Addr().Is6() == r.V6 {
			subnets = append(subnets, p.Subnet)
		}
	}
	if len(subnets) == 0 {
		return nil, refuse("net", n.Name, "the network has no subnet of that family on this node",
			"net network inspect "+n.Name+" shows what it has")
	}
	if r.Pool == "" {
		return nil, refuse("net", n.Name, "Docker wants to be told the subnet of a network that there is already",
			"add --subnet "+subnets[0].String())
	}
	p, err := netip.ParsePrefix(r.Pool)
	if err != nil || !slices.Contains(subnets, p) {
		return nil, refuse("--subnet", r.Pool, "not the subnet of network "+n.Name, "give "+subnets[0].String())
	}
	if r.SubPool != "" {
		return nil, refuse("--ip-range", r.SubPool, "the network has its range already", "leave it out")
	}
	family := "4"
	if r.V6 {
		family = "6"
	}
	return map[string]any{"PoolID": n.ID + "/" + family, "Pool": p.String(), "Data": map[string]string{}}, nil
}

// requestAddress reserves an address. The gateway's is the network's own.
func (s *Server) requestAddress(ctx context.Context, r addressRequest) (any, error) {
	id, ipv6, err := poolOf(r.PoolID)
	if err != nil {
		return nil, err
	}
	n, err := s.back.Controller.Network(ctx, id)
	if err != nil {
		return nil, err
	}
	var want netip.Addr
	if r.Address != "" {
		if want, err = parseAddr(r.Address); err != nil {
			return nil, err
		}
	}
	if r.Options["RequestAddressType"] == "com.docker.network.gateway" {
		return gateway(n, ipv6, want)
	}
	// One that it names it may ask for again: it is reserved once, and becomes the endpoint's that is made first.
	key := reservationOf(want)
	if !want.IsValid() {
		key = keys + "any/" + rand.Text()
	}
	got, err := s.back.Controller.Reserve(ctx, cnm.ReservationRequest{Network: n.ID, Key: key, IPv6: ipv6, Want: want})
	if err == nil {
		return address(got.Addr), nil
	}
	if errors.Is(err, cnm.ErrExists) {
		// After a start dockerd asks for what its endpoints have.
		if p, held, e := s.held(ctx, n.ID, want); e == nil && held {
			return address(p), nil
		}
	}
	return nil, err
}

// addressAnswer is an address with the length of its subnet.
type addressAnswer struct {
	Address string
	Data    map[string]string
}

func address(p netip.Prefix) any {
	return addressAnswer{Address: p.String(), Data: map[string]string{}}
}

// giveBack takes back an address that nobody has waited for.
func (s *Server) giveBack(ctx context.Context, r addressRequest, answer any) error {
	if a, ok := answer.(addressAnswer); ok {
		r.Address = a.Address
	}
	_, err := s.releaseAddress(ctx, r)
	return err
}

// gateway answers for the gateway. Docker wants one of each network: the subnet's own address, which nobody has, stands
// for none.
func gateway(n cnm.Network, ipv6 bool, want netip.Addr) (any, error) {
	for _, p := range n.Pools {
		if p.Subnet.Addr().Is6() != ipv6 {
			continue
		}
		gw := p.Gateway
		if !gw.IsValid() {
			gw = p.Subnet.Addr()
		}
		if want.IsValid() && want != gw {
			return nil, refuse("--gateway", want.String(), "not the gateway of network "+n.Name,
				"give "+gw.String()+", or leave it out")
		}
		return address(netip.PrefixFrom(gw, p.Subnet.Bits())), nil
	}
	return nil, refuse("net", n.Name, "the network has no subnet of that family on this node", "make it again")
}

// held finds the endpoint of Docker that has an address.
func (s *Server) held(ctx context.Context, network string, a netip.Addr) (netip.Prefix, bool, error) {
	ends, err := s.back.Controller.EndpointsOn(ctx, network)
	for _, e := range ends {
		i := slices.IndexFunc(e.Addrs, func(p netip.Prefix) bool { return p.Addr() == a })
		if i >= 0 && e.Handed && e.Phase == cnm.Active {
			return e.Addrs[i], true, nil
		}
	}
	return netip.Prefix{}, false, err
}

// reserved finds the key that an address was reserved by, "" for none.
func (s *Server) reserved(ctx context.Context, network string, a netip.Addr) (string, error) {
	list, err := s.back.Controller.Reservations(ctx, network)
	for _, r := range list {
		if r.Addr.Addr() == a && strings.HasPrefix(r.Key, keys) {
			return r.Key, nil
		}
	}
	return "", err
}

// aux are the addresses of a network that Docker has reserved for its user.
func (b Backend) aux(ctx context.Context, network string) (map[netip.Addr]bool, error) {
	all, err := b.known(ctx)
	out := map[netip.Addr]bool{}
	for _, k := range all {
		for _, a := range k.Aux {
			out[a] = out[a] || k.Network == network
		}
	}
	return out, err
}

// releaseAddress gives a reserved address back. What an endpoint has goes with the endpoint.
func (s *Server) releaseAddress(ctx context.Context, r addressRequest) (any, error) {
	id, ipv6, err := poolOf(r.PoolID)
	if err != nil {
		return nil, err
	}
	a, err := parseAddr(r.Address)
	if err != nil {
		return nil, err
	}
	// A user's reservations go with the network: dockerd gives an address back, too, that an endpoint did not get.
	if kept, err := s.back.aux(ctx, id); err != nil || kept[a] {
		return struct{}{}, err
	}
	key, err := s.reserved(ctx, id, a)
	if errors.Is(err, cnm.ErrNotFound) || err == nil && key == "" {
		return struct{}{}, nil
	}
	if err != nil {
		return nil, err
	}
	return struct{}{}, s.back.Controller.Unreserve(ctx, id, key, ipv6)
}

// parseAddr reads an address, with the length of its subnet or without.
func parseAddr(text string) (netip.Addr, error) {
	if p, err := netip.ParsePrefix(text); err == nil {
		return p.Addr().Unmap(), nil
	}
	a, err := netip.ParseAddr(text)
	if err != nil || a.Zone() != "" {
		return a, refuse("Address", text, "no address", "give one such as 10.7.0.5")
	}
	return a.Unmap(), nil
}

// nameOf is what a network that was made for Docker is called.
func nameOf(id string) string { return fmt.Sprintf("docker-%.12s", id) }

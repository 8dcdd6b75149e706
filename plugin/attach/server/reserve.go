package server

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/plan"
	"github.com/vethloom/vethloom/plugin/attach"
)

// An address alone is a reservation of the Controller, one for each family. Its key is the engine, the container, the
// interface and what the engine calls the network, with slashes between.

// checkKey refuses names that a key could not be read back from.
func checkKey(r attach.Request) error {
	for field, name := range map[string]string{"container": r.Container, "interface": r.Interface,
		"network's name": r.Origin} {
		if strings.Contains(name, "/") {
			return invalid("%s %q: names have no slash; choose another one", field, name)
		}
	}
	return nil
}

// prefixOf is what the keys of the reservations of an interface begin with.
func prefixOf(k attach.Key) string { return k.Engine + "/" + k.Container + "/" + k.Interface + "/" }

// holderOf reads a key.
func holderOf(key string) (k attach.Key, origin string) {
	if parts := strings.Split(key, "/"); len(parts) == 4 {
		return attach.Key{Engine: parts[0], Container: parts[1], Interface: parts[2]}, parts[3]
	}
	return attach.Key{}, ""
}

// reserve keeps an address of each of a network's families for an interface that another plugin makes.
func (s *Server) reserve(ctx context.Context, r attach.Request) (*attach.Result, error) {
	_, unlock, err := s.lock(ctx, r.Key)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := s.finishLater(ctx, r.Key); err != nil {
		return nil, err
	}
	cookie, err := s.Kernel.Identify(r.NetNS)
	if err != nil {
		return nil, err
	}
	n, err := s.network(ctx, r)
	if err != nil {
		return nil, err
	}
	want, err := wanted(n, r.Addresses)
	if err != nil {
		return nil, err
	}
	var list []cnm.Reservation
	for _, ipv6 := range families(n) {
		one, err := s.Controller.Reserve(ctx, cnm.ReservationRequest{Network: n.ID, Key: prefixOf(r.Key) + r.Origin,
			IPv6: ipv6, Want: want[ipv6], NetNS: &cnm.Adopted{Path: r.NetNS, Cookie: cookie}})
		if err != nil {
			return nil, errors.Join(err, s.release(ctx, r.Key)) // who gets an error has nothing
		}
		list = append(list, one)
	}
	return resultOf(n, r.Interface, list), nil
}

// families are a network's, by whether they are IPv6.
func families(n cnm.Network) []bool {
	if !n.IPv4 || !n.IPv6 {
		return []bool{n.IPv6}
	}
	return []bool{false, true}
}

// wanted are the addresses that were asked for, by whether they are of IPv6.
func wanted(n cnm.Network, addrs []netip.Addr) (map[bool]netip.Addr, error) {
	out := map[bool]netip.Addr{}
	for _, a := range addrs {
		ipv6 := a.Unmap().Is6()
		if !slices.Contains(families(n), ipv6) {
			return nil, invalid("address %s: network %s has no addresses of that family; leave it out", a, n.Name)
		}
		if out[ipv6].IsValid() {
			return nil, invalid("addresses %s and %s: an interface has one address of a family; leave one out",
				out[ipv6], a)
		}
		out[ipv6] = a
	}
	return out, nil
}

// resultOf is what the plugin that makes the link is told: addresses, and the way out.
func resultOf(n cnm.Network, link string, list []cnm.Reservation) *attach.Result {
	r := &attach.Result{Interface: link}
	for _, one := range list {
		a := attach.Address{Prefix: one.Addr}
		for _, p := range n.Pools {
			if p.Subnet.Contains(one.Addr.Addr()) {
				a.Gateway = p.Gateway
			}
		}
		r.Addresses = append(r.Addresses, a)
		if a.Gateway.IsValid() && !n.Internal {
			all := netip.PrefixFrom(a.Gateway, 0).Masked()
			r.Routes = append(r.Routes, attach.Route{Dst: all, Via: a.Gateway})
		}
	}
	return r
}

// reserved looks whether an interface still has the addresses that its engine was told; nil where none are reserved.
func (s *Server) reserved(ctx context.Context, r attach.Request) (*attach.Result, error) {
	list, err := s.Controller.ReservationsOf(ctx, prefixOf(r.Key))
	list = slices.DeleteFunc(list, func(one cnm.Reservation) bool { return one.Key != prefixOf(r.Key)+r.Origin })
	if err != nil || len(list) == 0 {
		return nil, err
	}
	for _, one := range list {
		if one.NetNS != nil && r.NetNS != "" && one.NetNS.Path != r.NetNS {
			return nil, noNetNS(r.NetNS, "is not the one that the address was reserved for; attach the container again")
		}
	}
	for _, p := range r.Had {
		if !slices.ContainsFunc(list, func(one cnm.Reservation) bool { return one.Addr == p }) {
			return nil, &attach.Error{Kind: attach.NotFound, Message: fmt.Sprintf("address %s is not reserved for "+
				"interface %s any more: attach the container again", p, r.Interface)}
		}
	}
	n, err := s.Controller.Network(ctx, list[0].Network)
	if err != nil {
		return nil, err
	}
	return resultOf(n, r.Interface, list), nil
}

// release gives back what is reserved for an interface. The caller holds the container's lock.
func (s *Server) release(ctx context.Context, k attach.Key) error {
	list, err := s.Controller.ReservationsOf(ctx, prefixOf(k))
	failed := []error{err}
	for _, one := range list {
		failed = append(failed, s.Controller.Unreserve(ctx, one.Network, one.Key, one.Addr.Addr().Is6()))
	}
	return errors.Join(failed...)
}

// unused are the interfaces for which addresses of the request's network are reserved, but for the valid ones.
func (s *Server) unused(ctx context.Context, r attach.Request, valid map[attach.Key]bool) (map[attach.Key]bool, error) {
	list, err := s.Controller.ReservationsOf(ctx, r.Engine+"/")
	out := map[attach.Key]bool{}
	for _, one := range list {
		if k, origin := holderOf(one.Key); origin == r.Origin && !valid[k] {
			out[k] = true
		}
	}
	return out, err
}

// abandoned gives back what is reserved for containers whose namespaces their engines have removed.
func (s *Server) abandoned(ctx context.Context) error {
	list, err := s.Controller.ReservationsOf(ctx, "")
	failed := []error{err}
	for _, one := range list {
		if one.NetNS != nil && s.gone(*one.NetNS) {
			k, _ := holderOf(one.Key)
			failed = append(failed, s.abandon(ctx, k))
		}
	}
	return errors.Join(failed...)
}

// gone reports whether a path leads to the namespace no more. Where that cannot be told it does.
func (s *Server) gone(ns cnm.Adopted) bool {
	cookie, err := s.Kernel.Identify(ns.Path)
	if _, none := errors.AsType[*plan.NoNamespaceError](err); none {
		return true
	}
	return err == nil && cookie != ns.Cookie
}

func (s *Server) abandon(ctx context.Context, k attach.Key) error {
	_, unlock, err := s.lock(ctx, k)
	if err != nil {
		return err
	}
	defer unlock()
	list, err := s.Controller.ReservationsOf(ctx, prefixOf(k))
	for _, one := range list { // as they are now
		if one.NetNS != nil && !s.gone(*one.NetNS) {
			return nil
		}
	}
	if err != nil || len(list) == 0 {
		return err
	}
	if err := s.release(ctx, k); err != nil {
		return err
	}
	s.Log.InfoContext(ctx, "the network namespace of a container is gone; gave back the addresses reserved for it",
		"engine", k.Engine, "container", k.Container, "interface", k.Interface)
	return nil
}

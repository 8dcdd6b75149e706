package controller

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vethloom/vethloom/cnm"
)

// reservations keep addresses for engines that ask for them before there is an endpoint.
type reservations struct {
	*records
	addrs *addresses
}

// Reserve keeps an address of one family of a network for the key. A key that has one already gets the same, and
// counts for the namespace that was named last.
func (k *reservations) Reserve(ctx context.Context, q cnm.ReservationRequest) (cnm.Reservation, error) {
	if q.Key == "" || len(q.Key) > cnm.MaxKey {
		return cnm.Reservation{}, &cnm.Error{Kind: cnm.ErrInvalid, Field: "key", Value: q.Key,
			Reason: "not one that a reservation can have",
			Remedy: fmt.Sprintf("choose one of 1 to %d bytes", cnm.MaxKey)}
	}
	n, err := k.Network(ctx, q.Network)
	if err == nil {
		err = k.reservable(n)
	}
	if err != nil {
		return cnm.Reservation{}, err
	}
	var wants []netip.Addr
	if q.Want.IsValid() {
		wants = append(wants, q.Want.Unmap())
	}
	who := cnm.ReservationOwner(q.Key, q.IPv6)
	n, claim, err := k.addrs.get(ctx, n, wants, func(n cnm.Network) (*cnm.Claim, error) {
		return k.ipam.Claim(ctx, n, who, wants, nil)
	})
	if err != nil {
		return cnm.Reservation{}, err
	}
	if len(claim.Addrs) != 1 {
		claim.Done(false)
		return cnm.Reservation{}, &cnm.Error{Kind: cnm.ErrInvalid, Field: "network", Value: n.Name,
			Reason: "it has no addresses of that family", Remedy: "ask for one of the other family"}
	}
	r := cnm.Reservation{Network: n.ID, Key: q.Key, Addr: claim.Addrs[0], NetNS: q.NetNS, Since: k.now()}
	if len(claim.Writes) > 0 {
		err = k.keep(ctx, r, claim)
	} else if q.NetNS != nil { // it has the address; its namespace may be another one
		err = k.renew(ctx, r, q.IPv6)
	}
	claim.Done(err == nil)
	return r, err
}

// keep commits a reservation, of a network that is still there. While the address is looked for the network is not
// locked: its node may have to get more of its addresses, which changes it.
func (k *reservations) keep(ctx context.Context, r cnm.Reservation, claim *cnm.Claim) error {
	n, unlock, err := k.lock(ctx, r.Network)
	if err != nil {
		return err
	}
	defer unlock()
	if err := k.reservable(n); err != nil {
		return err
	}
	return k.commit(ctx, func() ([]cnm.Write, error) {
		w, err := cnm.Put(cnm.KindReservation, cnm.ReservationID(n.ID, r.Key, r.Addr.Addr().Is6()), r, 0)
		return append(slices.Clone(claim.Writes), w), err
	})
}

// renew writes down the namespace that a reservation is for now.
func (k *reservations) renew(ctx context.Context, r cnm.Reservation, ipv6 bool) error {
	return k.commit(ctx, func() ([]cnm.Write, error) {
		id := cnm.ReservationID(r.Network, r.Key, ipv6)
		rec, err := k.store.Get(ctx, cnm.Key{Kind: cnm.KindReservation, ID: id})
		if err != nil {
			return nil, err
		}
		old, err := cnm.ReservationOf(rec)
		if err != nil || old.NetNS != nil && *old.NetNS == *r.NetNS {
			return nil, err
		}
		old.NetNS = r.NetNS
		w, err := cnm.Put(cnm.KindReservation, id, old, rec.Revision)
		return []cnm.Write{w}, err
	})
}

// lock finds a network, and keeps it from being removed.
func (k *reservations) lock(ctx context.Context, ref string) (n cnm.Network, unlock func(), err error) {
	if n, err = k.Network(ctx, ref); err != nil {
		return n, nil, err
	}
	if unlock, err = k.locks.Lock(ctx, "network/"+n.ID); err != nil {
		return n, nil, err
	}
	if n, err = k.Network(ctx, n.ID); err != nil {
		unlock()
	}
	return n, unlock, err
}

// reservable refuses networks whose addresses are not ours to give.
func (k *reservations) reservable(n cnm.Network) error {
	d, err := k.driver(n)
	if err != nil {
		return err
	}
	reason := ""
	switch {
	case n.Phase == cnm.Deleting || n.Gone():
		return &cnm.Error{Kind: cnm.ErrInUse, Field: "network", Value: n.Name, Reason: "being removed",
			Remedy: "choose another network"}
	case n.Left():
		return cnm.LeftError(n.Name)
	case n.ConfigOnly || !d.Capabilities().Addresses:
		reason = "it has no addresses"
	case n.IPAM != nil:
		reason = fmt.Sprintf("%s gives its addresses, to endpoints alone", n.IPAM.Driver)
	}
	if reason == "" {
		return nil
	}
	return &cnm.Error{Kind: cnm.ErrInvalid, Field: "network", Value: n.Name, Reason: reason,
		Remedy: "choose another network"}
}

// Unreserve gives back what a key has; nothing at all is no error. What an endpoint has taken over is that endpoint's.
func (k *reservations) Unreserve(ctx context.Context, network, key string, ipv6 bool) error {
	n, unlock, err := k.lock(ctx, network)
	if errors.Is(err, cnm.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unlock()
	var claim *cnm.Claim
	err = k.commit(ctx, func() ([]cnm.Write, error) {
		if claim != nil {
			claim.Done(false)
			claim = nil
		}
		w, err := k.ended(ctx, n.ID, key, ipv6)
		if err != nil || len(w) == 0 {
			return nil, err
		}
		if claim, err = k.ipam.Release(ctx, n.ID, cnm.ReservationOwner(key, ipv6)); err != nil {
			return nil, err
		}
		return append(w, claim.Writes...), nil
	})
	if claim != nil {
		claim.Done(err == nil)
	}
	return err
}

// ended is the write that ends a reservation: none when there is none.
func (k *records) ended(ctx context.Context, network, key string, ipv6 bool) ([]cnm.Write, error) {
	rec, err := k.store.Get(ctx, cnm.Key{Kind: cnm.KindReservation, ID: cnm.ReservationID(network, key, ipv6)})
	if errors.Is(err, cnm.ErrNotFound) {
		return nil, nil
	}
	return []cnm.Write{{Key: rec.Key, Revision: rec.Revision}}, err
}

// Reservations lists those on a network.
func (k *reservations) Reservations(ctx context.Context, network string) ([]cnm.Reservation, error) {
	n, err := k.Network(ctx, network)
	if err != nil {
		return nil, err
	}
	return cnm.FindReservations(ctx, k.store, n.ID)
}

// ReservationsOf lists those of all networks whose keys begin with what is given.
func (k *reservations) ReservationsOf(ctx context.Context, key string) ([]cnm.Reservation, error) {
	return cnm.ReservationsOf(ctx, k.store, key)
}

// unreserved refuses a network on which addresses are reserved.
func (k *records) unreserved(ctx context.Context, n cnm.Network) error {
	list, err := cnm.FindReservations(ctx, k.store, n.ID)
	if err != nil || len(list) == 0 {
		return err
	}
	return &cnm.Error{Kind: cnm.ErrInUse, Field: "network", Value: n.Name,
		Reason: fmt.Sprintf("%s reserved by %s on it", list[0].Addr.Addr(), list[0].Key),
		Remedy: "have the engine that asked for it give it back"}
}

// takeOver gives an endpoint what was reserved, and free addresses of the families of which nothing was. The
// reservations end with the commit that the claim is a part of.
func (k *addresses) takeOver(ctx context.Context, j *joining) error {
	var parts []*cnm.Claim
	whole := &cnm.Claim{Finish: func(committed bool) {
		for _, c := range parts {
			c.Done(committed)
		}
	}}
	ends, err := k.reservedBy(ctx, j.network.ID, j.request.Reserved)
	for _, ipv6 := range []bool{false, true} {
		if err != nil || ipv6 && !j.network.IPv6 || !ipv6 && !j.network.IPv4 {
			continue
		}
		who := cnm.ReservationOwner("endpoint "+j.e.ID, ipv6)
		if end, ok := ends[ipv6]; ok {
			who = cnm.ReservationOwner(end.key, ipv6)
			whole.Writes = append(whole.Writes, end.write)
		}
		want := slices.DeleteFunc(slices.Clone(j.request.Addrs), func(a netip.Addr) bool { return a.Is6() != ipv6 })
		var c *cnm.Claim
		j.network, c, err = k.get(ctx, j.network, want, func(n cnm.Network) (*cnm.Claim, error) {
			return k.ipam.Claim(ctx, n, who, want, nil)
		})
		if err == nil {
			parts = append(parts, c)
			whole.Addrs, whole.Writes = append(whole.Addrs, c.Addrs...), append(whole.Writes, c.Writes...)
			j.e.Holds = append(j.e.Holds, who)
		}
	}
	if err != nil {
		whole.Done(false)
		return err
	}
	j.claim = whole
	return nil
}

// reservationEnd is the write that ends a reservation.
type reservationEnd struct {
	key   string
	write cnm.Write
}

// reservedBy finds the reservations of keys, by whether they are of IPv6.
func (k *addresses) reservedBy(ctx context.Context, network string, keys []string) (map[bool]reservationEnd, error) {
	out := map[bool]reservationEnd{}
	for _, key := range keys {
		found := false
		for _, ipv6 := range []bool{false, true} {
			w, err := k.ended(ctx, network, key, ipv6)
			if err != nil {
				return nil, err
			}
			if len(w) > 0 {
				out[ipv6], found = reservationEnd{key, w[0]}, true
			}
		}
		if !found {
			return nil, notFound("reservation", key, nil)
		}
	}
	return out, nil
}

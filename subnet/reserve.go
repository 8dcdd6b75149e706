package subnet

import (
	"context"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Reserve keeps subnets for the host with a's public address, for good: the key has no etcd lease. The lease that
// this host has of them already becomes a reservation. A [TakenError] when they are another's; ErrNoConfig,
// ErrBadConfig.
func (d *Directory) Reserve(ctx context.Context, want Subnets, a Attrs) error {
	if !a.PublicIP.IsValid() && !a.PublicIPv6.IsValid() {
		return fmt.Errorf("reserve %s in %s: no public address given to reserve it for", want, d.dir)
	}
	for {
		s, err := d.read(ctx)
		if err != nil {
			return err
		}
		if reason := s.config.check(want); reason != "" {
			return fmt.Errorf("reserve %s in %s: %s", want, d.dir, reason)
		}
		ok, err := d.reserve(ctx, s, want, a)
		if ok || err != nil {
			return err
		}
	}
}

func (d *Directory) reserve(ctx context.Context, s *snapshot, want Subnets, a Attrs) (bool, error) {
	for _, t := range s.taken {
		if !t.Overlaps(want) {
			continue
		}
		l := s.holder(t)
		sameHost := l.PublicIP == a.PublicIP && l.PublicIPv6 == a.PublicIPv6
		switch {
		case l.Key != want.Key() || l.Mod == 0:
			return false, &TakenError{want, l}
		case sameHost && l.Reservation() && a.NodeID == l.NodeID:
			return true, nil
		case sameHost && !l.Reservation():
			a = l.Attrs
		case !l.Reservation() || l.NodeID != "":
			return false, &TakenError{want, l}
		}
		return d.rewrite(ctx, l, a)
	}
	_, ok, err := d.create(ctx, s, choice{want, false}, a, nil, 0)
	return ok, err
}

func (d *Directory) rewrite(ctx context.Context, l Lease, a Attrs) (bool, error) {
	op, err := d.put(l.Key, a, 0)
	if err != nil {
		return false, err
	}
	r, err := d.client.Txn(ctx).If(d.unchanged(l)).Then(op).Commit()
	if err != nil {
		return false, fmt.Errorf("reserve %s in %s: %w", l.Subnets(), d.dir, err)
	}
	return r.Succeeded, nil
}

// Unreserve ends a reservation: the node that uses the subnets has them as a lease from its next Assert
// on, when nobody was quicker. ErrNotFound when they are not reserved.
func (d *Directory) Unreserve(ctx context.Context, s Subnets) error {
	for {
		l, err := d.lease(ctx, s.Key())
		if err != nil {
			return err
		}
		if l == nil || !l.Reservation() {
			return fmt.Errorf("%s in %s: %w", s, d.dir, ErrNotFound)
		}
		r, err := d.client.Txn(ctx).If(d.unchanged(*l)).Then(clientv3.OpDelete(d.subnetKey(l.Key))).Commit()
		if err != nil {
			return fmt.Errorf("end the reservation of %s in %s: %w", s, d.dir, err)
		}
		if r.Succeeded {
			return nil
		}
	}
}

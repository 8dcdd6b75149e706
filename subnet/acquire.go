package subnet

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Acquire gets the node that want describes a subnet. It is the node's own one when it has one: a lease with its
// NodeID, or one without any that has its public address: of a flanneld that ran on the host before, or a
// reservation, which stays one. Else it is prior, the one it had, when that is free, else a free one at random.
// The key hangs on etcdLease.
//
// A lease of the node's that the network no longer leases, or that overlaps an older one, is given up for another.
// ErrExhausted, ErrNoConfig, ErrBadConfig.
func (d *Directory) Acquire(ctx context.Context, want Attrs, prior Subnets, etcdLease int64) (Lease, error) {
	for {
		s, err := d.read(ctx)
		if err != nil {
			return Lease{}, err
		}
		own, drop := s.own(want)
		if own == nil {
			if l, ok, err := d.acquireNew(ctx, s, want, prior, drop, etcdLease); ok || err != nil {
				return l, err
			}
		} else if l, ok, err := d.write(ctx, *own, want, etcdLease, drop...); ok || err != nil {
			return l, err
		}
		// Somebody wrote what we were about to; look again. Each such race lets another get ahead, so it ends.
	}
}

// own finds the node's lease, and those of its leases that are of no use.
func (s *snapshot) own(a Attrs) (own *Lease, drop []Lease) {
	var mine []Lease
	for _, l := range s.leases {
		if l.heldBy(a) {
			mine = append(mine, l)
		}
	}
	slices.SortStableFunc(mine, func(x, y Lease) int {
		return cmp.Or(before(x.NodeID == a.NodeID, y.NodeID == a.NodeID), before(x.Reservation(), y.Reservation()),
			cmp.Compare(x.Create, y.Create))
	})
	for _, l := range mine {
		usable := s.config.fits(l.Subnets()) || l.Reservation() && s.config.check(l.Subnets()) == ""
		if own == nil && usable && s.olderOverlap(l, a) == nil {
			own = &l
		} else if !l.Reservation() {
			drop = append(drop, l)
		}
	}
	return own, drop
}

func before(x, y bool) int {
	switch {
	case x == y:
		return 0
	case x:
		return -1
	}
	return 1
}

// olderOverlap is another's lease that is in the way of one and was there first.
func (s *snapshot) olderOverlap(l Lease, a Attrs) *Lease {
	for _, o := range s.leases {
		if o.Key != l.Key && o.olderThan(l) && !o.heldBy(a) && o.Subnets().Overlaps(l.Subnets()) &&
			s.config.check(o.Subnets()) == "" {
			return &o
		}
	}
	return nil
}

// olderThan orders leases the same way on every node.
func (l Lease) olderThan(o Lease) bool {
	return cmp.Or(cmp.Compare(l.Create, o.Create), cmp.Compare(l.Key, o.Key)) < 0
}

func (d *Directory) acquireNew(ctx context.Context, s *snapshot, want Attrs, prior Subnets, drop []Lease,
	etcdLease int64) (Lease, bool, error) {
	used := slices.DeleteFunc(slices.Clone(s.taken), func(t taken) bool {
		return slices.ContainsFunc(drop, func(l Lease) bool { return l.Key == t.key })
	})
	if !prior.IsValid() && len(drop) > 0 {
		prior = drop[0].Subnets()
	}
	c, ok := s.config.pick(prior, used)
	if !ok {
		return Lease{}, false, fmt.Errorf("acquire a subnet of %s in %s: %w: %d are leased or reserved; remove "+
			"reservations nobody uses, or make a network with more of them",
			Subnets{s.config.Network, s.config.IPv6Network}, d.dir, ErrExhausted, len(s.taken))
	}
	return d.create(ctx, s, c, want, drop, etcdLease)
}

// create makes a lease of free subnets, unless somebody was quicker.
func (d *Directory) create(ctx context.Context, s *snapshot, c choice, a Attrs, drop []Lease, etcdLease int64) (Lease,
	bool, error) {
	l := Lease{Subnet: c.V4, Subnet6: c.V6, Attrs: a, Key: c.Key(), EtcdLease: etcdLease}
	op, err := d.put(l.Key, a, etcdLease)
	if err != nil {
		return Lease{}, false, err
	}
	conds, ops := slices.Clone(s.guards), []clientv3.Op{op}
	for _, old := range drop {
		conds = append(conds, d.unchanged(old))
		if old.Key != l.Key {
			ops = append(ops, clientv3.OpDelete(d.subnetKey(old.Key)))
		}
	}
	if c.paired && len(drop) == 0 {
		conds = append(conds, d.free(c.Subnets)...)
	} else {
		// The key alone does not decide: nothing at all may have been created since.
		conds = append(conds, clientv3.Compare(clientv3.CreateRevision(d.subnetsPrefix()), "<",
			s.revision+1).WithPrefix())
		ops = append(ops, clientv3.OpPut(d.unpairedKey(), l.Key))
	}
	r, err := d.client.Txn(ctx).If(conds...).Then(ops...).Commit()
	if err != nil {
		return Lease{}, false, fmt.Errorf("acquire %s in %s: %w", c.Subnets, d.dir, err)
	}
	l.Create, l.Mod = r.Header.Revision, r.Header.Revision
	return l, r.Succeeded, nil
}

// write renews a lease that is ours, unless somebody wrote it meanwhile. A reservation stays one, and what
// does not change is not written.
func (d *Directory) write(ctx context.Context, l Lease, a Attrs, etcdLease int64, drop ...Lease) (Lease, bool, error) {
	if l.Reservation() {
		etcdLease = 0
	}
	same, err := l.Attrs.equal(a)
	if err != nil {
		return Lease{}, false, err
	}
	if same && l.EtcdLease == etcdLease && len(drop) == 0 {
		return l, true, nil
	}
	op, err := d.put(l.Key, a, etcdLease)
	if err != nil {
		return Lease{}, false, err
	}
	conds, ops := []clientv3.Cmp{d.unchanged(l)}, []clientv3.Op{op}
	for _, old := range drop {
		conds = append(conds, d.unchanged(old))
		ops = append(ops, clientv3.OpDelete(d.subnetKey(old.Key)))
	}
	r, err := d.client.Txn(ctx).If(conds...).Then(ops...).Commit()
	if err != nil {
		return Lease{}, false, fmt.Errorf("renew the lease %s in %s: %w", l.Key, d.dir, err)
	}
	l.Attrs, l.EtcdLease, l.Mod = a, etcdLease, r.Header.Revision
	return l, r.Succeeded, nil
}

// equal compares what both would write.
func (a Attrs) equal(b Attrs) (bool, error) {
	x, err := json.Marshal(a)
	if err != nil {
		return false, fmt.Errorf("compare leases: %w", err)
	}
	y, err := json.Marshal(b)
	if err != nil {
		return false, fmt.Errorf("compare leases: %w", err)
	}
	return bytes.Equal(x, y), nil
}

// Assert makes sure that the node still has its lease, with these attributes and on this etcd
// lease, which may be new ones. A key that is gone, with its etcd lease or all of etcd, is created
// again when its subnets are free. When somebody else has them, had them before us, or the network has them no
// more, the error is a [LostError]: the node must stop using them and Acquire others. ErrNoConfig when the
// directory is gone; with a config that is malformed what is there is renewed.
func (d *Directory) Assert(ctx context.Context, l Lease, a Attrs, etcdLease int64) (Lease, error) {
	for {
		s, err := d.readAny(ctx)
		if err != nil {
			return Lease{}, err
		}
		if errors.Is(s.bad, ErrNoConfig) {
			return Lease{}, s.bad
		}
		now, ok, err := d.assert(ctx, s, l, a, etcdLease)
		if ok || err != nil {
			return now, err
		}
	}
}

func (d *Directory) assert(ctx context.Context, s *snapshot, l Lease, a Attrs, etcdLease int64) (Lease, bool, error) {
	if !slices.ContainsFunc(s.taken, func(t taken) bool { return t.key == l.Key }) {
		return d.recreate(ctx, s, l, a, etcdLease)
	}
	now := s.holder(taken{l.Subnets(), l.Key})
	if !now.heldBy(a) {
		return Lease{}, false, &LostError{Key: l.Key, Holder: now}
	}
	if s.bad == nil {
		if reason := s.config.check(now.Subnets()); reason != "" {
			return Lease{}, false, &LostError{Key: l.Key, Reason: reason}
		}
		if older := s.olderOverlap(now, a); older != nil {
			return Lease{}, false, &LostError{Key: l.Key, Holder: *older}
		}
	}
	return d.write(ctx, now, a, etcdLease)
}

// lease reads one lease; nil when there is none. One that cannot be read is nobody's, so it is returned without a
// holder.
func (d *Directory) lease(ctx context.Context, key string) (*Lease, error) {
	r, err := d.client.Get(ctx, d.subnetKey(key))
	if err != nil {
		return nil, fmt.Errorf("read the lease %s in %s: %w", key, d.dir, err)
	}
	if len(r.Kvs) == 0 {
		return nil, nil
	}
	kv := r.Kvs[0]
	l, err := ParseLease(key, kv.Value)
	if err != nil {
		l = Lease{Key: key}
	}
	l.Create, l.Mod, l.EtcdLease = kv.CreateRevision, kv.ModRevision, kv.Lease
	return &l, nil
}

func (d *Directory) recreate(ctx context.Context, s *snapshot, l Lease, a Attrs, etcdLease int64) (Lease, bool, error) {
	if s.bad != nil {
		return Lease{}, false, s.bad
	}
	want := l.Subnets()
	for _, t := range s.taken {
		if t.Overlaps(want) {
			return Lease{}, false, &LostError{Key: l.Key, Holder: s.holder(t)}
		}
	}
	if !s.config.fits(want) {
		return Lease{}, false, &LostError{Key: l.Key,
			Reason: "it is gone, and the network leases such subnets no more"}
	}
	return d.create(ctx, s, choice{want, s.config.paired(want)}, a, nil, etcdLease)
}

// holder is the lease of a key, with nothing but its subnets when it cannot be read.
func (s *snapshot) holder(t taken) Lease {
	for _, l := range s.leases {
		if l.Key == t.key {
			return l
		}
	}
	return Lease{Subnet: t.V4, Subnet6: t.V6, Key: t.key}
}

// Release gives the lease back. A reservation stays, for the node with its public address. It is no error
// when the lease is another's or gone.
func (d *Directory) Release(ctx context.Context, l Lease) error {
	for {
		now, err := d.lease(ctx, l.Key)
		if err != nil {
			return err
		}
		if now == nil || !now.heldBy(l.Attrs) {
			return nil
		}
		op := clientv3.OpDelete(d.subnetKey(l.Key))
		if now.Reservation() {
			a := now.Attrs
			a.NodeID, a.BackendData, a.BackendV6Data = "", nil, nil
			if op, err = d.put(l.Key, a, 0); err != nil {
				return err
			}
		}
		r, err := d.client.Txn(ctx).If(d.unchanged(*now)).Then(op).Commit()
		if err != nil {
			return fmt.Errorf("release the lease %s in %s: %w", l.Key, d.dir, err)
		}
		if r.Succeeded {
			return nil
		}
	}
}

package etcd

import (
	"context"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// follow hands on what happens after the list, until the watch or the context ends.
func (w *follower) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	opts := []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithRev(w.revision + 1), clientv3.WithCreatedNotify()}
	responses := w.client.Watch(ctx, w.prefix, opts...)
	probe := time.NewTicker(probeEvery)
	defer probe.Stop()
	for {
		var p pending
		select {
		case r, ok := <-responses:
			if err := w.take(&p, r, ok); err != nil {
				return err
			}
			if len(p.order) == 0 {
				continue
			}
		case <-probe.C:
			if err := w.probe(ctx); err != nil {
				return err
			}
			continue
		case <-ctx.Done():
			return ctx.Err()
		}
		broken := w.gather(ctx, &p, responses)
		if u := p.update(w); len(u.Changes) > 0 {
			if err := w.deliver(u); err != nil {
				return err
			}
		}
		if broken != nil {
			return broken
		}
	}
}

// gather adds the events that follow closely.
func (w *follower) gather(ctx context.Context, p *pending, responses clientv3.WatchChan) error {
	end := time.NewTimer(longest)
	defer end.Stop()
	pause := time.NewTimer(quiet)
	defer pause.Stop()
	for {
		select {
		case r, ok := <-responses:
			if err := w.take(p, r, ok); err != nil {
				return err
			}
			pause.Reset(quiet)
		case <-pause.C:
			return nil
		case <-end.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// take applies a response to the replica.
func (w *follower) take(p *pending, r clientv3.WatchResponse, ok bool) error {
	if err := r.Err(); err != nil {
		return err
	}
	if !ok {
		return errWatchEnded
	}
	if r.Header.ClusterId != 0 && r.Header.ClusterId != w.cluster || r.Created && r.Header.Revision < w.revision {
		return errOther
	}
	for _, e := range r.Events {
		key := string(e.Kv.Key)
		old := w.replica[key]
		var now *Item
		if e.Type == mvccpb.PUT {
			now = w.item(e.Kv)
			w.replica[key] = now
		} else {
			delete(w.replica, key)
		}
		p.add(key, Change{Old: old, New: now, Revision: e.Kv.ModRevision})
		w.revision = max(w.revision, e.Kv.ModRevision)
	}
	return nil
}

// probe notices an etcd that was exchanged though the connection looks the same.
func (w *follower) probe(ctx context.Context) error {
	r, err := w.get(ctx, w.anyKey(), clientv3.WithCountOnly())
	if err != nil {
		return err
	}
	if r.Header.ClusterId != w.cluster || r.Header.Revision < w.revision {
		return errOther
	}
	return nil
}

// pending is an update in the making.
type pending struct {
	order   []string
	changes map[string]Change
}

func (p *pending) add(key string, next Change) {
	if p.changes == nil {
		p.changes = map[string]Change{}
	}
	if c, again := p.changes[key]; again {
		next.Old = c.Old
	} else {
		p.order = append(p.order, key)
	}
	p.changes[key] = next
}

// update leaves out keys that came and went within it.
func (p *pending) update(w *follower) Update {
	u := Update{Revision: w.revision, Cluster: w.cluster}
	for _, key := range p.order {
		if c := p.changes[key]; c.Old != nil || c.New != nil {
			u.Changes = append(u.Changes, c)
		}
	}
	return u
}

package etcd

import (
	"context"
	"errors"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// errBusy says that so much happens that etcd should rather hand it on in larger pieces.
var errBusy = errors.New("much happens")

// follow hands on what happens after the list, until the watch or the context ends. A watch costs etcd and the node
// some work for each transaction of anybody, whatever is in it. So when many come, the watch is ended for a moment,
// and taken up again where it was: etcd then hands on in one piece what happened meanwhile.
func (w *follower) follow(ctx context.Context) error {
	ctx = clientv3.WithRequireLeader(ctx)
	probe := time.NewTicker(probeEvery)
	defer probe.Stop()
	busy := burst{audience: w.audience}
	for {
		err := w.watch(ctx, probe.C, &busy)
		if errors.Is(err, errRoom) {
			if err := w.list(ctx); err != nil {
				return err
			}
			continue
		}
		if !errors.Is(err, errBusy) {
			return err
		}
		if !sleep(ctx, busy.pause()) {
			return ctx.Err()
		}
	}
}

// watch is follow with one watch. It ends with errBusy when the watch is to be taken up later.
func (w *follower) watch(ctx context.Context, probe <-chan time.Time, busy *burst) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	opts := []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithRev(w.revision + 1), clientv3.WithCreatedNotify()}
	responses := w.client.Watch(ctx, w.prefix, opts...)
	busy.begin(time.Now())
	for {
		var p pending
		select {
		case r, ok := <-responses:
			if err := w.take(&p, r, ok); err != nil {
				return err
			}
			if p.revisions == 0 {
				continue
			}
		case <-probe:
			if err := w.probe(ctx); err != nil {
				return err
			}
			continue
		case <-w.room.due():
			return errRoom
		case <-ctx.Done():
			return ctx.Err()
		}
		broken := w.gather(ctx, &p, responses)
		if err := w.deliver(p.update(w)); err != nil {
			return err
		}
		if broken != nil {
			return broken
		}
		if busy.is(time.Now(), p.revisions) {
			return errBusy
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
		switch {
		case e.Type != mvccpb.PUT:
			w.room.gone(key, old)
			delete(w.replica, key)
		default:
			if now = w.item(e.Kv); !w.room.put(old, now) {
				now = nil
				break
			}
			w.replica[key] = now
		}
		if old != nil || now != nil {
			p.add(key, Change{Old: old, New: now, Revision: e.Kv.ModRevision})
		}
		if e.Kv.ModRevision > w.revision {
			w.revision = e.Kv.ModRevision
			p.revisions++
		}
	}
	return nil
}

// probe notices an etcd that was exchanged though the connection looks the same. One that does not answer in time
// is not listed again for that: it may have too much to do already. Should it be out of reach, the connection
// ends.
func (w *follower) probe(ctx context.Context) error {
	r, err := w.get(ctx, w.anyKey(), clientv3.WithCountOnly())
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		if w.mute++; w.mute < maxMute {
			return nil
		}
	}
	if err != nil {
		return err
	}
	w.mute = 0
	if r.Header.ClusterId != w.cluster || r.Header.Revision < w.revision {
		return errOther
	}
	return nil
}

// pending is an update in the making.
type pending struct {
	order     []string
	changes   map[string]Change
	revisions int // how many transactions it is of
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

// update leaves out keys that came and went within it; its revision tells of them, too.
func (p *pending) update(w *follower) Update {
	u := Update{Revision: w.revision, Cluster: w.cluster, Excess: w.room.excess()}
	for _, key := range p.order {
		if c := p.changes[key]; c.Old != nil || c.New != nil {
			u.Changes = append(u.Changes, c)
		}
	}
	return u
}

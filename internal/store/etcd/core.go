package etcd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/etcd"
	"github.com/vethloom/vethloom/internal/store"
)

// ErrLeaseGone is that of a commit whose lease ended before it. It comes with cnm.ErrUnavailable.
var ErrLeaseGone = errors.New("the lease in etcd is over")

// joinTimeout is how long Watch may wait for etcd.
const joinTimeout = time.Second

// core is what a store and its views share.
type core struct {
	client *clientv3.Client
	root   string // ends with a slash
	ctx    context.Context
	cancel context.CancelFunc
	start  sync.Once
	ready  chan struct{} // closed once the directory is followed
	done   sync.WaitGroup
	watch  store.Watchers

	mu       sync.Mutex
	closed   bool
	isReady  bool
	late     map[cnm.Kind]bool  // watched since before it was followed
	woken    map[cnm.Kind]int64 // revision up to which the kind's watchers were woken
	base     int64              // the same, of every kind
	revision int64
	cluster  uint64
}

func newCore(c *clientv3.Client, root string) *core {
	ctx, cancel := context.WithCancel(context.Background())
	return &core{
		client: c, root: root, ctx: ctx, cancel: cancel, ready: make(chan struct{}),
		late: map[cnm.Kind]bool{}, woken: map[cnm.Kind]int64{},
	}
}

func (c *core) close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cancel()
	c.done.Wait()
	return nil
}

func (c *core) get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return c.client.Get(ctx, key, opts...)
}

// failed says what an error of etcd means. The caller's own end of patience stays visible as such.
func (c *core) failed(ctx context.Context, what string, err error) error {
	own := ctx.Err()
	var e rpctypes.EtcdError
	switch {
	case errors.Is(own, context.Canceled):
		return fmt.Errorf("%s: %w", what, own)
	case own != nil:
		return fmt.Errorf("%s in %s: %w: %w", what, c.where(), cnm.ErrUnavailable, own)
	case errors.Is(err, rpctypes.ErrLeaseNotFound):
		return fmt.Errorf("%s in %s: %w: %w", what, c.where(), cnm.ErrUnavailable, ErrLeaseGone)
	case errors.As(err, &e) && e.Code() == codes.InvalidArgument:
		return fmt.Errorf("%s in %s: %w: %w", what, c.where(), cnm.ErrInvalid, err)
	}
	return fmt.Errorf("%s in %s: %w: %s", what, c.where(), cnm.ErrUnavailable, status.Convert(err).Message())
}

// where names etcd to people.
func (c *core) where() string {
	if c.client.ActiveConnection() == nil {
		return "the etcd in this process"
	}
	return "etcd at " + strings.Join(c.client.Endpoints(), ", ")
}

// Watch implements [cnm.Store]. It follows the directory, so no change is missed when etcd was
// away. The first call waits until etcd is reached, for at most a second; after
// that the channel wakes as soon as it is.
func (s *Store) Watch(ctx context.Context, kind cnm.Kind) <-chan struct{} {
	c := s.core
	ch := c.watch.Add(ctx, kind)
	c.start.Do(c.follow)
	patience := time.NewTimer(joinTimeout)
	defer patience.Stop()
	select {
	case <-c.ready:
		return ch
	case <-patience.C:
	case <-ctx.Done():
	case <-c.ctx.Done():
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.isReady {
		c.late[kind] = true
	}
	return ch
}

// follow wakes watchers until the store is closed.
func (c *core) follow() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	c.done.Go(func() {
		// It ends with the store's context alone: update returns no error.
		_ = etcd.Follow(c.ctx, c.client, c.root, c.update, etcd.KeysOnly())
	})
}

func (c *core) update(u etcd.Update) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.isReady && (u.Cluster != c.cluster || u.Revision < c.revision) {
		c.base, c.woken = 0, map[cnm.Kind]int64{} // these were another etcd's revisions
	}
	c.revision, c.cluster = u.Revision, u.Cluster
	if !c.isReady {
		c.isReady, c.base = true, u.Revision
		for kind := range c.late {
			c.wake(kind, u.Revision)
		}
		close(c.ready)
		return nil
	}
	for _, ch := range u.Changes {
		k, err := c.key(ch.Key())
		if err != nil {
			continue // somebody else's key
		}
		if ch.Revision > max(c.base, c.woken[k.Kind]) {
			c.wake(k.Kind, ch.Revision)
		}
	}
	return nil
}

// committed wakes the watchers of this store's own commit before etcd tells of it. What others changed
// before it is visible to them as well, so one wake-up is enough.
func (c *core) committed(writes []cnm.Write, revision int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, w := range writes {
		if changed := w.Value != nil || w.Revision != 0; changed && revision > c.woken[w.Key.Kind] {
			c.wake(w.Key.Kind, revision)
		}
	}
}

func (c *core) wake(kind cnm.Kind, revision int64) {
	c.woken[kind] = revision
	c.watch.Wake([]cnm.Write{{Key: cnm.Key{Kind: kind}}})
}

// Follow hands on every record of the kinds, and then what becomes of them, as [etcd.Follow]
// does. It returns f's error or, when the context is done, the context's.
func (s *Store) Follow(ctx context.Context, kinds []cnm.Kind, f func(Update) error, opts ...etcd.FollowOption) error {
	root := s.core.root
	if len(kinds) == 1 {
		root = s.dir(kinds[0])
	}
	wanted := map[cnm.Kind]bool{}
	for _, k := range kinds {
		wanted[k] = true
	}
	return etcd.Follow(ctx, s.core.client, root, func(u etcd.Update) error {
		next := Update{Whole: u.Whole, Revision: u.Revision, Cluster: u.Cluster}
		for _, ch := range u.Changes {
			if k, err := s.core.key(ch.Key()); err == nil && wanted[k.Kind] {
				next.Changes = append(next.Changes, Change{Key: k, Old: from(k, ch.Old), New: from(k, ch.New)})
			}
		}
		if !next.Whole && len(next.Changes) == 0 {
			return nil
		}
		return f(next)
	}, opts...)
}

func from(k cnm.Key, i *etcd.Item) *cnm.Record {
	if i == nil {
		return nil
	}
	return &cnm.Record{Key: k, Value: i.Value, Revision: uint64(i.Mod)}
}

// Update is an [etcd.Update] of records.
type Update struct {
	Revision int64
	Cluster  uint64
	Whole    bool // with the changes before, this is everything there is
	Changes  []Change
}

// Change is what became of a record: Old is nil when there was none, New when there is none.
// The values are shared and not to be changed.
type Change struct {
	Key      cnm.Key
	Old, New *cnm.Record
}

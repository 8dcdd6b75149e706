package etcd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sort"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"
)

// Item is a key of etcd.
type Item struct {
	Key    string
	Value  []byte // shared with the replica: not to be changed
	Create int64  // revision the key was made at
	Mod    int64  // revision it was last written at
	Lease  int64  // lease it hangs on, or 0
	Cut    bool   // the value is longer than its limit, and was left out
}

// Change is what became of a key: Old is nil when there was none, New when there is none.
type Change struct {
	Old, New *Item
	Revision int64 // it happened at; when it was found by listing that a key is gone: the list's
}

// Key is the key that changed.
func (c Change) Key() string {
	if c.New != nil {
		return c.New.Key
	}
	return c.Old.Key
}

// Update is a step of a directory's life. Each key is in Changes at most once, and not at all when it came and
// went within the step: then there may be no changes.
type Update struct {
	Revision int64  // of etcd, that the set is now at
	Cluster  uint64 // ID of etcd's cluster
	// Whole says that the set was listed, not followed: with the changes of all updates before, it is
	// everything there is. Such an update comes even when nothing changed.
	Whole   bool
	Changes []Change
	Excess  map[string]int // how many keys there are besides, by class: see [Bound]; nil: none
}

// Timing of Follow.
const (
	quiet       = 5 * time.Millisecond  // without a further event ends an update
	longest     = 20 * time.Millisecond // an update may be held back
	pageSize    = 1000                  // keys a request
	callTimeout = 5 * time.Second       // of one request
	maxPatience = 8                     // times as long one may take after others took too long
	probeEvery  = 10 * time.Second      // between looks at the revision and the cluster
	maxMute     = 3                     // of them without an answer, one after the other, and etcd counts as gone
	minWait     = 50 * time.Millisecond // between attempts, doubled up to maxBackoff
)

// FollowOption changes how [Follow] works.
type FollowOption func(*follower)

// KeysOnly leaves values out: the items have none, and the replica is small.
func KeysOnly() FollowOption { return func(w *follower) { w.keysOnly = true } }

// Audience tells how many follow the directory. When many do and much happens, events are handed on later, and more of
// them at once, lest etcd is busy with telling everybody of each.
func Audience(f func() int) FollowOption { return func(w *follower) { w.audience = f } }

// OnState has f called with true when the directory is being followed, and with false
// and the reason when it cannot be. It is called from Follow's goroutine.
func OnState(f func(connected bool, err error)) FollowOption {
	return func(w *follower) { w.onState = f }
}

// Follow keeps a replica of every key that starts with prefix and hands its
// changes on: first the whole set, Whole even when it is empty, then what changes, a few milliseconds
// of it at once. After a compaction, a lost watch or leader, a reconnect, and when etcd
// was wiped or restored from a backup, it lists again and hands on what differs from before. So
// the sum of the changes is always a state that etcd had, none is missed, and a change costs the same in
// a large set as in a small one.
//
// While etcd is away it tries again; it returns only f's error or, when the context is done, the context's.
func Follow(ctx context.Context, c *clientv3.Client, prefix string, f func(Update) error, opts ...FollowOption) error {
	w := &follower{client: c, prefix: prefix, f: f, replica: map[string]*Item{}}
	for _, o := range opts {
		o(w)
	}
	defer func() { w.room.end() }()
	wait := minWait
	for {
		listed, err := w.session(ctx)
		var stop *stopError
		switch {
		case errors.As(err, &stop):
			return stop.err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		}
		w.state(false, err)
		if listed {
			wait = minWait
		}
		if !sleep(ctx, wait/2+rand.N(wait)) {
			return context.Cause(ctx)
		}
		wait = min(2*wait, maxBackoff)
	}
}

// stopError carries what the consumer returned.
type stopError struct{ err error }

func (e *stopError) Error() string { return e.err.Error() }

// Why a session ends though nothing has failed.
var (
	errReconnected = errors.New("the connection to etcd was lost")
	errOther       = errors.New("etcd is another cluster, or was restored from a backup")
	errWatchEnded  = errors.New("etcd ended the watch")
)

type follower struct {
	client   *clientv3.Client
	prefix   string
	f        func(Update) error
	onState  func(bool, error)
	audience func() int
	keysOnly bool
	room     *room

	replica   map[string]*Item
	revision  int64
	cluster   uint64
	mute      int // probes without an answer
	late      int // requests that took too long, one after the other
	connected bool
	told      string // the last reason given to onState
}

func (w *follower) state(connected bool, err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if w.onState == nil || connected && w.connected || !connected && !w.connected && text == w.told {
		return
	}
	w.connected, w.told = connected, text
	w.onState(connected, err)
}

// session lists and follows until something breaks, and tells whether it came to following.
func (w *follower) session(ctx context.Context) (listed bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if err := w.awaitConnection(ctx); err != nil {
		return false, err
	}
	done := make(chan struct{})
	go func() { defer close(done); w.watchConnection(ctx, cancel) }()
	defer func() { cancel(nil); <-done }()
	if err := w.list(ctx); err != nil {
		return false, w.why(ctx, err)
	}
	w.state(true, nil)
	return true, w.why(ctx, w.follow(ctx))
}

// why prefers the reason a session was cancelled for to what that made of a call.
func (w *follower) why(ctx context.Context, err error) error {
	var stop *stopError
	if cause := context.Cause(ctx); cause != nil && !errors.As(err, &stop) {
		return cause
	}
	return err
}

// awaitConnection waits until calls can be made. When that takes long, a call is made for
// its error, which says why.
func (w *follower) awaitConnection(ctx context.Context) error {
	conn := w.client.ActiveConnection()
	if conn == nil { // in-process
		return nil
	}
	wctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	for {
		s := conn.GetState()
		if s == connectivity.Ready {
			return nil
		}
		conn.Connect()
		if !conn.WaitForStateChange(wctx, s) {
			break
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	// This call is not tried again, unlike those of the client, so its error is what hinders.
	wctx, cancel = context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := etcdserverpb.NewKVClient(conn).Range(wctx, &etcdserverpb.RangeRequest{Key: []byte(w.anyKey()),
		CountOnly: true})
	if err == nil {
		return nil
	}
	return fmt.Errorf("reach etcd at %s: %s", strings.Join(w.client.Endpoints(), ", "), status.Convert(err).Message())
}

// anyKey is a key whose reading tells how etcd is; a user that may read the directory may read it.
func (w *follower) anyKey() string {
	if w.prefix == "" {
		return "\x00"
	}
	return w.prefix
}

// watchConnection ends the session when the connection changes: behind the next one there may be
// another etcd, and the client's own watch would go on as if nothing had been.
func (w *follower) watchConnection(ctx context.Context, cancel context.CancelCauseFunc) {
	conn := w.client.ActiveConnection()
	if conn == nil {
		return
	}
	if conn.WaitForStateChange(ctx, connectivity.Ready) {
		cancel(errReconnected)
	}
}

func (w *follower) get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	call, cancel := context.WithTimeout(ctx, patience(w.late))
	defer cancel()
	r, err := w.client.Get(call, key, opts...)
	if err != nil {
		if call.Err() != nil && ctx.Err() == nil {
			w.late++
		}
		return nil, fmt.Errorf("list %q of etcd: %w", w.prefix, err)
	}
	w.late = 0
	return r, nil
}

// patience is how long a request may take after others took too long. An etcd that has too much to do would only have
// more of it if what it could not answer in time was asked again.
func patience(late int) time.Duration {
	return callTimeout * time.Duration(min(1<<min(late, 8), maxPatience))
}

// list reads the whole directory at one revision and hands on what differs.
func (w *follower) list(ctx context.Context) error {
	next := make(map[string]*Item, len(w.replica))
	u := Update{Whole: true}
	w.room.begin()
	from, end := w.prefix, clientv3.GetPrefixRangeEnd(w.prefix)
	if from == "" {
		from, end = "\x00", "\x00"
	}
	opts := []clientv3.OpOption{clientv3.WithRange(end)}
	page := pageSize
	if w.keysOnly {
		opts = append(opts, clientv3.WithKeysOnly())
	}
	for {
		r, err := w.get(ctx, from, append(opts, clientv3.WithRev(u.Revision), clientv3.WithLimit(int64(page)))...)
		if TooLarge(err) && page > 1 {
			page = max(page/8, 1)
			continue
		}
		if err != nil {
			return err
		}
		if u.Revision == 0 {
			u.Revision, u.Cluster = r.Header.Revision, r.Header.ClusterId
		} else if u.Cluster != r.Header.ClusterId {
			return errOther
		}
		for _, kv := range r.Kvs {
			w.room.list(next, w.item(kv))
		}
		if !r.More || len(r.Kvs) == 0 {
			break
		}
		from = string(r.Kvs[len(r.Kvs)-1].Key) + "\x00"
	}
	w.room.done()
	u.Changes = append(w.compare(next), w.gone(next, u.Revision)...)
	u.Excess = w.room.excess()
	w.replica, w.revision, w.cluster = next, u.Revision, u.Cluster
	return w.deliver(u)
}

// compare finds what the next replica has that this one has not. What did not change stays the same object.
func (w *follower) compare(next map[string]*Item) []Change {
	var changes []Change
	for key, i := range next {
		old := w.replica[key]
		if old != nil && old.Mod == i.Mod && old.Create == i.Create && old.Lease == i.Lease && old.Cut == i.Cut &&
			bytes.Equal(old.Value, i.Value) {
			next[key] = old
			continue
		}
		changes = append(changes, Change{Old: old, New: i, Revision: i.Mod})
	}
	sort.Slice(changes, func(i, j int) bool { return changes[i].New.Key < changes[j].New.Key })
	return changes
}

// TooLarge reports whether an answer was larger than a client takes: fewer keys at once may do.
func TooLarge(err error) bool { return status.Code(err) == codes.ResourceExhausted }

func (w *follower) gone(next map[string]*Item, revision int64) []Change {
	var out []Change
	for key, old := range w.replica {
		if next[key] == nil {
			out = append(out, Change{Old: old, Revision: revision})
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Old.Key < out[j].Old.Key })
	return out
}

func (w *follower) item(kv *mvccpb.KeyValue) *Item {
	v := kv.Value
	switch {
	case w.keysOnly:
		v = nil
	case v == nil:
		v = []byte{}
	}
	return &Item{Key: string(kv.Key), Value: v, Create: kv.CreateRevision, Mod: kv.ModRevision, Lease: kv.Lease}
}

func (w *follower) deliver(u Update) error {
	if err := w.f(u); err != nil {
		return &stopError{err}
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

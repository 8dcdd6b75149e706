package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Lease is a lease of etcd that is kept alive, and granted anew when it was lost. What hung on
// a lost lease is gone with it; [Lease.Changed] says so. It is safe for concurrent use.
type Lease struct {
	client  *clientv3.Client
	ttl     time.Duration
	log     *slog.Logger
	changed chan struct{}
	now     chan struct{} // wakes Run

	mu      sync.Mutex
	id      int64
	prior   int64 // to be tried first, until it is known whether it lives
	expires time.Time
	granted time.Duration // TTL of the lease held, which a prior one has from before
}

// NewLease returns a lease that [Lease.Run] brings to life. The TTL is counted in whole
// seconds, at least one. Prior is the ID of a lease that an earlier life of this node had, or 0: when it
// still lives, it is gone on with, at the TTL it was granted with, and nothing attached to it is removed. Log
// may be nil.
func NewLease(c *clientv3.Client, ttl time.Duration, prior int64, log *slog.Logger) *Lease {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	ttl = max(ttl.Truncate(time.Second), time.Second)
	return &Lease{client: c, ttl: ttl, log: log, prior: prior, changed: make(chan struct{}, 1),
		now: make(chan struct{}, 1)}
}

// ID is that of the lease, or 0 when none was granted yet.
func (l *Lease) ID() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.id
}

// Expires is when the lease is over unless it is renewed: its TTL after the last successful
// renewal was sent, by the monotonic clock of this host. Etcd counts from later, so the
// lease is not over before. The zero time: no lease yet.
func (l *Lease) Expires() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.expires
}

// Changed wakes after a new ID; wake-ups that nobody reads are one.
func (l *Lease) Changed() <-chan struct{} { return l.changed }

// Run keeps the lease alive until the context is done, whose error it returns. It
// does not revoke the lease: what hangs on it stays for the rest of its TTL.
func (l *Lease) Run(ctx context.Context) error {
	failures := 0
	for {
		err := l.renew(ctx, failures)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		wait := l.interval()
		if err != nil {
			failures++
			if failures == 1 {
				l.log.Warn("The lease in etcd cannot be renewed", "lease", l.ID(), "expires", l.Expires(), "error", err)
			}
			wait = min(wait, minWait<<min(failures, 6), maxBackoff)
			wait = wait/2 + rand.N(wait/2+1)
		} else if failures > 0 {
			l.log.Info("The lease in etcd is renewed again", "lease", l.ID())
			failures = 0
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-l.now:
		case <-time.After(wait):
		}
	}
}

// Renew has Run renew the lease now, or get another when it is gone: for who hears that it is.
func (l *Lease) Renew() {
	select {
	case l.now <- struct{}{}:
	default:
	}
}

// maxInterval is the longest time between two renewals, however long the lease: they cost etcd little, and
// are how the loss of the lease is found out.
const maxInterval = 30 * time.Second

// interval is the time between two renewals.
func (l *Lease) interval() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.granted > 0 {
		return min(l.ttl/3, l.granted/3, maxInterval)
	}
	return min(l.ttl/3, maxInterval)
}

// renew sends one keep-alive, or grants a lease when there is none to keep alive.
func (l *Lease) renew(ctx context.Context, failures int) error {
	ctx, cancel := context.WithTimeout(ctx, min(patience(failures), max(l.interval(), 500*time.Millisecond)))
	defer cancel()
	l.mu.Lock()
	id := l.id
	if id == 0 {
		id = l.prior
	}
	l.mu.Unlock()
	if id != 0 {
		sent := time.Now()
		r, err := l.client.KeepAliveOnce(ctx, clientv3.LeaseID(id))
		switch {
		case err == nil && r.TTL > 0:
			l.hold(id, sent, r.TTL)
			return nil
		case err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound):
			return fmt.Errorf("renew lease %x of etcd: %w", id, err)
		}
	}
	sent := time.Now()
	r, err := l.client.Grant(ctx, int64(l.ttl/time.Second))
	if err != nil {
		return fmt.Errorf("get a lease of etcd: %w", err)
	}
	l.hold(int64(r.ID), sent, r.TTL)
	return nil
}

// hold takes note of a success.
func (l *Lease) hold(id int64, sent time.Time, ttl int64) {
	l.mu.Lock()
	fresh := id != l.id
	l.granted = time.Duration(ttl) * time.Second
	l.id, l.expires = id, sent.Add(l.granted)
	l.mu.Unlock()
	if fresh {
		select {
		case l.changed <- struct{}{}:
		default:
		}
	}
}

// Revoke ends the lease: keys attached to it are removed at once. Run must have returned.
func (l *Lease) Revoke(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	id := l.id
	if id == 0 {
		id = l.prior
	}
	if id == 0 {
		return nil
	}
	if _, err := l.client.Revoke(ctx, clientv3.LeaseID(id)); err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return fmt.Errorf("revoke lease %x of etcd: %w", id, err)
	}
	l.id, l.prior, l.expires = 0, 0, time.Time{}
	return nil
}

package etcd_test

import (
	"context"
	"errors"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/vethloom/vethloom/internal/etcd"
	"github.com/vethloom/vethloom/internal/etcd/embedded"
	"github.com/vethloom/vethloom/internal/etcd/etcdtest"
)

// run keeps the lease alive until the function returned is called, at the latest until the test is over.
func run(t *testing.T, l *etcd.Lease) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run ended with %v", err)
		}
	}
	t.Cleanup(stop)
	return stop
}

func changed(t *testing.T, l *etcd.Lease) {
	t.Helper()
	select {
	case <-l.Changed():
	case <-time.After(patience):
		t.Fatal("the lease got no ID")
	}
}

func attach(t *testing.T, c *clientv3.Client, key string, l *etcd.Lease) {
	t.Helper()
	if _, err := c.Put(t.Context(), key, "x", clientv3.WithLease(clientv3.LeaseID(l.ID()))); err != nil {
		t.Fatal(err)
	}
}

func TestLeaseIsKeptAndEnds(t *testing.T) {
	t.Parallel()
	c := etcdtest.Serve(t, embedded.Config{Dir: t.TempDir()}).Client()
	m := follow(t, c, "/d/")
	const ttl = 2 * time.Second
	l := etcd.NewLease(c, ttl, 0, nil)
	if l.ID() != 0 || !l.Expires().IsZero() {
		t.Errorf("before it ran: %x, %v", l.ID(), l.Expires())
	}
	before := time.Now()
	stop := run(t, l)
	changed(t, l)
	first := l.Expires()
	if first.Before(before.Add(ttl)) || first.After(time.Now().Add(ttl)) {
		t.Errorf("granted after %v, over after %v, with a TTL of %v", before, first, ttl)
	}
	attach(t, c, "/d/a", l)
	m.matches(t, c, "/d/")
	eventually(t, "three lifetimes", func(context.Context) error {
		if time.Since(first) < ttl {
			return errors.New("not yet")
		}
		return nil
	})
	if len(m.since(0)) == 0 || !l.Expires().After(time.Now()) {
		t.Errorf("the lease was not renewed: over at %v", l.Expires())
	}
	m.matches(t, c, "/d/")
	stop()
	end := l.Expires()
	m.wait(t, "the end of the lease", func() bool { return len(m.set) == 0 })
	if time.Now().Before(end) {
		t.Errorf("etcd ended the lease %v before the local clock", time.Until(end))
	}
}

func TestLeaseGoesOnWithThePriorOne(t *testing.T) {
	c := etcdtest.Serve(t, embedded.Config{Dir: t.TempDir()}).Client()
	first := etcd.NewLease(c, time.Minute, 0, nil)
	stop := run(t, first)
	changed(t, first)
	attach(t, c, "/d/a", first)
	stop()
	second := etcd.NewLease(c, time.Minute, first.ID(), nil)
	stop = run(t, second)
	changed(t, second)
	if second.ID() != first.ID() {
		t.Errorf("lease %x became %x", first.ID(), second.ID())
	}
	stop()
	if err := second.Revoke(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r, err := c.Get(t.Context(), "/d/a"); err != nil || r.Count != 0 {
		t.Errorf("what hung on the revoked lease: %v, %v", r, err)
	}
	third := etcd.NewLease(c, time.Minute, first.ID(), nil)
	run(t, third)
	changed(t, third)
	if third.ID() == first.ID() || third.ID() == 0 {
		t.Errorf("after the end of lease %x came %x", first.ID(), third.ID())
	}
}

func TestLeaseIsGrantedAnew(t *testing.T) {
	c := etcdtest.Serve(t, embedded.Config{Dir: t.TempDir()}).Client()
	l := etcd.NewLease(c, time.Second, 0, nil)
	run(t, l)
	changed(t, l)
	first := l.ID()
	if _, err := c.Revoke(t.Context(), clientv3.LeaseID(first)); err != nil {
		t.Fatal(err)
	}
	changed(t, l)
	if l.ID() == first || l.ID() == 0 {
		t.Errorf("lease %x became %x", first, l.ID())
	}
}

// TestLeaseIsRenewedWhenAsked has a lease that it would take minutes to miss.
func TestLeaseIsRenewedWhenAsked(t *testing.T) {
	c := etcdtest.Serve(t, embedded.Config{Dir: t.TempDir()}).Client()
	l := etcd.NewLease(c, time.Hour, 0, nil)
	run(t, l)
	changed(t, l)
	first := l.ID()
	if _, err := c.Revoke(t.Context(), clientv3.LeaseID(first)); err != nil {
		t.Fatal(err)
	}
	l.Renew()
	changed(t, l)
	if l.ID() == first || l.ID() == 0 {
		t.Errorf("lease %x became %x", first, l.ID())
	}
}

// TestLeaseClock cuts the connection: the local clock goes on, and says so before etcd does.
func TestLeaseClock(t *testing.T) {
	t.Parallel()
	path := socket(t)
	s := etcdtest.Serve(t, embedded.Config{Dir: t.TempDir(), ClientURLs: []string{"unix://" + path}})
	p := newProxy(t, path)
	m := follow(t, s.Client(), "/d/")
	l := etcd.NewLease(dialSocket(t, p.path), 2*time.Second, 0, nil)
	run(t, l)
	changed(t, l)
	attach(t, s.Client(), "/d/a", l)
	m.matches(t, s.Client(), "/d/")
	first := l.ID()
	p.cut()
	m.wait(t, "the end of the lease", func() bool { return len(m.set) == 0 })
	if now := time.Now(); !l.Expires().Before(now) || l.ID() != first {
		t.Errorf("etcd ended the lease, but it is %x until %v from now", l.ID(), l.Expires().Sub(now))
	}
	p.heal()
	changed(t, l)
	if l.ID() == first || !l.Expires().After(time.Now()) {
		t.Errorf("after the cut: lease %x until %v", l.ID(), l.Expires())
	}
}

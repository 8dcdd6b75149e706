package engine_test

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine"
)

// What a container is on is its record's: of one that runs, of one that does not, and over restarts of netd.
func TestConnectIsKept(t *testing.T) {
	w := newWorld(t)
	c := w.create(engine.Spec{Name: "web", Image: "busybox", Command: []string{"sleep", "1000"},
		Networks: []cnm.AttachRequest{{Network: "front"}},
		Ports:    []cnm.PortMapping{{Proto: "tcp", HostPort: 80, Port: 80}}})
	on := func(want ...string) {
		t.Helper()
		var got []string
		for _, n := range w.inspect("web").Spec.Networks {
			got = append(got, n.Network)
		}
		if !slices.Equal(got, want) {
			t.Errorf("on %v, want %v", got, want)
		}
	}
	connect := func(network string) {
		t.Helper()
		r := cnm.AttachRequest{Network: network, Aliases: []string{"x"}}
		if _, err := w.e.Connect(t.Context(), "web", r); err != nil {
			t.Errorf("connect to %s: %v", network, err)
		}
	}
	disconnect := func(network string) {
		t.Helper()
		if err := w.e.Disconnect(t.Context(), "web", network, false); err != nil {
			t.Errorf("disconnect from %s: %v", network, err)
		}
	}
	connect("back") // created, not started
	on("front", "back")
	disconnect("front")
	on("back")
	if calls := w.nets.calls; len(calls) > 0 {
		t.Errorf("the controller was asked for %v", calls)
	}
	if err := w.e.Start(t.Context(), c.ID); err != nil {
		t.Fatal(err)
	}
	connect("front")
	if _, err := w.e.Connect(t.Context(), "web", cnm.AttachRequest{Network: "front"}); !errors.Is(err, cnm.ErrExists) {
		t.Errorf("connected twice: %v", err)
	}
	disconnect("back")
	w.restart() // which publishes again, in case that netd was killed
	on("front")
	disconnect("front")
	on("none")
	want := []string{"attach front", "publish 1", "detach back", "publish 1", "publish 1", "rename web",
		"detach front", "publish 1"}
	if calls := w.nets.calls; !slices.Equal(calls, want) {
		t.Errorf("the controller was asked for %v, want %v", calls, want)
	}
	if err := w.e.Disconnect(t.Context(), "web", "front", false); err != nil && !errors.Is(err, cnm.ErrNotFound) {
		t.Errorf("disconnected twice: %v", err)
	}
	w.nets.fail = errors.New("no such luck")
	if _, err := w.e.Connect(t.Context(), "web", cnm.AttachRequest{Network: "back"}); !errors.Is(err, w.nets.fail) {
		t.Errorf("a refused connect: %v", err)
	}
	w.nets.fail = nil
	on("none")
	if _, err := w.e.Remove(t.Context(), "web", true, false); err != nil {
		t.Error(err)
	}
}

// A sandbox that others live on in is connected and disconnected though its owner has ended.
func TestConnectWhatOthersLiveOnIn(t *testing.T) {
	w := newWorld(t)
	sleep := engine.Spec{Image: "busybox", Command: []string{"sleep", "1000"}}
	owner, other := sleep, sleep
	owner.Name, owner.Networks = "owner", []cnm.AttachRequest{{Network: "front"}}
	w.start(owner)
	other.Name, other.Networks = "other", []cnm.AttachRequest{{Network: "container:owner"}}
	w.start(other)
	if err := w.e.Stop(t.Context(), "owner", engine.StopOptions{Timeout: new(time.Duration)}); err != nil {
		t.Fatal(err)
	}
	for _, ref := range []string{"other", "owner"} {
		if _, err := w.e.Connect(t.Context(), ref, cnm.AttachRequest{Network: "by " + ref}); err != nil {
			t.Errorf("connect %s: %v", ref, err)
		}
	}
	again := cnm.AttachRequest{Network: "front"}
	if _, err := w.e.Connect(t.Context(), "owner", again); !errors.Is(err, cnm.ErrExists) {
		t.Errorf("connected twice: %v", err)
	}
	if err := w.e.Disconnect(t.Context(), "owner", "front", false); err != nil {
		t.Errorf("disconnect: %v", err)
	}
	want := []string{"attach by other", "publish 0", "attach by owner", "publish 0", "detach front", "publish 0"}
	if calls := w.nets.calls; !slices.Equal(calls, want) {
		t.Errorf("the controller was asked for %v, want %v", calls, want)
	}
	var on []string
	for _, n := range w.inspect("owner").Spec.Networks {
		on = append(on, n.Network)
	}
	if !slices.Equal(on, []string{"by other", "by owner"}) {
		t.Errorf("the owner's record has %v", on)
	}
}

// Who removes a container while it is being created waits until it is.
func TestRemovalWhileAContainerIsCreated(t *testing.T) {
	w := newWorld(t)
	remove := func() {
		_, err := w.e.Remove(t.Context(), "box", true, false)
		if err != nil && !errors.Is(err, cnm.ErrNotFound) {
			t.Error(err)
		}
	}
	for range 30 {
		var work sync.WaitGroup
		var made atomic.Bool
		for range 2 {
			work.Go(func() {
				for !made.Load() {
					remove()
				}
			})
		}
		spec := engine.Spec{Name: "box", Image: "busybox", Command: []string{"true"}}
		if _, _, err := w.e.Create(t.Context(), spec); err != nil {
			t.Error(err)
		}
		made.Store(true)
		work.Wait()
		remove()
	}
}

package remote_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/drivers/remote"
	"github.com/vethloom/vethloom/drivers/remote/plugin"
	"github.com/vethloom/vethloom/internal/kern/kerntest"
	"github.com/vethloom/vethloom/internal/plugintest"
	"github.com/vethloom/vethloom/internal/store/mem"
	"github.com/vethloom/vethloom/plan"
)

func TestMain(m *testing.M) {
	plugintest.Main()
	m.Run()
}

// world is a plugin and the records about it.
type world struct {
	t *testing.T
	cnm.Store
	left int // commits until the crash; negative: none
	proc *plugintest.Process
	dirs plugin.Dirs
	net  cnm.Network
	end  cnm.Endpoint
}

var errCrash = errors.New("netd has crashed")

// Commit is the store's, until the crash.
func (w *world) Commit(ctx context.Context, writes ...cnm.Write) error {
	if w.left == 0 {
		return errCrash
	}
	w.left--
	return w.Store.Commit(ctx, writes...)
}

func newWorld(t *testing.T) *world {
	t.Helper()
	kerntest.New(t)
	dir := t.TempDir()
	w := &world{t: t, Store: mem.New(), left: -1, dirs: plugin.Dirs{Sockets: []string{dir}, Specs: []string{dir}}}
	w.proc = plugintest.Start(t, dir+"/p.sock", nil)
	w.net = cnm.Network{ID: strings.Repeat("a", 64), Name: "far", Driver: "p", Scope: cnm.Local, Phase: cnm.Active}
	w.end = cnm.Endpoint{ID: strings.Repeat("e", 64), Network: w.net.ID, Sandbox: "s", NetNS: "box", Phase: cnm.Active}
	return w
}

// caller is that of a netd that starts now.
func (w *world) caller() *remote.Caller {
	w.t.Helper()
	k, err := remote.New(w.t.Context(), remote.Config{
		Store: w, Finder: plugin.NewFinder(plugin.Config{Dirs: w.dirs, Wait: 10 * time.Second}),
		Ours:       func(name string) bool { return name != "p" },
		LastLink:   func(context.Context) (uint32, error) { return 1, nil },
		SandboxKey: func(ns plan.NetNS) string { return "/netns/" + string(ns) },
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return k
}

// records writes the network's and the endpoint's record as they are to be; no phase: there is none.
func (w *world) records(network, endpoint cnm.Phase) {
	w.t.Helper()
	w.left = -1
	put := func(kind cnm.Kind, id string, phase cnm.Phase, put func(uint64) (cnm.Write, error)) {
		old, err := w.Get(w.t.Context(), cnm.Key{Kind: kind, ID: id})
		if err != nil && !errors.Is(err, cnm.ErrNotFound) {
			w.t.Fatal(err)
		}
		write := cnm.Write{Key: cnm.Key{Kind: kind, ID: id}, Revision: old.Revision}
		if phase != "" {
			if write, err = put(old.Revision); err != nil {
				w.t.Fatal(err)
			}
		} else if old.Revision == 0 {
			return
		}
		if err := w.Store.Commit(w.t.Context(), write); err != nil {
			w.t.Fatal(err)
		}
	}
	w.net.Phase, w.end.Phase = network, endpoint
	put(cnm.KindNetwork, w.net.ID, network, func(rev uint64) (cnm.Write, error) {
		return cnm.Put(cnm.KindNetwork, w.net.ID, w.net, rev)
	})
	put(cnm.KindEndpoint, w.end.ID, endpoint, func(rev uint64) (cnm.Write, error) {
		return cnm.Put(cnm.KindEndpoint, w.end.ID, w.end, rev)
	})
}

// converge is what a pass over the owners is, with nothing in the kernel.
func (w *world) converge(k *remote.Caller, owners ...plan.Owner) error {
	if err := k.Prepare(w.t.Context(), true, owners...); err != nil {
		return err
	}
	return k.Finish(w.t.Context(), true, owners...)
}

// settle is a start of netd that goes on until nothing is left to do.
func (w *world) settle() {
	w.t.Helper()
	w.left = -1
	k := w.caller()
	err := remote.Round(k, w.t.Context(), func(_ context.Context, o plan.Owner) error { return w.converge(k, o) },
		func() []plan.Owner { return nil })
	if err != nil {
		w.t.Fatal(err)
	}
}

// After a crash at any write of a call's record, the next life finishes what the records ask for or takes it back.
func TestCrashAtEachWrite(t *testing.T) {
	w := newWorld(t)
	steps := []struct {
		name              string
		network, endpoint cnm.Phase
		owner             plan.Owner
		want              string
	}{
		{"create a network", cnm.Active, "", cnm.NetworkOwner(w.net.ID), "network aaaaaaaaaaaa"},
		{"attach", cnm.Active, cnm.Active, cnm.EndpointOwner(w.end.ID),
			"endpoint eeeeeeeeeeee joined external\nnetwork aaaaaaaaaaaa"},
		{"detach", cnm.Active, cnm.Deleting, cnm.EndpointOwner(w.end.ID), "network aaaaaaaaaaaa"},
		{"remove a network", "", "", cnm.NetworkOwner(w.net.ID), ""},
	}
	for i, s := range steps {
		for writes := 0; ; writes++ {
			for _, before := range steps[:i] {
				w.records(before.network, before.endpoint)
				w.settle()
			}
			w.records(s.network, s.endpoint)
			w.left = writes
			err := w.converge(w.caller(), s.owner)
			if err != nil && !strings.Contains(err.Error(), errCrash.Error()) {
				t.Fatalf("%s, crash after %d writes: %v", s.name, writes, err)
			}
			w.settle()
			if got := w.proc.Made(); got != s.want {
				t.Errorf("%s, crash after %d writes: the plugin has %q, want %q", s.name, writes, got, s.want)
			}
			w.settle()
			w.records("", "")
			w.settle()
			if got, calls := w.proc.Made(), w.calls(); got != "" || calls != "[]" {
				t.Fatalf("%s, crash after %d writes: left %q and %s", s.name, writes, got, calls)
			}
			if err == nil {
				break
			}
		}
	}
}

func (w *world) calls() string {
	w.t.Helper()
	calls, err := cnm.ListCalls(w.t.Context(), w)
	if err != nil {
		w.t.Fatal(err)
	}
	return fmt.Sprint(calls)
}

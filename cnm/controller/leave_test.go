package controller_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/store/mem"
)

// A network is left on this node alone, cluster or none, and the decision outlives the process.
func TestLeaveAndJoin(t *testing.T) {
	w, c := newCluster(t, mem.New())
	ctx := t.Context()
	n, err := w.CreateNetwork(ctx, cnm.NetworkRequest{Name: "app", Driver: "overlay"})
	if err != nil {
		t.Fatal(err)
	}
	s, _, err := w.CreateSandbox(ctx, cnm.SandboxRequest{Attach: []cnm.AttachRequest{{Network: "app", Name: "db"}}})
	if err != nil {
		t.Fatal(err)
	}
	c.err = cnm.ErrUnavailable
	if _, err := w.LeaveNetwork(ctx, "app"); !errors.Is(err, cnm.ErrInUse) || !strings.Contains(err.Error(), "db") {
		t.Errorf("with an endpoint on it: %v", err)
	}
	if err := w.DeleteSandbox(ctx, s.ID); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time is no error
		if _, err := w.LeaveNetwork(ctx, "app"); err != nil {
			t.Fatal(err)
		}
	}
	if got := c.reviews.Load(); got != 1 {
		t.Errorf("the membership was told %d times", got)
	}
	for _, when := range []string{"at first", "after a restart"} {
		got, err := w.Network(ctx, "app")
		if err != nil || !got.Left() || len(got.Pools) != 1 || len(got.Pools[0].Blocks) > 0 {
			t.Errorf("%s: %+v, %v", when, got, err)
		}
		_, _, err = w.CreateSandbox(ctx, cnm.SandboxRequest{Attach: []cnm.AttachRequest{{Network: "app"}}})
		if !errors.Is(err, cnm.ErrForbidden) || !strings.Contains(err.Error(), "net network join app") {
			t.Errorf("%s: attach: %v", when, err)
		}
		if err := w.Adopt(ctx, n); !errors.Is(err, cnm.ErrForbidden) {
			t.Errorf("%s: adopt: %v", when, err)
		}
		if err := w.open(); err != nil {
			t.Fatal(err)
		}
	}
	c.err = nil
	if gone, err := w.PruneNetworks(ctx, every); err != nil || len(gone) > 0 {
		t.Errorf("prune removed %v: %v", gone, err)
	}
	c.forbidden = &cnm.Error{Kind: cnm.ErrForbidden, Field: "subnet", Value: "10.0.0.0/8", Reason: "etcd is there"}
	if _, err := w.JoinNetwork(ctx, "app"); !errors.Is(err, cnm.ErrForbidden) {
		t.Errorf("join what the host cannot have: %v", err)
	}
	c.forbidden = nil
	if _, err := w.JoinNetwork(ctx, "app"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.CreateSandbox(ctx, cnm.SandboxRequest{
		Attach: []cnm.AttachRequest{{Network: "app"}}}); err != nil {
		t.Errorf("attach after joining: %v", err)
	}
	local, err := w.CreateNetwork(ctx, cnm.NetworkRequest{Name: "local", Driver: "bridge"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.LeaveNetwork(ctx, local.ID); !errors.Is(err, cnm.ErrForbidden) {
		t.Errorf("leave a network of this node alone: %v", err)
	}
}

package daemon_test

import (
	"context"
	"testing"

	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/internal/soak"
)

const sandboxID = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func sandboxRequest() *apiv1.CreateSandboxRequest {
	return &apiv1.CreateSandboxRequest{
		Id:       sandboxID,
		Networks: []*apiv1.ConnectRequest{{Network: "web"}, {Network: "db"}},
		Ports: []*apiv1.PortMapping{
			{Proto: "tcp", HostPort: 8080, ContainerPort: 80},
			{Proto: "udp", HostPort: 9000, ContainerPort: 9000, Count: 10},
		},
	}
}

// TestKilledAtEveryStep kills netd before each single commit and kernel operation of a change (before a sample of
// them outside `make soak`), starts it again, and wants a node that agrees with itself and can still do the change
// and its opposite.
func TestKilledAtEveryStep(t *testing.T) {
	ctx := t.Context()
	remove := func(n *node) error {
		_, err := n.client.Sandboxes.Remove(ctx, &apiv1.RemoveSandboxRequest{Id: sandboxID})
		return err
	}
	create := func(n *node) error {
		_, err := n.client.Sandboxes.Create(ctx, sandboxRequest())
		return err
	}
	disconnect := func(n *node) error {
		_, err := n.client.Networks.Disconnect(ctx, &apiv1.DisconnectRequest{Network: "db", Container: sandboxID})
		return err
	}
	connect := func(n *node) error {
		_, err := n.client.Networks.Connect(ctx, &apiv1.ConnectRequest{Network: "db", Container: sandboxID,
			Addresses: []string{"10.66.0.77"}})
		return err
	}
	newNet := func(n *node) error {
		_, err := n.client.Networks.Create(ctx, &apiv1.CreateNetworkRequest{Name: "extra", Ipv6: true})
		return err
	}
	dropNet := func(n *node) error {
		_, err := n.client.Networks.Remove(ctx, &apiv1.RemoveNetworkRequest{Network: "extra"})
		return err
	}
	for _, c := range []crash{
		{"create sandbox", nil, create, []func(*node) error{create, remove}, 15},
		{"remove sandbox", []func(*node) error{create}, remove, []func(*node) error{create, remove}, 10},
		{"connect", []func(*node) error{create, disconnect}, connect, []func(*node) error{remove}, 6},
		{"disconnect", []func(*node) error{create}, disconnect, []func(*node) error{remove}, 5},
		{"create network", nil, newNet, []func(*node) error{ifMissing(newNet), dropNet}, 6},
		{"remove network", []func(*node) error{newNet}, dropNet, []func(*node) error{ifMissing(newNet), dropNet}, 6},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newNode(t)
			n.start()
			n.network("web")
			n.network("db", func(r *apiv1.CreateNetworkRequest) { r.Pools = []*apiv1.Pool{{Subnet: "10.66.0.0/24"}} })
			n.walkAll(c)
			n.removeNetwork("web")
			n.removeNetwork("db")
			n.converged()
		})
	}
}

// crash is a change, before whose steps netd is killed.
type crash struct {
	name   string
	before []func(*node) error
	do     func(*node) error
	after  []func(*node) error // must work whatever the crash left
	least  int                 // steps
}

// walkAll kills netd before each step of a change, or before a sample of them.
func (n *node) walkAll(c crash) {
	n.t.Helper()
	for step := 1; ; step += soak.Stride(3) {
		if n.walk(n.t.Context(), step, c.before, c.do, c.after) {
			if step <= c.least {
				n.t.Errorf("only %d steps were walked: the kill points are not where the work is", step-1)
			}
			n.t.Logf("%d steps", step-1)
			return
		}
		if n.t.Failed() {
			n.t.Fatalf("killed before step %d", step)
		}
	}
}

// walk does one round with a kill before the given step; it returns true when the
// change was over before it came to that.
func (n *node) walk(ctx context.Context, step int, before []func(*node) error, do func(*node) error,
	after []func(*node) error) (survived bool) {
	n.t.Helper()
	must := func(f func(*node) error) {
		n.t.Helper()
		if err := f(n); err != nil {
			n.t.Fatalf("step %d: %v", step, err)
		}
	}
	for _, f := range before {
		must(f)
	}
	n.stop()
	n.cfg.KillAt = step
	n.start()
	n.armKiller()
	if err := do(n); err == nil {
		survived = true
		n.kill()
	} else {
		n.died()
	}
	n.cfg.KillAt = 0
	n.start()
	n.settled()
	n.converged()
	n.whole()
	for _, f := range after {
		must(f)
	}
	n.converged()
	n.idle()
	return survived
}

// settled waits until deletions that were cut short have ended.
func (n *node) settled() {
	n.t.Helper()
	await.True(n.t, "what was being removed is gone", func() bool {
		st, err := n.client.System.Status(n.t.Context(), &apiv1.StatusRequest{})
		if err != nil {
			n.t.Fatal(err)
		}
		return st.Converged
	})
}

// whole checks that the sandbox, if it is there, works with all it lists.
func (n *node) whole() {
	n.t.Helper()
	list, err := n.client.Sandboxes.List(n.t.Context(), &apiv1.ListSandboxesRequest{})
	if err != nil {
		n.t.Fatal(err)
	}
	for _, s := range list.Sandboxes {
		for _, e := range s.Endpoints {
			for _, g := range e.Gateways {
				n.Run("nsenter", "--net="+s.NetnsPath, "ping", "-c1", "-W30", "-q", g)
			}
		}
	}
}

// ifMissing lets a change be done already.
func ifMissing(f func(*node) error) func(*node) error {
	return func(n *node) error {
		list, err := n.client.Networks.List(n.t.Context(), &apiv1.ListNetworksRequest{Filters: []string{"name=extra"}})
		if err != nil || len(list.Networks) > 0 {
			return err
		}
		return f(n)
	}
}

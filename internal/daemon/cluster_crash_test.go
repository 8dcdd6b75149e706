package daemon_test

import (
	"testing"

	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/internal/soak"
)

// TestKilledAtEveryStepOfClusterNetworks does what TestKilledAtEveryStep does, with networks of each
// driver that crosses hosts. Writes to etcd are steps too.
func TestKilledAtEveryStepOfClusterNetworks(t *testing.T) {
	ctx := t.Context()
	create := func(n *node) error {
		r := &apiv1.CreateSandboxRequest{Id: sandboxID}
		for _, d := range clusterDrivers {
			r.Networks = append(r.Networks, &apiv1.ConnectRequest{Network: d})
		}
		_, err := n.client.Sandboxes.Create(ctx, r)
		return err
	}
	remove := func(n *node) error {
		_, err := n.client.Sandboxes.Remove(ctx, &apiv1.RemoveSandboxRequest{Id: sandboxID})
		return err
	}
	type change struct {
		name   string
		full   bool // with a network of each driver
		before []func(*node) error
		do     func(*node) error
		after  []func(*node) error
		least  int
	}
	changes := []change{
		{"create sandbox", true, nil, create, []func(*node) error{create, remove}, 15},
		{"remove sandbox", true, []func(*node) error{create}, remove, []func(*node) error{create, remove}, 10},
	}
	for _, d := range clusterDrivers {
		newNet := func(n *node) error {
			_, err := n.client.Networks.Create(ctx, &apiv1.CreateNetworkRequest{Name: "extra", Driver: d, Ipv6: true})
			return err
		}
		dropNet := func(n *node) error {
			_, err := n.client.Networks.Remove(ctx, &apiv1.RemoveNetworkRequest{Network: "extra"})
			return err
		}
		changes = append(changes,
			change{"create network " + d, false, nil, newNet, []func(*node) error{ifMissing(newNet), dropNet}, 8},
			change{"remove network " + d, false, []func(*node) error{newNet}, dropNet,
				[]func(*node) error{ifMissing(newNet), dropNet}, 8})
	}
	for _, c := range changes {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.ready = w.joined
			w.start()
			if c.full {
				for _, d := range clusterDrivers {
					w.shared(d)
				}
			}
			for step := 1; ; step += soak.Stride(3) {
				if w.walk(ctx, step, c.before, c.do, c.after) {
					if step <= c.least {
						t.Errorf("only %d steps were walked: the kill points are not where the work is", step-1)
					}
					t.Logf("%d steps", step-1)
					break
				}
				if !c.full {
					w.barren()
				}
				if t.Failed() {
					t.Fatalf("killed before step %d", step)
				}
			}
			if c.full {
				for _, d := range clusterDrivers {
					w.removeNetwork(d)
				}
			}
			w.converged()
			w.barren()
		})
	}
}

package daemon_test

import (
	"net"
	"testing"

	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/internal/kern/fastpath"
	"github.com/vethloom/vethloom/plan"
)

// fastPackets is how many packets of a network took the fast path on the node so far.
func (n *node) fastPackets(network *apiv1.Network) (packets uint64) {
	n.t.Helper()
	n.FastPath(n.t, n.place, func(p *fastpath.Path, _ map[uint32]string) error {
		c, err := p.Count(plan.FastNetwork(network.Id[:16]))
		packets = c.Packets[fastpath.Fast]
		return err
	})
	return packets
}

// TestClusterOnTheFastPath has sandboxes of two nodes talk on a network of each driver. Their connections take the fast
// path, and so they outlive both daemons.
func TestClusterOnTheFastPath(t *testing.T) {
	w := newWorld(t)
	w.cfg.FastPath = "auto"
	w.join()
	far := w.second()
	networks := map[string]*apiv1.Network{}
	for _, d := range clusterDrivers {
		networks[d] = w.shared(d)
	}
	here, there := w.attach(clusterDrivers...), far.attach(clusterDrivers...)
	far.echo(there)
	var all []net.Conn
	each := func(when string) {
		t.Helper()
		for _, c := range all {
			talk(t, when, c)
		}
	}
	for _, d := range clusterDrivers {
		for _, is4 := range []bool{true, false} {
			c := w.reach(here, addressOn(t, there, d, is4))
			defer c.Close()
			all = append(all, c)
		}
	}
	each("before")
	for _, d := range clusterDrivers {
		for _, n := range []*node{w.node, far} {
			before := n.fastPackets(networks[d])
			await.True(t, "a connection by "+d+" is on the fast path", func() bool {
				each("on the fast path")
				return n.fastPackets(networks[d]) >= before+4
			})
		}
	}
	w.kill()
	far.kill()
	each("while the daemons are dead")
	far.start()
	w.join()
	each("after the restart")
	w.converged()
	far.converged()
	for _, c := range all {
		c.Close()
	}
	w.dismantle(far, here, there)
}

package daemon_test

import (
	"net"
	"testing"

	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/internal/kern/fastpath"
	"github.com/vethloom/vethloom/internal/kern/kerntest"
	"github.com/vethloom/vethloom/plan"
)

// fastPackets is how many packets of a network took the fast path on the node so far.
func (n *node) fastPackets(network string) (packets uint64) {
	n.t.Helper()
	st, err := n.client.System.Status(n.t.Context(), &apiv1.StatusRequest{})
	if err != nil {
		n.t.Fatal(err)
	}
	for _, c := range st.FastPath.Counts {
		if c.Network == network && c.Fast {
			packets += c.Packets
		}
	}
	return packets
}

// judged are the links of a network whose packets a program judges.
func (n *node) judged(network *apiv1.Network) (out []string) {
	n.t.Helper()
	n.FastPath(n.t, n.place, func(p *fastpath.Path, links map[uint32]string) error {
		programs, err := p.Programs(links)
		for _, program := range programs {
			if program.Network == plan.FastNetwork(network.Id[:16]) {
				out = append(out, program.Link)
			}
		}
		return err
	})
	return out
}

// TestClusterOnTheFastPath has sandboxes of two nodes talk on a network of each driver. Their connections take the fast
// path, and so they outlive both daemons.
func TestClusterOnTheFastPath(t *testing.T) {
	for _, underlay := range []string{"both families", "IPv6 alone", "a kernel without tcx"} {
		t.Run(underlay, func(t *testing.T) {
			w := newWorld(t)
			drivers := clusterDrivers
			if underlay == "a kernel without tcx" {
				w.kernel = kerntest.WithoutTCX
			}
			if underlay == "IPv6 alone" { // plain routes carry their own family
				drivers = []string{"vxlan", "udp", "overlay"}
				w.Sh("ip addr del 192.0.2.1/24 dev up0; nsenter --net=" + w.far + " ip addr flush dev up1 scope global")
				w.Sh("nsenter --net=" + w.far + " ip addr add 2001:db8::2/64 dev up1 nodad")
			}
			fastCluster(t, w, drivers)
		})
	}
}

func fastCluster(t *testing.T, w *world, drivers []string) {
	t.Helper()
	w.cfg.FastPath = "auto"
	w.join()
	far := w.second()
	for _, d := range drivers {
		w.shared(d)
	}
	here, there := w.attach(drivers...), far.attach(drivers...)
	far.echo(there)
	var all []net.Conn
	each := func(when string) {
		t.Helper()
		for _, c := range all {
			talk(t, when, c)
		}
	}
	for _, d := range drivers {
		for _, is4 := range []bool{true, false} {
			c := w.reach(here, addressOn(t, there, d, is4))
			defer c.Close()
			all = append(all, c)
		}
	}
	each("before")
	for _, d := range drivers {
		for _, n := range []*node{w.node, far} {
			before := n.fastPackets(d)
			await.True(t, "a connection by "+d+" is on the fast path", func() bool {
				each("on the fast path")
				return n.fastPackets(d) >= before+4
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
	w.dismantleAll(far, here, there, drivers)
}

// TestRulesOfOthersSeeAllPackets has somebody make rules about a network's bridge and about an endpoint's link: what
// they are about is on the slow path while they are there, and nothing else is.
func TestRulesOfOthersSeeAllPackets(t *testing.T) {
	n := newNode(t)
	n.cfg.FastPath = "auto"
	n.start()
	web, db := n.network("web"), n.network("db")
	var sandboxes []*apiv1.Sandbox
	for _, network := range []string{"web", "web", "db"} {
		sandboxes = append(sandboxes, n.attach(network))
	}
	judges := func(ofWeb, ofDB int) func() bool {
		return func() bool { return len(n.judged(web)) == ofWeb && len(n.judged(db)) == ofDB }
	}
	await.True(t, "all is on the fast path", judges(2, 1))
	one := n.judged(web)[0]
	for rule, fast := range map[string]int{
		"iifname " + web.Link + " counter": 0,
		"oifname vlb-* tcp dport 25 drop":  -1,
		"iifname " + one + " drop":         1,
	} {
		n.Sh("nft 'add table bridge theirs; add chain bridge theirs f { type filter hook forward priority 0; }; " +
			"add rule bridge theirs f " + rule + "'")
		if fast < 0 {
			await.True(t, "nothing is on the fast path for "+rule, judges(0, 0))
		} else {
			await.True(t, "some is on the slow path for "+rule, judges(fast, 1))
		}
		n.converged()
		n.Sh("nft delete table bridge theirs")
		await.True(t, "all is on the fast path again", judges(2, 1))
	}
	for _, s := range sandboxes {
		n.detach(s)
	}
	n.idle()
	n.removeNetwork("web")
	n.removeNetwork("db")
}

// TestASandboxMadeWithoutEtcdIsReached has an endpoint that no other node has heard of be reached: its node's blocks
// lead there.
func TestASandboxMadeWithoutEtcdIsReached(t *testing.T) {
	w := newWorld(t)
	w.cfg.FastPath = "auto"
	w.join()
	far := w.second()
	made := w.shared("overlay")
	here, there := w.attach("overlay"), far.attach("overlay")
	far.echo(there)
	w.reach(here, addressOn(t, there, "overlay", true)).Close()
	neighbours := "ip neigh show nud permanent dev vlx-" + made.Id[:8]
	await.Value(t, "entries of endpoints elsewhere", "", func() string { return w.Sh(neighbours) })
	w.reach(here, addressOn(t, there, "overlay", true)).Close()

	if err := w.srv.Close(); err != nil {
		t.Fatal(err)
	}
	late := far.attach("overlay")
	far.echo(late)
	for _, is4 := range []bool{true, false} {
		c := w.reach(here, addressOn(t, late, "overlay", is4))
		talk(t, "without etcd", c)
		c.Close()
	}
	if w.Sh(neighbours) != "" {
		t.Error("the endpoint has an entry of its own")
	}
	w.serve()
	await.True(t, "the endpoint is known", func() bool { return len(w.list("/vethloom/endpoint/")) == 3 })
	far.detach(late)
	w.dismantleAll(far, here, there, []string{"overlay"})
}

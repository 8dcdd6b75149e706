package daemon_test

import (
	"fmt"
	"strings"
	"testing"

	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/internal/await"
)

// TestUplinkChangesAreFollowed gives the uplink another MTU and another address, as an operator or DHCP does, takes it
// down and up, and renames it for a moment: links and records follow, and the paths to another node are there
// afterwards.
func TestUplinkChangesAreFollowed(t *testing.T) {
	for _, fastpath := range []string{"off", "auto"} {
		t.Run("fastpath "+fastpath, func(t *testing.T) { uplinkChanges(t, fastpath) })
	}
}

func uplinkChanges(t *testing.T, fastpath string) {
	w, far, here, there := pairWith(t, fastpath)
	// reach has a connection on every network, and with a fast path waits until it takes that.
	reach := func() {
		t.Helper()
		for _, d := range clusterDrivers {
			for _, is4 := range []bool{true, false} {
				c := w.reach(here, addressOn(t, there, d, is4))
				talk(t, d, c)
				if fastpath == "auto" {
					await.True(t, "a connection by "+d+" is on the fast path", func() bool {
						before, beyond := w.fastPackets(d), far.fastPackets(d)
						talk(t, d, c)
						return w.fastPackets(d) > before && far.fastPackets(d) > beyond
					})
				}
				c.Close()
			}
		}
	}
	reach()
	w.Sh("ip link set up0 mtu 1400; nsenter --net=" + w.far + " ip link set up1 mtu 1400")
	w.recorded(`"mtu":1400`)
	await.True(t, "the tunnels' links are smaller", func() bool {
		mtus := w.Sh("ip -o link show type vxlan; ip -o link show type tun")
		return strings.Contains(mtus, "mtu 1350") && strings.Contains(mtus, "mtu 1330") &&
			strings.Contains(mtus, "mtu 1372") && !strings.Contains(mtus, "mtu 14")
	})
	reach()
	w.converged()
	w.Sh("ip addr add 192.0.2.3/24 dev up0; ip addr del 192.0.2.1/24 dev up0; ip addr add 192.0.2.3/24 dev up0 " +
		"2>/dev/null || true")
	w.recorded(`"addr4":"192.0.2.3"`)
	await.True(t, "the VXLAN devices send from the new address", func() bool {
		return strings.Count(w.Sh("ip -d link show type vxlan"), "local 192.0.2.3 ") == 2
	})
	await.True(t, "the other node has the new address", func() bool {
		return !strings.Contains(far.inside("bridge fdb show; ip route"), "192.0.2.1 ")
	})
	reach()
	w.converged()
	far.converged()
	w.Sh("ip link set up0 down; ip link set up0 up; ip addr replace 2001:db8::1/64 dev up0 nodad")
	reach()
	w.Sh("ip link set up0 name up9; ip link set up9 name up0")
	reach()
	w.converged()
	w.dismantle(far, here, there)
}

// TestUplinkChangesThatAPassSeesFirst changes the uplink right before netd looks at everything for another reason. What
// that look has learnt reaches the other nodes too.
func TestUplinkChangesThatAPassSeesFirst(t *testing.T) {
	w := newWorld(t)
	w.join()
	for mtu := 1400; mtu < 1410; mtu++ {
		w.Sh(fmt.Sprintf("ip link set up0 mtu %d", mtu))
		if _, err := w.client.System.Diff(t.Context(), &apiv1.DiffRequest{}); err != nil {
			t.Fatal(err)
		}
		w.recorded(fmt.Sprintf(`"mtu":%d,`, mtu))
	}
}

// recorded waits until a node's record in etcd has the words.
func (w *world) recorded(words string) {
	w.t.Helper()
	await.True(w.t, "the node's record says "+words, func() bool {
		for _, key := range w.list("/vethloom/node/") {
			if got, err := w.etcd.Get(w.t.Context(), key); err == nil && len(got.Kvs) == 1 &&
				strings.Contains(string(got.Kvs[0].Value), words) {
				return true
			}
		}
		return false
	})
}

// inside runs a script where the node's netd is.
func (n *node) inside(script string) string {
	n.t.Helper()
	return n.Sh(fmt.Sprintf("nsenter --net=%s sh -c '%s'", n.place, script))
}

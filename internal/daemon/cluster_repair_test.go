package daemon_test

import (
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/internal/await"
)

// repairs collects what netd says it has repaired, by event.
func (n *node) repairs(ctx context.Context) func() string {
	n.t.Helper()
	s, err := n.client.System.Events(ctx, &apiv1.EventsRequest{})
	if err != nil {
		n.t.Fatal(err)
	}
	var mu sync.Mutex
	var said strings.Builder
	go func() {
		for {
			e, err := s.Recv()
			if err != nil {
				return
			}
			if e.Type == "kernel" && e.Action == "repair" {
				mu.Lock()
				said.WriteString(e.Attributes["op"] + "\n")
				mu.Unlock()
			}
		}
	}()
	return func() string {
		mu.Lock()
		defer mu.Unlock()
		out := said.String()
		said.Reset()
		return out
	}
}

// TestStrangersChangesOfTunnelsAreRepaired undoes what other tools do to the paths to another node, and
// the network's other objects with it.
func TestStrangersChangesOfTunnelsAreRepaired(t *testing.T) {
	w, far, here, there := pair(t)
	for _, d := range clusterDrivers {
		for _, is4 := range []bool{true, false} {
			w.reach(here, addressOn(t, there, d, is4)).Close()
		}
	}
	before := w.tables()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	said := w.repairs(ctx)
	each := func(kind, script string) string {
		return "for l in $(ip -o link show type " + kind + " | awk -F': ' '{print $2}'); do " + script + "; done"
	}
	for _, c := range []struct{ name, script, word string }{
		{"deleted vxlan devices", each("vxlan", "ip link del $l"), "vxlan"},
		{"deleted tun devices", each("tun", "ip link del $l"), "tun"},
		{"vxlan devices down", each("vxlan", "ip link set $l down"), "link"},
		{"tun device down", each("tun", "ip link set $l down"), "link"},
		{"vxlan device off its bridge", each("vxlan", "ip link set $l nomaster 2>/dev/null || true"), "link"},
		{"flushed neighbours", "ip neigh flush nud permanent; ip -6 neigh flush nud permanent", "neigh"},
		{"flushed forwarding entries", "bridge fdb show | awk '/dev vlx.* dst/ {print $1, $3, $5}' | while read m d " +
			"i; do bridge fdb del $m dev $d dst $i; done", "fdb"},
		{"flushed routes", "ip route flush proto 117; ip -6 route flush proto 117", "route"},
		{"flushed ruleset", "nft flush ruleset", "chain"},
		{"addresses removed", each("vxlan", "ip addr flush dev $l") + ";" + each("tun", "ip addr flush dev $l") + ";" +
			each("bridge", "ip addr flush dev $l"), "addr"},
		{"another MTU", each("vxlan", "ip link set $l mtu 1300") + ";" + each("tun", "ip link set $l mtu 1300"),
			"link"},
		{"deleted bridges", each("bridge", "ip link del $l"), "bridge"},
		{"all of it", "nft flush ruleset;" + each("vxlan", "ip link del $l") + ";" + each("tun", "ip link del $l") +
			";" + each("bridge", "ip link del $l"), "vxlan"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.Sh(c.script)
			await.True(t, "the kernel is as recorded again", func() bool { return len(w.differences()) == 0 })
			if now := w.tables(); now != before {
				t.Errorf("the tables are not as before: %s",
					cmp.Diff(strings.Split(before, "\n"), strings.Split(now, "\n")))
			}
			for _, d := range clusterDrivers {
				for _, is4 := range []bool{true, false} {
					c := w.reach(here, addressOn(t, there, d, is4))
					talk(t, d, c)
					c.Close()
				}
			}
			var all string
			await.True(t, "an event tells of it", func() bool {
				all += said()
				return strings.Contains(all, c.word)
			})
		})
	}
	w.dismantle(far, here, there)
}

// tables are the kernel's of cluster networks, without what differs with each making of a link.
func (w *world) tables() string {
	w.t.Helper()
	return w.Sh(`
		ip -o link show type vxlan | sed 's/^[0-9]*: //; s/qdisc.*state [A-Z]*//' | sort
		ip -o link show type tun | sed 's/^[0-9]*: //; s/qdisc.*state [A-Z]*//' | sort
		ip route show table main proto 117 | sort; ip -6 route show table main proto 117 | sort
		ip neigh show nud permanent | sort; bridge fdb show | grep 'dev vlx.* dst' | sort`)
}

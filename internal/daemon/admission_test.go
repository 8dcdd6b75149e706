package daemon_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/internal/await"
	"google.golang.org/grpc/codes"
)

// Networks over what a host needs itself are refused where they are made and where they come by etcd. They change
// nothing on the host, say why, and come up once the reason is gone.
func TestNetworksInTheHostsWay(t *testing.T) {
	w := newWorld(t)
	w.join()
	w.put("/vethloom/node/"+ghostID, nodeRecord(ghostID, "ghost", "10.95.0.7"))
	w.Sh("ip route add default via 192.0.2.254; ip route add 10.94.0.0/16 via 192.0.2.253")
	routes := w.Sh("ip route show table all; ip -6 route show table all")
	record := func(id, subnet string) (key, value string) {
		return "/vethloom/network/" + strings.Repeat(id, 32), fmt.Sprintf(`{"id":%q,"name":"n%s","driver":"overlay",`+
			`"scope":"cluster","ipv4":true,"cluster":{"subnets":[%q],"vni":7%s,"port":4789},"pools":[{"subnet":%q,`+
			`"range":%q,"gateway":%q}]}`, strings.Repeat(id, 32), id, subnet, id, subnet, subnet,
			netip.MustParsePrefix(subnet).Addr().Next())
	}
	for id, c := range map[string]struct{ subnet, word string }{
		"11": {"8.0.0.0/8", "networks of the cluster may have private addresses"},
		"22": {"192.0.2.0/25", "192.0.2.0/24 on one of its own links"},
		"33": {"10.94.7.0/24", "has a route to 10.94.0.0/16"},
		"44": {"10.95.0.0/24", "node ghost is at 10.95.0.7"},
	} {
		_, err := w.client.Networks.Create(t.Context(), &apiv1.CreateNetworkRequest{Name: "mine", Driver: "overlay",
			Pools: []*apiv1.Pool{{Subnet: c.subnet}}})
		if code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), c.word) {
			t.Errorf("create with %s: %v, want %q", c.subnet, err, c.word)
		}
		key, value := record(id, c.subnet)
		w.put(key, value)
		w.complains(true, c.word)
	}
	if now := w.Sh("ip route show table all; ip -6 route show table all"); now != routes {
		t.Errorf("routes were\n%s\nand are\n%s", routes, now)
	}
	w.Sh("ip route del 10.94.0.0/16")
	w.complains(false, "10.94.0.0/16")
	if _, err := w.client.Networks.Inspect(t.Context(), &apiv1.InspectNetworkRequest{Network: "n33"}); err != nil {
		t.Errorf("the network whose reason is gone: %v", err)
	}
	w.drop("/vethloom/node/" + ghostID)
	w.complains(false, "node ghost")
	for _, id := range []string{"11", "22", "33", "44"} {
		key, _ := record(id, "10.1.0.0/24")
		w.drop(key)
	}
	w.complains(false, "network ")
	await.True(t, "the networks go", func() bool {
		resp, err := w.client.System.Diff(t.Context(), &apiv1.DiffRequest{})
		links := w.Sh("ip -o link") // the last one came up when its node had gone
		return err == nil && len(resp.GetOps()) == 0 && !strings.Contains(links, "vlb-33") &&
			!strings.Contains(links, "vlb-44")
	})
	w.converged()
	w.barren()
}

package doctor

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// healthyCluster is a cluster of three with nothing to complain about, and a host in it.
func healthyCluster() Facts {
	f := healthy()
	at := func(s string) []netip.Addr { return []netip.Addr{netip.MustParseAddr(s)} }
	f.Cluster = &Cluster{
		Store: "https://192.0.2.10:2379", Connected: true, Since: f.Now.Add(-time.Hour),
		Expires: f.Now.Add(50 * time.Minute), TTL: time.Hour,
		Link: "eth0", LinkMTU: 1500, LinkAddrs: at("192.0.2.1"),
		Nodes: []ClusterNode{
			{ID: "1", Name: "n1", Addrs: at("192.0.2.1"), Self: true, Alive: true},
			{ID: "2", Name: "n2", Addrs: at("192.0.2.2"), Alive: true},
			{ID: "3", Addrs: at("192.0.2.3")},
		},
		Paths: []PeerPath{{Node: "n2", Path: "underlay", Alive: true, Reachable: true},
			{Node: "n2", Path: "vxlan web", Alive: true, Reachable: true}},
		Networks: []ClusterNetwork{{Name: "web", Driver: "vxlan", MTU: 1450, Overhead: 50},
			{Name: "lab", Driver: "udp", MTU: 1472, Overhead: 28}},
	}
	return f
}

func TestHealthyClusterIsFine(t *testing.T) {
	all := Examine(healthyCluster())
	for _, f := range all {
		if f.Severity != OK || f.Remedy != "" {
			t.Errorf("%+v", f)
		}
	}
	for _, check := range []string{"cluster store", "cluster lease", "node identity", "node address", "peers"} {
		if !slices.ContainsFunc(all, func(f Finding) bool { return f.Check == check }) {
			t.Errorf("nothing is said about the %s", check)
		}
	}
}

func TestClusterFindings(t *testing.T) {
	for _, c := range []struct {
		name     string
		change   func(*Facts, *Cluster)
		check    string
		severity Severity
		found    string // part of it
		remedy   string // part of it
	}{
		{"records lost", func(_ *Facts, c *Cluster) { c.Loss = "etcd lost records" }, "cluster records lost", Warning,
			"etcd lost records", "let only nodes write"},
		{"store away", func(f *Facts, c *Cluster) {
			c.Connected, c.Error, c.Since = false, "connection refused", f.Now.Add(-90*time.Second)
		}, "cluster store", Warning, "https://192.0.2.10:2379 for 1m30s (connection refused): traffic",
			"etcdctl --endpoints https://192.0.2.10:2379"},
		{"own store away", func(_ *Facts, c *Cluster) { c.Connected, c.Store = false, "embedded" }, "cluster store",
			Warning, "no connection to embedded", "journalctl -u netd"},
		{"lease not renewed", func(f *Facts, c *Cluster) { c.Expires = f.Now.Add(10 * time.Minute) }, "cluster lease",
			Warning, "over in 10m0s", "timedatectl"},
		{"lease over", func(f *Facts, c *Cluster) { c.Expires = f.Now.Add(-time.Minute) }, "cluster lease", Error,
			"over since 1m0s", "restart netd"},
		{"copied disk", func(_ *Facts, c *Cluster) { c.Twin = "192.0.2.9" }, "node identity", Error,
			"192.0.2.9 writes this node's records", "node-id"},
		{"our address twice", func(_ *Facts, c *Cluster) { c.Nodes[2].Addrs = c.Nodes[0].Addrs }, "node identity",
			Error, "nodes n1, 3 announce the same address 192.0.2.1", "--node-ip"},
		{"their address twice", func(_ *Facts, c *Cluster) { c.Nodes[2].Addrs = c.Nodes[1].Addrs }, "node identity",
			Warning, "nodes n2, 3", "--node-ip"},
		{"no address", func(_ *Facts, c *Cluster) { c.Nodes[0].Addrs = nil }, "node address", Error, "announces none",
			"--iface"},
		{"address has gone", func(_ *Facts, c *Cluster) { c.LinkAddrs[0] = netip.MustParseAddr("192.0.2.8") },
			"node address", Error, "192.0.2.1, which link eth0 does not have", "ip addr show eth0"},
		{"peer unreachable", func(_ *Facts, c *Cluster) {
			c.Paths[1].Reachable, c.Paths[1].Cause, c.Paths[1].Remedy = false, "UDP port 8472 is blocked", "allow it"
		}, "peer n2", Error, "vxlan web: UDP port 8472 is blocked", "allow it"},
		{"peer away", func(_ *Facts, c *Cluster) {
			c.Paths = []PeerPath{{Node: "3", Path: "underlay", Cause: "3 is away", Remedy: "start it"},
				{Node: "3", Path: "vxlan web", Cause: "3 is away", Remedy: "start it"}}
		}, "peer 3", Warning, "underlay: 3 is away", "start it"},
		{"malformed", func(_ *Facts, c *Cluster) { c.Malformed = []string{"a", "b", "c", "d"} }, "cluster records",
			Warning, "4 cannot be used and are left out: a; b; c; …", "net lease ls"},
		{"MTU", func(_ *Facts, c *Cluster) { c.Networks[0].MTU = 1500 }, "network MTU", Warning,
			"1550 in its tunnel, and eth0 carries 1500", "-o mtu=1450"},
		{"gone", func(_ *Facts, c *Cluster) { c.Networks[0].Gone = true }, "network web", Warning,
			"removed from the cluster", "net network rm web"},
	} {
		t.Run(c.name, func(t *testing.T) {
			facts := healthyCluster()
			c.change(&facts, facts.Cluster)
			bad := slices.DeleteFunc(Examine(facts), func(f Finding) bool { return f.Severity == OK })
			if len(bad) != 1 {
				t.Fatalf("want one finding, got %+v", bad)
			}
			if got := bad[0]; got.Check != c.check || got.Severity != c.severity ||
				!strings.Contains(got.Found, c.found) || !strings.Contains(got.Remedy, c.remedy) {
				t.Errorf("got %+v", got)
			}
		})
	}
}

func TestMissingFeatureOfANetworkInUse(t *testing.T) {
	f := healthyCluster()
	f.Features = append(f.Features, Feature{"vxlan", errors.New("operation not supported")},
		Feature{"tun", errors.New("no such device")})
	all := Examine(f)
	for i, want := range []string{"network web", "network lab"} {
		if all[i].Check != want || all[i].Severity != Error || !strings.HasPrefix(all[i].Remedy, "modprobe ") {
			t.Errorf("got %+v, want an error about %s", all[i], want)
		}
	}
}

func TestManyPeersAreSummedUp(t *testing.T) {
	f := healthyCluster()
	for i := range 100 {
		f.Cluster.Paths = append(f.Cluster.Paths, PeerPath{Node: fmt.Sprintf("m%d", i), Path: "underlay", Alive: true,
			Cause: "does not answer", Remedy: "see why"})
	}
	bad := slices.DeleteFunc(Examine(f), func(f Finding) bool { return f.Severity == OK })
	if len(bad) != shownPeers+1 || bad[shownPeers].Found != "90 more paths are not well" {
		t.Errorf("got %d findings, the last %+v", len(bad), bad[len(bad)-1])
	}
}

package cluster_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/internal/cluster/clustertest"
)

// hostile is an endpoint that somebody has written.
func hostile(network, id, addr, node string) (key, value string) {
	return "endpoint/" + network + "." + id, fmt.Sprintf(
		`{"id":%q,"network":%q,"node":"ghost","mac":[2,0,0,0,0,9],"addrs":[%q],"addr4":%q}`, id, network, addr, node)
}

// Whoever can write to etcd gives a peer an address that no other node can have, or one that is this node's to give: no
// path is made, it is told why, and it is over once the record is.
func TestPeersThatLeadAstray(t *testing.T) {
	ctx, _, one, two := pair(t, quick())
	web := one.create(ctx, "web", "overlay", "10.1.0.0/16")
	lab := one.create(ctx, "lab", "vxlan", "10.2.0.0/16")
	two.adopted(ctx, "web")
	two.adopted(ctx, "lab")
	_, mine := one.mustAttach(ctx, "web")
	taken := mine.Addrs[0].Addr()
	await.True(t, "it has a lease", func() bool { return one.lease("lab").Subnet.IsValid() })
	free := "10.1.255.9" // of no block
	if netip.MustParsePrefix("10.1.255.0/26").Contains(taken) {
		free = "10.1.250.9"
	}
	for name, c := range map[string]struct{ addr, node, want string }{
		"loopback":           {free, "127.0.0.1", "no node can have"},
		"multicast":          {free, "224.0.0.1", "no node can have"},
		"broadcast":          {free, "255.255.255.255", "no node can have"},
		"this network":       {free, "10.1.7.7", "inside network web"},
		"another network":    {free, "10.2.7.7", "inside network lab"},
		"a container's here": {taken.String(), "10.200.0.1", "which this node gives out"},
		"another of a block": {taken.Next().String(), "10.200.0.1", "which this node gives out"},
	} {
		t.Run(name, func(t *testing.T) {
			key, value := hostile(web.ID, strings.Repeat("e", 64), c.addr, c.node)
			one.put(ctx, key, value)
			one.problem(c.want)
			if one.peers(ctx)[c.addr+"/32"] != "" {
				t.Error("there is a path")
			}
			if _, err := one.Client.Delete(ctx, clustertest.Prefix+"/"+key); err != nil {
				t.Fatal(err)
			}
			await.True(t, "it is over", func() bool { return len(one.Member.Problems()) == 0 })
		})
	}
	key := "flannel/lab/subnets/10.2.250.0-24"
	for _, node := range []string{"240.0.0.1", "0.1.2.3", "10.2.3.4", "127.0.0.9"} {
		one.put(ctx, key, fmt.Sprintf(
			`{"PublicIP":%q,"BackendType":"vxlan","BackendData":{"VNI":%d,"VtepMAC":"02:00:00:00:00:09"}}`, node,
			lab.Cluster.VNI))
		one.problem(node)
		if one.peers(ctx)["10.2.250.0/24"] != "" {
			t.Errorf("%s: there is a path", node)
		}
	}
	one.put(ctx, key, fmt.Sprintf(
		`{"PublicIP":"10.200.0.1","BackendType":"vxlan","BackendData":{"VNI":%d,"VtepMAC":"02:00:00:00:00:09"}}`,
		lab.Cluster.VNI))
	await.True(t, "one that can be is a peer", func() bool { return one.peers(ctx)["10.2.250.0/24"] == "10.200.0.1" })
}

// A record whose ID begins as another's takes its place neither while it is there nor when it goes.
func TestPeersWithTheSameShortID(t *testing.T) {
	ctx, _, one, two := pair(t, quick())
	web := one.create(ctx, "web", "overlay", "10.1.0.0/16")
	two.adopted(ctx, "web")
	_, e := two.mustAttach(ctx, "web")
	addr := e.Addrs[0].Addr().String() + "/32"
	await.True(t, "its endpoint is known", func() bool { return one.peers(ctx)[addr] != "" })
	key, value := hostile(web.ID, e.ID[:12]+strings.Repeat("0", 52), "10.1.255.9", "10.200.0.1")
	for range 2 {
		one.put(ctx, key, value)
		one.put(ctx, "node/mark", `{"id":"mark","name":"mark"}`)
		await.True(t, "the record has come", func() bool { return one.node("mark") != nil })
		if p := one.peers(ctx); p[addr] == "" || p["10.1.255.9/32"] != "" {
			t.Errorf("the peers are %v", p)
		}
		for _, k := range []string{key, "node/mark"} {
			if _, err := one.Client.Delete(ctx, clustertest.Prefix+"/"+k); err != nil {
				t.Fatal(err)
			}
		}
		await.True(t, "the record has gone", func() bool { return one.node("mark") == nil })
	}
	_, more := two.mustAttach(ctx, "web") // after it, all that came before has been done
	await.True(t, "another is known", func() bool { return one.peers(ctx)[more.Addrs[0].Addr().String()+"/32"] != "" })
	if one.peers(ctx)[addr] == "" {
		t.Error("the path is gone")
	}
}

// A network whose ID begins as another's is refused, and takes nothing from the one that was there.
func TestNetworksWithTheSameShortID(t *testing.T) {
	ctx, _, one, two := pair(t, quick())
	lab := one.create(ctx, "lab", "vxlan", "10.2.0.0/16")
	two.adopted(ctx, "lab")
	await.True(t, "both have leases", func() bool {
		return one.lease("lab").Subnet.IsValid() && two.lease("lab").Subnet.IsValid()
	})
	theirs := two.lease("lab").Subnet.String()
	await.True(t, "the path is there", func() bool { return one.peers(ctx)[theirs] != "" })
	id := lab.ID[:12] + strings.Repeat("0", 52)
	good := one.get(ctx, "network/"+lab.ID)
	dir := clustertest.Prefix + "/flannel/"
	one.put(ctx, "flannel/evil/config", one.get(ctx, "flannel/lab/config"))
	key := "network/" + id
	one.put(ctx, key, strings.NewReplacer(lab.ID, id, `"lab"`, `"evil"`, dir+"lab", dir+"evil", "10.2.", "10.3.").
		Replace(good))
	one.problem("evil", "begins alike")
	for key, value := range map[string]string{"flannel/lab/subnets/10.2.251.0-24": "10.200.0.1"} {
		one.put(ctx, key, fmt.Sprintf(
			`{"PublicIP":%q,"BackendType":"vxlan","BackendData":{"VNI":%d,"VtepMAC":"02:00:00:00:00:09"}}`, value,
			lab.Cluster.VNI))
	}
	await.True(t, "a further peer comes", func() bool { return one.peers(ctx)["10.2.251.0/24"] != "" })
	if one.peers(ctx)[theirs] == "" {
		t.Error("the path is gone")
	}
	if _, err := one.Client.Delete(ctx, clustertest.Prefix+"/"+key); err != nil {
		t.Fatal(err)
	}
	await.True(t, "it is over", func() bool { return len(one.Member.Problems()) == 0 })
	if _, err := one.Controller.Network(ctx, "lab"); err != nil || one.peers(ctx)[theirs] == "" {
		t.Errorf("the network: %v, peers %v", err, one.peers(ctx))
	}
}

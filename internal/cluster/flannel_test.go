package cluster_test

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/internal/cluster"
)

const (
	flannelDir    = "/coreos.com/network"
	flannelConfig = `{"Network":"10.3.0.0/16","Backend":{"Type":"vxlan","VNI":9,"Port":8555}}`
	// What flanneld writes for itself: it knows nothing of nodes.
	flannelLease = `{"PublicIP":"10.255.0.7","PublicIPv6":null,"BackendType":"vxlan",` +
		`"BackendData":{"VNI":9,"VtepMAC":"02:aa:bb:cc:dd:ee"}}`
)

// join asks for a network that is a directory of flannel's.
func (h *host) join(name string, pools ...cnm.PoolRequest) (cnm.Network, error) {
	return h.Controller.CreateNetwork(h.t.Context(), cnm.NetworkRequest{Name: name, Driver: "vxlan", Pools: pools,
		Options: map[string]string{"flannel.prefix": flannelDir}})
}

// putRaw writes outside of the nodes' own prefix.
func (h *host) putRaw(key, value string) {
	h.t.Helper()
	if _, err := h.Client.Put(h.t.Context(), key, value); err != nil {
		h.t.Fatal(err)
	}
}

// A network can be a directory that flanneld has made: it has that one's subnet and identifiers, flanneld's lease is a
// peer, and the node's own lease is one that flanneld can read.
func TestANetworkOfFlannels(t *testing.T) {
	ctx, _, one, two := pair(t, quick())
	one.putRaw(flannelDir+"/config", flannelConfig)
	one.putRaw(flannelDir+"/subnets/10.3.77.0-24", flannelLease)
	n, err := one.join("old")
	if err != nil {
		t.Fatal(err)
	}
	if n.Cluster.VNI != 9 || n.Cluster.Port != 8555 || n.Cluster.Leases != flannelDir ||
		!slices.Equal(n.Cluster.Subnets, []netip.Prefix{netip.MustParsePrefix("10.3.0.0/16")}) {
		t.Errorf("joined as %+v", n.Cluster)
	}
	two.adopted(ctx, "old")
	for i, h := range []*host{one, two} {
		await.True(t, "flanneld's subnet is a peer",
			func() bool { return h.peers(ctx)["10.3.77.0/24"] == "10.255.0.7" })
		await.True(t, "the node has a lease", func() bool { return h.lease("old").Subnet.IsValid() })
		if s := h.lease("old").Subnet; s.Overlaps(netip.MustParsePrefix("10.3.77.0/24")) {
			t.Errorf("node %d took flanneld's subnet: %s", i, s)
		}
	}
	r, err := one.Client.Get(ctx, flannelDir+"/subnets/"+one.lease("old").Key)
	if err != nil || len(r.Kvs) != 1 || !strings.Contains(string(r.Kvs[0].Value), `"BackendType":"vxlan"`) {
		t.Errorf("the node's lease: %v, %v", r.Kvs, err)
	}
	if _, err := two.Controller.DeleteNetwork(ctx, "old"); err != nil {
		t.Fatal(err)
	}
	await.True(t, "the network is gone here too", func() bool {
		_, err := one.Controller.Network(ctx, "old")
		return errors.Is(err, cnm.ErrNotFound)
	})
	for key, want := range map[string]string{"/config": flannelConfig, "/subnets/10.3.77.0-24": flannelLease} {
		r, err := one.Client.Get(ctx, flannelDir+key)
		if err != nil || len(r.Kvs) != 1 || string(r.Kvs[0].Value) != want {
			t.Errorf("%s was flanneld's and is %v, %v", key, r.Kvs, err)
		}
	}
}

func TestADirectoryThatIsNoNetwork(t *testing.T) {
	_, _, one, _ := pair(t, quick())
	refused := func(what string, kind error, words ...string) {
		t.Helper()
		_, err := one.join("old")
		if err == nil || kind != nil && !errors.Is(err, kind) {
			t.Errorf("%s: %v", what, err)
			return
		}
		for _, w := range words {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %q does not say %q", what, err, w)
			}
		}
	}
	refused("nothing there", cnm.ErrNotFound, flannelDir, "etcdctl get")
	for what, config := range map[string]string{
		"garbage":         "\x00",
		"no network":      `{"Backend":{"Type":"vxlan"}}`,
		"another backend": `{"Network":"10.3.0.0/16","Backend":{"Type":"wireguard"}}`,
	} {
		one.putRaw(flannelDir+"/config", config)
		refused(what, nil, flannelDir)
	}
	one.putRaw(flannelDir+"/config", flannelConfig)
	_, err := one.join("old", cnm.PoolRequest{Subnet: netip.MustParsePrefix("10.4.0.0/16")})
	if !errors.Is(err, cnm.ErrInvalid) || !strings.Contains(err.Error(), "leave it out") {
		t.Errorf("a subnet beside the directory's: %v", err)
	}
	if _, err := one.join("old"); err != nil {
		t.Errorf("once it is right: %v", err)
	}
	refused("a second network of the directory", cnm.ErrExists, "old")
}

// A lease that cannot be used is told of, with its key, and is no peer.
func TestLeasesThatCannotBeUsed(t *testing.T) {
	ctx, _, one, _ := pair(t, quick())
	one.putRaw(flannelDir+"/config", flannelConfig)
	if _, err := one.join("old"); err != nil {
		t.Fatal(err)
	}
	for key, value := range map[string]string{
		"10.3.80.0-24":  "\x00garbage",
		"10.99.0.0-24":  flannelLease, // outside of the network
		"10.3.82.0-24":  strings.Replace(flannelLease, "02:aa:bb:cc:dd:ee", "not a MAC", 1),
		"not-a-subnet":  flannelLease,
		"10.3.83.0-240": flannelLease,
	} {
		one.putRaw(flannelDir+"/subnets/"+key, value)
		await.True(t, "the lease "+key+" is told of", func() bool {
			told := slices.ContainsFunc(one.Member.Problems(), func(p string) bool { return strings.Contains(p, key) })
			return told || slices.ContainsFunc(one.Member.Leases(), func(l cluster.LeaseView) bool {
				return l.Key == key && l.Problem != ""
			})
		})
	}
	one.putRaw(flannelDir+"/subnets/10.3.90.0-24", flannelLease)
	await.True(t, "a good one is a peer", func() bool { return one.peers(ctx)["10.3.90.0/24"] != "" })
	for _, prefix := range []string{"10.3.80.0/24", "10.99.0.0/24", "10.3.82.0/24"} {
		if to := one.peers(ctx)[prefix]; to != "" {
			t.Errorf("%s leads to %s", prefix, to)
		}
	}
}

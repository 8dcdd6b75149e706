package daemon_test

import (
	"fmt"
	"strings"
	"testing"

	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/internal/await"
)

// A node that exists in etcd only.
const (
	ghostID = "aaaaaaaa-0000-4000-8000-000000000001"
	ghostEP = "eeee000000000000000000000000000000000000000000000000000000000001"
)

func (w *world) status() *apiv1.StatusResponse {
	w.t.Helper()
	st, err := w.client.System.Status(w.t.Context(), &apiv1.StatusRequest{})
	if err != nil {
		w.t.Fatal(err)
	}
	return st
}

// complains waits until the status names each of the words, or none of them.
func (w *world) complains(yes bool, words ...string) {
	w.t.Helper()
	var all string
	defer func() {
		if w.t.Failed() {
			w.t.Logf("problems:\n%s", all)
		}
	}()
	await.True(w.t, fmt.Sprintf("status says %q: %v", words, yes), func() bool {
		all = strings.Join(w.status().Cluster.Problems, "\n")
		for _, word := range words {
			if strings.Contains(all, word) != yes {
				return false
			}
		}
		return true
	})
}

func nodeRecord(id, name, addr string) string {
	return fmt.Sprintf(`{"id":%q,"name":%q,"addr4":%q,"mtu":1500,"version":"x","drivers":["vxlan"],`+
		`"boot":"b","started":"2026-01-01T00:00:00Z"}`, id, name, addr)
}

func endpoint(network, mac, addr, at string) string {
	return fmt.Sprintf(`{"id":%q,"network":%q,"node":%q,"mac":%s,"addrs":[%q],"addr4":%q}`, ghostEP, network, ghostID,
		mac, addr, at)
}

const ghostMAC = "[2,0,0,0,0,9]"

// TestGarbageInEtcd puts records into etcd that make no sense. Each is ignored and counted in the status; what
// works goes on, and once it is corrected or removed nothing more is said.
func TestGarbageInEtcd(t *testing.T) {
	w := newWorld(t)
	w.join()
	over := w.shared("overlay", pool("10.91.0.0/16"))
	vx := w.shared("vxlan", pool("10.92.0.0/16"))
	s := w.attach("overlay", "vxlan")
	self := strings.TrimPrefix(w.list("/vethloom/node/")[0], "/vethloom/node/")
	id := strings.Repeat("12", 32)
	leases := "/vethloom/flannel/vxlan/subnets/"
	block := "/vethloom/block/" + over.Id + "."
	var keys, words []string
	for _, c := range []struct{ key, value, word string }{
		{"/vethloom/network/" + id, "garbage", "network/" + id},
		{"/vethloom/network/" + strings.Repeat("34", 32), `{"id":"` + strings.Repeat("34", 32) +
			`","name":"x","driver":"overlay","scope":"cluster"}`, "no field cluster"},
		{"/vethloom/network/" + strings.Repeat("56", 32), `{"id":"` + strings.Repeat("56", 32) + `","name":"x",` +
			`"driver":"overlay","scope":"cluster","cluster":{"subnets":["10.99.0.0/16"]},` +
			`"pools":[{"subnet":"10.99.0.0/16"}]}`, "x"},
		{"/vethloom/network/" + strings.Repeat("78", 32), `{"id":"` + strings.Repeat("78", 32) +
			`","name":"y","driver":"carrier-pigeon","scope":"cluster","cluster":{}}`, "carrier-pigeon"},
		{"/vethloom/network/" + strings.Repeat("9a", 32), `{"id":"` + strings.Repeat("9a", 32) +
			`","name":"a/b","driver":"vxlan","scope":"cluster","cluster":{"leases":"/nowhere"}}`, "a/b"},
		// A file that every node would write as root.
		{"/vethloom/network/" + strings.Repeat("bc", 32), `{"id":"` + strings.Repeat("bc", 32) + `","name":"z",` +
			`"driver":"vxlan","scope":"cluster","cluster":{"leases":"/vethloom/flannel/z"},` +
			`"options":{"subnet-env":"/etc/passwd"}}`, `unknown option "subnet-env"`},
		{"/vethloom/node/" + ghostID, "[]", "node/" + ghostID},
		{"/vethloom/node/bbbb", nodeRecord("cccc", "x", "192.0.2.9"), `its id is "cccc"`},
		{"/vethloom/alive/" + ghostID, "{", "alive/" + ghostID},
		{"/vethloom/endpoint/" + over.Id + "." + ghostEP, "null garbage", "endpoint/" + over.Id},
		{"/vethloom/endpoint/nothing", "{}", "endpoint/nothing"},
		{"/vethloom/endpoint/" + over.Id + ".eeee", endpoint(over.Id, ghostMAC, "10.91.200.1", "192.0.2.9"), ".eeee"},
		{block + "10.91.77.0-26", "7", "10.91.77.0-26"},
		{block + "10.91.77.99-26", `{"node":"` + ghostID + `"}`, "did you mean 10.91.77.64/26"},
		{block + "nonsense", `{"node":"` + ghostID + `"}`, "nonsense"},
		{leases + "10.92.77.0-24", "garbage", "10.92.77.0-24"},
		{leases + "10.93.77.0-24",
			`{"PublicIP":"192.0.2.9","BackendType":"vxlan","BackendData":{"VtepMAC":"02:00:00:00:00:09"}}`,
			"10.93.77.0-24"},
		{leases + "10.92.78.0-24", `{"PublicIP":"192.0.2.9","BackendType":"vxlan","BackendData":{"VtepMAC":"pigeon"}}`,
			"10.92.78.0-24"},
		{leases + "whatever", `{}`, "whatever"},
		{"/vethloom/flannel/vxlan/config", `{"Network":"10.92.0.0/16","Backend":{"Type":"vxlan","VNI":-1}}`,
			"/vethloom/flannel/vxlan"},
	} {
		keys, words = append(keys, c.key), append(words, c.word)
		if c.word == "/vethloom/flannel/vxlan" {
			keys = keys[:len(keys)-1]
		}
		got, err := w.etcd.Get(t.Context(), c.key)
		if err != nil {
			t.Fatal(err)
		}
		if len(got.Kvs) > 0 {
			defer w.put(c.key, string(got.Kvs[0].Value))
		}
		w.put(c.key, c.value)
	}
	w.complains(true, words...)
	// This node's own records it writes again.
	for _, key := range append(w.list("/vethloom/endpoint/"+over.Id+"."+endpointID(t, s, "overlay")),
		"/vethloom/node/"+self, "/vethloom/alive/"+self) {
		w.put(key, "garbage")
		await.True(t, key+" is written again", func() bool {
			got, err := w.etcd.Get(t.Context(), key)
			return err == nil && len(got.Kvs) == 1 && strings.HasPrefix(string(got.Kvs[0].Value), "{")
		})
	}
	w.converged()
	w.detach(w.attach("overlay", "vxlan"))
	w.ping(s, "overlay")
	w.ping(s, "vxlan")
	// A network's own record too: it is not torn down.
	got, err := w.etcd.Get(t.Context(), "/vethloom/network/"+vx.Id)
	if err != nil {
		t.Fatal(err)
	}
	w.put("/vethloom/network/"+vx.Id, "garbage")
	w.complains(true, "network/"+vx.Id)
	w.restart()
	w.complains(true, "network/"+vx.Id, "carrier-pigeon", "no field cluster")
	w.converged()
	w.ping(s, "vxlan")
	w.put("/vethloom/network/"+vx.Id, string(got.Kvs[0].Value))
	w.put("/vethloom/flannel/vxlan/config", `{"Network":"10.92.0.0/16","Backend":{"Type":"vxlan","VNI":1}}`)
	w.drop(keys...)
	w.complains(false, "in etcd", "network ", "lease", "config")
	w.joined()
	w.detach(s)
	w.removeNetwork("overlay")
	w.removeNetwork("vxlan")
	w.converged()
	w.barren()
}

func pool(subnet string) func(*apiv1.CreateNetworkRequest) {
	return func(r *apiv1.CreateNetworkRequest) {
		r.Ipv6 = false
		r.Pools = []*apiv1.Pool{{Subnet: subnet}}
	}
}

func endpointID(t *testing.T, s *apiv1.Sandbox, network string) string {
	t.Helper()
	for _, e := range s.Endpoints {
		if e.Network == network {
			return e.Id
		}
	}
	t.Fatalf("not on %s", network)
	return ""
}

// ping reaches the gateway of a network from a sandbox.
func (n *node) ping(s *apiv1.Sandbox, network string) {
	n.t.Helper()
	for _, e := range s.Endpoints {
		if e.Network == network {
			for _, g := range e.Gateways {
				n.Run("nsenter", "--net="+s.NetnsPath, "ping", "-c1", "-W30", "-q", g)
			}
		}
	}
}

// TestPeersFromRecords has another node in etcd only: the paths to it appear, follow what its records say, and go;
// one that has this node's address gets none.
func TestPeersFromRecords(t *testing.T) {
	w := newWorld(t)
	w.join()
	over := w.shared("overlay", pool("10.91.0.0/16"))
	w.shared("vxlan", pool("10.92.0.0/16"))
	w.shared("host-gw", pool("10.93.0.0/16"))
	w.shared("udp", pool("10.94.0.0/16"))
	ep := "/vethloom/endpoint/" + over.Id + "." + ghostEP
	leases := map[string]string{
		"/vethloom/flannel/vxlan/subnets/10.92.77.0-24": `{"PublicIP":%q,"BackendType":"vxlan",` +
			`"BackendData":{"VtepMAC":"02:00:00:00:00:09"},"NodeID":"` + ghostID + `"}`,
		"/vethloom/flannel/host-gw/subnets/10.93.77.0-24": `{"PublicIP":%q,"BackendType":"host-gw","NodeID":"` +
			ghostID + `"}`,
		"/vethloom/flannel/udp/subnets/10.94.77.0-24": `{"PublicIP":%q,"BackendType":"udp","NodeID":"` + ghostID +
			`"}`,
	}
	w.put("/vethloom/node/"+ghostID, nodeRecord(ghostID, "ghost", "192.0.2.9"))
	w.put("/vethloom/alive/"+ghostID, `{"instance":"i","boot":"b","addr":"192.0.2.9"}`)
	at := func(addr string) {
		w.put(ep, endpoint(over.Id, ghostMAC, "10.91.200.1", addr))
		for k, v := range leases {
			w.put(k, fmt.Sprintf(v, addr))
		}
	}
	paths := func() string {
		return w.Sh(`bridge fdb show | grep 'dev vlx.* dst' | sed 's/.*dst //; s/ .*//' | sort -u
			ip route show proto 117 | grep '77.0/24 via 192' | sed 's/.*via //; s/ .*//' || true`)
	}
	for _, addr := range []string{"192.0.2.9", "192.0.2.10"} {
		at(addr)
		await.True(t, "the paths lead to "+addr, func() bool { return paths() == addr+"\n"+addr+"\n" })
		w.converged()
	}
	at("192.0.2.1")
	await.True(t, "nothing leads here", func() bool { return paths() == "" })
	w.converged()
	var said []string
	defer func() {
		if t.Failed() {
			t.Logf("leases: %q", said[max(0, len(said)-8):])
		}
	}()
	await.True(t, "the leases are said not to be used", func() bool {
		l, err := w.client.Leases.List(t.Context(), &apiv1.ListLeasesRequest{})
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, l := range l.Leases {
			if l.Problem != "" {
				n++
			}
		}
		if n != 3 {
			for _, l := range l.Leases {
				said = append(said, l.Network+" "+l.Problem)
			}
		}
		return n == 3
	})
	w.put("/vethloom/node/"+ghostID, nodeRecord(ghostID, "ghost", "192.0.2.1"))
	w.complains(true, "ghost", "has this node's address", "--node-ip")
	w.put("/vethloom/node/"+ghostID, nodeRecord(ghostID, "here", "192.0.2.9"))
	w.complains(true, "has this node's name", "--node-name")
	w.put("/vethloom/node/"+ghostID, nodeRecord(ghostID, "ghost", "192.0.2.9"))
	at("192.0.2.9")
	await.True(t, "the paths lead there again", func() bool { return paths() == "192.0.2.9\n192.0.2.9\n" })
	w.complains(false, "ghost")
	w.restart()
	w.converged()
	if got := paths(); got != "192.0.2.9\n192.0.2.9\n" {
		t.Errorf("after a restart the paths lead to %q", got)
	}
	w.joined()
	_, err := w.client.Networks.Remove(t.Context(), &apiv1.RemoveNetworkRequest{Network: "overlay"})
	if err == nil || !strings.Contains(err.Error(), "1 on node ghost") {
		t.Errorf("removing a network that another node is on: %v", err)
	}
	w.drop(ep)
	for _, d := range clusterDrivers {
		w.removeNetwork(d)
	}
	w.drop("/vethloom/node/"+ghostID, "/vethloom/alive/"+ghostID)
	w.converged()
	w.barren()
}

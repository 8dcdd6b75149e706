package cluster

import (
	"log/slog"
	"testing"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/etcd"
	"github.com/vethloom/vethloom/internal/store/mem"
	"github.com/vethloom/vethloom/subnet"
)

func newMember(t *testing.T) *Member {
	t.Helper()
	m, err := New(t.Context(), Config{Root: t.TempDir(), Local: mem.New(), Prefix: "/p",
		Log: slog.New(slog.DiscardHandler), Host: func() cnm.Host { return cnm.Host{} }})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.follower.update(etcd.Update{Revision: 10, Cluster: 1, Whole: true}); err != nil {
		t.Fatal(err)
	}
	m.dirty.take()
	return m
}

func item(key, value string, revision int64) *etcd.Item {
	return &etcd.Item{Key: key, Value: []byte(value), Create: revision, Mod: revision, Lease: 7}
}

// What a node has written counts from then on, as long as the watch has not come that far, and then what the watch
// says.
func TestOwnWritesCountBeforeTheWatchBringsThem(t *testing.T) {
	own := func(m *Member) *etcd.Item {
		return item("/p/node/"+m.id, `{"id":"`+m.id+`","name":"n","mtu":1500,"version":"",`+
			`"drivers":["x"],"boot":"b","started":"0001-01-01T00:00:00Z"}`, 20)
	}
	other := item("/p/alive/other", `{"instance":"i","boot":"b","addr":"10.0.0.1"}`, 15)
	for _, c := range []struct {
		name   string
		update func(i *etcd.Item) etcd.Update
		mod    int64 // of the node's record afterwards; 0: there is none
		self   bool  // the node looks at its own records
	}{
		{"the watch has not come that far", func(*etcd.Item) etcd.Update {
			return etcd.Update{Revision: 15, Cluster: 1, Changes: []etcd.Change{{New: other, Revision: 15}}}
		}, 20, false},
		{"the watch brings it", func(i *etcd.Item) etcd.Update {
			return etcd.Update{Revision: 20, Cluster: 1, Changes: []etcd.Change{{New: i, Revision: 20}}}
		}, 20, true},
		{"the watch brings a later one", func(i *etcd.Item) etcd.Update {
			return etcd.Update{Revision: 30, Cluster: 1,
				Changes: []etcd.Change{{New: item(i.Key, string(i.Value), 30), Revision: 30}}}
		}, 30, true},
		{"it went within one update", func(*etcd.Item) etcd.Update { return etcd.Update{Revision: 30, Cluster: 1} }, 0,
			true},
		{"a list does not have it",
			func(*etcd.Item) etcd.Update { return etcd.Update{Revision: 5, Cluster: 2, Whole: true} }, 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMember(t)
			i := own(m)
			m.wrote(i)
			if got := m.rep.nodes[m.id]; got.mod != 20 || got.lease != 7 || got.v.Name != "n" {
				t.Fatalf("just written: %+v", got)
			}
			m.dirty.take()
			if err := m.follower.update(c.update(i)); err != nil {
				t.Fatal(err)
			}
			if got := m.rep.nodes[m.id]; got.mod != c.mod {
				t.Errorf("the record is of revision %d, want %d", got.mod, c.mod)
			}
			if m.dirty.self != c.self {
				t.Errorf("dirty: %v, want %v", m.dirty.self, c.self)
			}
			if left := len(m.ahead); left != 0 && c.self {
				t.Errorf("%d keys are still ahead", left)
			}
		})
	}
}

func TestWhatTheWatchHasBroughtIsNotAhead(t *testing.T) {
	m := newMember(t)
	m.wrote(item("/p/node/"+m.id, "{}", 10))
	if len(m.ahead) != 0 || len(m.rep.nodes) != 0 {
		t.Errorf("a write of revision 10 counts at revision 10: %v", m.ahead)
	}
}

// Leases are taken from what the member follows anyway, whether the network or they are known first.
func TestLeasesAreFed(t *testing.T) {
	m := newMember(t)
	lease := func(third string, revision int64) etcd.Change {
		return etcd.Change{New: item("/p/flannel/net/subnets/10.0."+third+".0-24",
			`{"PublicIP":"192.168.0.`+third+`","PublicIPv6":null,"BackendType":"vxlan"}`, revision), Revision: revision}
	}
	step := func(u etcd.Update) {
		t.Helper()
		u.Cluster = 1
		if err := m.follower.update(u); err != nil {
			t.Fatal(err)
		}
	}
	step(etcd.Update{Revision: 12, Changes: []etcd.Change{
		{New: item("/p/flannel/net/config", `{"Network":"10.0.0.0/16","Backend":{"Type":"vxlan"}}`, 11), Revision: 11},
		lease("1", 12),
	}})
	n := cnm.Network{ID: "0123456789abcdef", Cluster: &cnm.ClusterNetwork{Leases: "/p/flannel/net"}}
	dir, err := m.follower.lookInto(nil, n)
	if err != nil {
		t.Fatal(err)
	}
	has := func(keys ...string) {
		t.Helper()
		if len(dir.leases) != len(keys) || !dir.synced || dir.err != nil {
			t.Fatalf("leases %v (synced %v, config %v), want %v", dir.leases, dir.synced, dir.err, keys)
		}
		for _, k := range keys {
			if dir.leases[k] == nil {
				t.Fatalf("leases %v, want %v", dir.leases, keys)
			}
			if !m.dirty.peers[cnm.PeerID(n.ID, k)] {
				t.Errorf("nobody looks at %s", k)
			}
		}
	}
	has("10.0.1.0-24")
	step(etcd.Update{Revision: 13, Changes: []etcd.Change{lease("2", 13)}})
	has("10.0.1.0-24", "10.0.2.0-24")
	gone := lease("1", 12)
	step(etcd.Update{Revision: 14, Changes: []etcd.Change{{Old: gone.New, Revision: 14}}})
	has("10.0.2.0-24")
	m.follower.unfollow(n.ID)
	if dir, err = m.follower.lookInto(nil, n); err != nil {
		t.Fatal(err)
	}
	has("10.0.2.0-24")
}

func TestDirectoriesElsewhereAreFollowedByThemselves(t *testing.T) {
	m := newMember(t)
	for path, want := range map[string]bool{
		"/p/flannel/net": true, "/p/flannel/a.b": true, "/p/flannel/a/b": false, "/p/network/net": false,
		"/coreos.com/network": false, "/p2/flannel/net": false, "/p/flannel": false,
	} {
		d, err := subnet.Open(nil, path)
		if err != nil {
			t.Fatal(err)
		}
		if got := m.follower.feeds(d.Path()); got != want {
			t.Errorf("%s is fed: %v", path, got)
		}
	}
	for key, want := range map[string]string{"/p/flannel/net/config": "/p/flannel/net",
		"/p/flannel/net/subnets/x": "/p/flannel/net", "/p/flannel/net": "", "/p/flannel//config": ""} {
		if got := m.follower.leaseDir(key); got != want {
			t.Errorf("%s is of %q, want %q", key, got, want)
		}
	}
}

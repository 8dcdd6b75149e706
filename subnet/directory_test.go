package subnet

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"

	"github.com/vethloom/vethloom/internal/etcd/embedded"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const v4Config = `{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}`
const dualConfig = `{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fc00::/48","Backend":{"Type":"vxlan"}}`

// fixture is a directory in an etcd of its own.
type fixture struct {
	*Directory
	t *testing.T
	c *clientv3.Client
}

func newFixture(t *testing.T, config string) fixture {
	t.Helper()
	s, err := embedded.Start(t.Context(), embedded.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	d, err := Open(s.Client(), "/coreos.com/network/")
	if err != nil {
		t.Fatal(err)
	}
	f := fixture{d, t, s.Client()}
	if config != "" {
		f.set("config", config)
	}
	return f
}

func (f fixture) set(key, value string, opts ...clientv3.OpOption) {
	f.t.Helper()
	if _, err := f.c.Put(f.t.Context(), "/coreos.com/network/"+key, value, opts...); err != nil {
		f.t.Fatal(err)
	}
}

// keys are the names below subnets, with the etcd lease of each.
func (f fixture) keys() map[string]int64 {
	f.t.Helper()
	r, err := f.c.Get(f.t.Context(), "/coreos.com/network/subnets/", clientv3.WithPrefix())
	if err != nil {
		f.t.Fatal(err)
	}
	out := map[string]int64{}
	for _, kv := range r.Kvs {
		out[strings.TrimPrefix(string(kv.Key), "/coreos.com/network/subnets/")] = kv.Lease
	}
	return out
}

func (f fixture) grant() int64 {
	f.t.Helper()
	r, err := f.c.Grant(f.t.Context(), 3600)
	if err != nil {
		f.t.Fatal(err)
	}
	return int64(r.ID)
}

// expire does what the end of a lease does, at once.
func (f fixture) expire(lease int64) {
	f.t.Helper()
	if _, err := f.c.Revoke(f.t.Context(), clientv3.LeaseID(lease)); err != nil {
		f.t.Fatal(err)
	}
}

func (f fixture) acquire(a Attrs, prior Subnets, lease int64) Lease {
	f.t.Helper()
	l, err := f.Acquire(f.t.Context(), a, prior, lease)
	if err != nil {
		f.t.Fatal(err)
	}
	return l
}

// node is the n-th node of a cluster.
func node(n int) Attrs {
	return Attrs{
		PublicIP: netip.AddrFrom4([4]byte{192, 168, byte(n >> 8), byte(n)}), BackendType: "vxlan",
		NodeID:      fmt.Sprintf("node-%d", n),
		BackendData: fmt.Appendf(nil, `{"VNI":1,"VtepMAC":"02:00:00:00:00:%02x"}`, n),
	}
}

// flanneld is the value that flanneld on the same host as a node writes.
func flanneld(n int) string {
	return fmt.Sprintf(`{"PublicIP":"192.168.0.%d","PublicIPv6":null,"BackendType":"vxlan"}`, n)
}

func TestCreateAndRemove(t *testing.T) {
	f := newFixture(t, "")
	if _, err := f.Config(t.Context()); !errors.Is(err, ErrNoConfig) {
		t.Errorf("the config of nothing: %v", err)
	}
	if _, err := f.Acquire(t.Context(), node(1), Subnets{}, 0); !errors.Is(err, ErrNoConfig) {
		t.Errorf("a lease of nothing: %v", err)
	}
	want := Config{EnableIPv4: true, Network: pfx("10.5.0.0/16"), Backend: Backend{Type: "host-gw"}}
	if err := f.Create(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	if err := f.Create(t.Context(), want); !errors.Is(err, ErrExists) {
		t.Errorf("created twice: %v", err)
	}
	got, err := f.Config(t.Context())
	if err != nil || got.SubnetLen != 24 || got.Backend.Type != "host-gw" {
		t.Errorf("%+v, %v", got, err)
	}
	f.acquire(node(1), Subnets{}, f.grant())
	if err := f.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if keys := f.keys(); len(keys) != 0 {
		t.Errorf("left: %v", keys)
	}
	if err := f.Create(t.Context(), Config{EnableIPv4: true}); !errors.Is(err, ErrBadConfig) {
		t.Errorf("a config without a network: %v", err)
	}
	for _, bad := range []string{"", "/", ".", "//", "../x"} {
		if _, err := Open(f.c, bad); err == nil {
			t.Errorf("%q is a directory", bad)
		}
	}
}

func TestFiftyNodesRaceForTenSubnets(t *testing.T) {
	for name, config := range map[string]string{
		"IPv4": `{"Network":"10.5.0.0/24","SubnetLen":28,"SubnetMin":"10.5.0.16","SubnetMax":"10.5.0.160"}`,
		"both": `{"Network":"10.5.0.0/24","SubnetLen":28,"SubnetMin":"10.5.0.16","SubnetMax":"10.5.0.160",` +
			`"EnableIPv6":true,"IPv6Network":"fc00::/48","IPv6SubnetMax":"fc00:0:0:a::"}`,
		"IPv6": `{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/48","IPv6SubnetMax":"fc00:0:0:a::"}`,
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, config)
			if name == "both" { // of a flanneld, whose halves are at different positions, so that two must go unpaired
				f.set("subnets/10.5.0.32-28&fc00:0:0:9::-64", flanneld(200))
			}
			lease := f.grant()
			got := make([]Lease, 50)
			errs := make([]error, 50)
			var wg sync.WaitGroup
			for i := range got {
				wg.Go(func() { got[i], errs[i] = f.Acquire(t.Context(), node(i+1), Subnets{}, lease) })
			}
			wg.Wait()
			var won []Lease
			for i, err := range errs {
				switch {
				case err == nil:
					won = append(won, got[i])
				case !errors.Is(err, ErrExhausted):
					t.Errorf("node %d: %v", i, err)
				}
			}
			want := 10
			if name == "both" {
				want = 9
			}
			if len(won) != want {
				t.Errorf("%d won, want %d", len(won), want)
			}
			for i, a := range won {
				for _, b := range won[:i] {
					if a.Subnets().Overlaps(b.Subnets()) {
						t.Errorf("%s overlaps %s", a.Key, b.Key)
					}
				}
			}
			if s, err := f.List(t.Context()); err != nil || len(s.Leases) != 10 || len(s.Ignored) != 0 {
				t.Errorf("%d leases, ignored %v, %v", len(s.Leases), s.Ignored, err)
			}
		})
	}
}

func TestAcquireGetsTheSameSubnetAgain(t *testing.T) {
	f := newFixture(t, v4Config)
	first := f.grant()
	l := f.acquire(node(1), Subnets{}, first)
	if got := f.acquire(node(1), Subnets{}, first); got.Key != l.Key || got.Mod != l.Mod {
		t.Errorf("nothing changed, and %+v became %+v", l, got)
	}
	second, moved := f.grant(), node(1) // restarted, with another address
	moved.PublicIP = netip.MustParseAddr("172.16.0.9")
	got := f.acquire(moved, Subnets{}, second)
	if got.Key != l.Key || got.Create != l.Create || got.EtcdLease != second || got.PublicIP != moved.PublicIP {
		t.Errorf("%+v became %+v", l, got)
	}
	f.expire(first) // does not take what hangs on the second
	if keys := f.keys(); keys[l.Key] != second {
		t.Errorf("the keys are %v", keys)
	}
	f.expire(second)
	if got = f.acquire(moved, l.Subnets(), f.grant()); got.Key != l.Key {
		t.Errorf("%s expired and was free, and %s was acquired", l.Key, got.Key)
	}
	if err := f.Release(t.Context(), got); err != nil || len(f.keys()) != 0 {
		t.Errorf("after its release: %v, %v", f.keys(), err)
	}
	if other := f.acquire(node(2), l.Subnets(), f.grant()); other.Key != l.Key {
		t.Errorf("%s is free, and %s was acquired", l.Key, other.Key)
	}
	if got = f.acquire(moved, l.Subnets(), f.grant()); got.Key == l.Key {
		t.Errorf("%s is another's", l.Key)
	}
	if err := f.Release(t.Context(), l); err != nil || len(f.keys()) != 2 {
		t.Errorf("released what is another's: %v, %v", f.keys(), err)
	}
}

func TestAcquireTakesOverFromFlanneld(t *testing.T) {
	f := newFixture(t, v4Config)
	old := f.grant()
	f.set("subnets/10.5.77.0-24", flanneld(1), clientv3.WithLease(clientv3.LeaseID(old)))
	f.set("subnets/10.5.78.0-24", flanneld(2), clientv3.WithLease(clientv3.LeaseID(old)))
	lease := f.grant()
	if l := f.acquire(node(1), Subnets{}, lease); l.Key != "10.5.77.0-24" || l.EtcdLease != lease {
		t.Errorf("%+v", l)
	}
	f.expire(old)
	if diff := cmp.Diff(map[string]int64{"10.5.77.0-24": lease}, f.keys()); diff != "" {
		t.Error(diff)
	}
	// A node has what is its own before what has its address.
	f.set("subnets/10.5.9.0-24", flanneld(1))
	if l := f.acquire(node(1), Subnets{}, lease); l.Key != "10.5.77.0-24" {
		t.Errorf("%+v", l)
	}
}

func TestReservationStaysOne(t *testing.T) {
	f := newFixture(t, v4Config)
	want := Subnets{V4: pfx("10.5.40.0/24")}
	for range 2 { // twice is as once
		if err := f.Reserve(t.Context(), want, Attrs{PublicIP: node(1).PublicIP}); err != nil {
			t.Fatal(err)
		}
	}
	var taken *TakenError
	if err := f.Reserve(t.Context(), Subnets{V4: pfx("10.5.40.0/23")}, Attrs{PublicIP: node(2).PublicIP}); !errors.As(
		err, &taken) || !errors.Is(err, ErrExists) {
		t.Errorf("reserved what overlaps: %v", err)
	}
	if err := f.Reserve(t.Context(), Subnets{V4: pfx("10.6.0.0/24")}, node(1)); err == nil ||
		!strings.Contains(err.Error(), "not inside") {
		t.Errorf("reserved what is elsewhere: %v", err)
	}
	l := f.acquire(node(1), Subnets{V4: pfx("10.5.50.0/24")}, f.grant())
	if l.Key != "10.5.40.0-24" || !l.Reservation() {
		t.Fatalf("%+v", l)
	}
	changed := node(1)
	changed.BackendData = []byte(`{"VNI":2}`)
	l, err := f.Assert(t.Context(), l, changed, f.grant())
	if err != nil || !l.Reservation() {
		t.Errorf("%+v, %v", l, err)
	}
	if other := f.acquire(node(2), want, f.grant()); other.Key == l.Key {
		t.Errorf("another has the reservation")
	}
	if err := f.Reserve(t.Context(), want, Attrs{PublicIP: node(2).PublicIP}); !errors.Is(err, ErrExists) {
		t.Errorf("reserved what another uses: %v", err)
	}
	if err := f.Release(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	if id, ok := f.keys()["10.5.40.0-24"]; !ok || id != 0 {
		t.Errorf("after its release: %v", f.keys())
	}
	l = f.acquire(node(1), Subnets{}, f.grant())
	if err := f.Unreserve(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	if err := f.Unreserve(t.Context(), want); !errors.Is(err, ErrNotFound) {
		t.Errorf("ended twice: %v", err)
	}
	lease := f.grant()
	if l, err = f.Assert(t.Context(), l, node(1), lease); err != nil || l.EtcdLease != lease {
		t.Errorf("used after its end: %+v, %v", l, err)
	}
	if err := f.Reserve(t.Context(), want, Attrs{PublicIP: node(1).PublicIP}); err != nil { // a lease becomes one
		t.Fatal(err)
	}
	if l, err = f.Assert(t.Context(), l, node(1), lease); err != nil || !l.Reservation() || f.keys()[l.Key] != 0 {
		t.Errorf("a lease that was made a reservation: %+v, %v", l, err)
	}
}

func TestAssertFindsOutWhoHasIt(t *testing.T) {
	f := newFixture(t, v4Config)
	lease := f.grant()
	l := f.acquire(node(1), Subnets{}, lease)
	f.expire(lease) // cut off for longer than the lease, while another takes it
	f.acquire(node(2), l.Subnets(), f.grant())
	_, err := f.Assert(t.Context(), l, node(1), f.grant())
	var lost *LostError
	if !errors.As(err, &lost) || !errors.Is(err, ErrLost) || lost.Holder.NodeID != "node-2" ||
		lost.Holder.Key != l.Key {
		t.Fatalf("%v", err)
	}
	if s, err := f.List(t.Context()); err != nil || len(s.Leases) != 1 || s.Leases[0].NodeID != "node-2" {
		t.Errorf("%+v, %v", s.Leases, err)
	}
	// A subnet of another length is in the way too, and a flanneld's.
	f.set("config", `{"Network":"10.5.0.0/16","SubnetLen":23}`)
	big := f.acquire(node(3), Subnets{}, f.grant())
	half := Lease{Subnet: netip.PrefixFrom(big.Subnet.Addr(), 24), Attrs: node(4)}
	half.Key = half.Subnets().Key()
	if _, err = f.Assert(t.Context(), half, node(4), 0); !errors.As(err, &lost) || lost.Holder.Key != big.Key {
		t.Errorf("%v", err)
	}
	f.set("subnets/10.5.200.0-24", flanneld(9))
	if _, err = f.Assert(t.Context(), Lease{Subnet: pfx("10.5.200.0/24"), Key: "10.5.200.0-24"}, node(4),
		0); !errors.As(err, &lost) || lost.Holder.PublicIP != node(9).PublicIP {
		t.Errorf("%v", err)
	}
	f.set("subnets/10.5.201.0-24", "garbage")
	if _, err = f.Assert(t.Context(), Lease{Subnet: pfx("10.5.201.0/24"), Key: "10.5.201.0-24"}, node(4),
		0); !errors.As(err, &lost) {
		t.Errorf("%v", err)
	}
}

func TestAssertAfterAWipe(t *testing.T) {
	f := newFixture(t, dualConfig)
	lease := f.grant()
	l := f.acquire(node(1), Subnets{}, lease)
	if err := f.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Assert(t.Context(), l, node(1), lease); !errors.Is(err, ErrNoConfig) {
		t.Fatalf("without a config: %v", err)
	}
	f.set("config", dualConfig)
	got, err := f.Assert(t.Context(), l, node(1), lease)
	if err != nil || got.Key != l.Key || got.Create <= l.Create || f.keys()[l.Key] != lease {
		t.Errorf("%+v became %+v, %v", l, got, err)
	}
	if again, err := f.Assert(t.Context(), l, node(1), lease); err != nil || again.Create != got.Create ||
		again.Mod != got.Mod {
		t.Errorf("%+v, %v", again, err)
	}
	if err := f.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.set("config", `{"Network":"10.99.0.0/16"}`) // made again as another
	var lost *LostError
	if _, err := f.Assert(t.Context(), l, node(1), lease); !errors.As(err, &lost) ||
		!strings.Contains(lost.Reason, "no more") {
		t.Errorf("in another network: %v", err)
	}
	if got := f.acquire(node(1), l.Subnets(), lease); !pfx("10.99.0.0/16").Contains(got.Subnet.Addr()) {
		t.Errorf("%+v", got)
	}
}

func TestAssertGivesWayToTheOlder(t *testing.T) {
	f := newFixture(t, dualConfig)
	f.set("subnets/10.5.7.0-24", flanneld(9)) // of a network that had one family
	lease := f.grant()
	f.set("subnets/10.5.7.0-24&fc00:0:0:7::-64", `{"PublicIP":"192.168.0.1","NodeID":"node-1"}`,
		clientv3.WithLease(clientv3.LeaseID(lease)))
	s, err := ParseKey("10.5.7.0-24&fc00:0:0:7::-64")
	if err != nil {
		t.Fatal(err)
	}
	l := Lease{Subnet: s.V4, Subnet6: s.V6, Key: s.Key()}
	var lost *LostError
	if _, err := f.Assert(t.Context(), l, node(1), lease); !errors.As(err, &lost) || lost.Holder.Key != "10.5.7.0-24" {
		t.Errorf("%v", err)
	}
	if got := f.acquire(node(1), Subnets{}, lease); got.Subnet == l.Subnet || len(f.keys()) != 2 {
		t.Errorf("%+v; keys %v", got, f.keys())
	}
}

func TestAssertAndTheConfig(t *testing.T) {
	f := newFixture(t, v4Config)
	lease := f.grant()
	l := f.acquire(node(1), Subnets{}, lease)
	f.set("config", "garbage")
	moved := node(1)
	moved.PublicIP = node(9).PublicIP
	l, err := f.Assert(t.Context(), l, moved, lease)
	if err != nil || l.PublicIP != moved.PublicIP {
		t.Errorf("with a config of garbage: %+v, %v", l, err)
	}
	f.set("config", `{"Network":"10.5.0.0/16","SubnetLen":26}`) // what is used stays in use
	if _, err := f.Assert(t.Context(), l, moved, lease); err != nil {
		t.Errorf("with other lengths: %v", err)
	}
	f.set("config", `{"Network":"10.6.0.0/16"}`)
	var lost *LostError
	if _, err := f.Assert(t.Context(), l, moved, lease); !errors.As(err, &lost) ||
		!strings.Contains(err.Error(), "not inside the network 10.6.0.0/16") {
		t.Errorf("of another network: %v", err)
	}
	f.expire(lease)
	f.set("config", "garbage")
	if _, err := f.Assert(t.Context(), l, moved, f.grant()); !errors.Is(err, ErrBadConfig) {
		t.Errorf("gone, with a config of garbage: %v", err)
	}
}

func TestAcquireFollowsTheConfig(t *testing.T) {
	f := newFixture(t, v4Config)
	lease := f.grant()
	l := f.acquire(node(1), Subnets{}, lease)
	f.set("config", dualConfig) // a key of one family becomes one of both, with the IPv4 subnet kept
	got := f.acquire(node(1), l.Subnets(), lease)
	if got.Subnet != l.Subnet || !got.Subnet6.IsValid() || len(f.keys()) != 1 {
		t.Errorf("%+v became %+v; keys %v", l, got, f.keys())
	}
	f.set("config", `{"Network":"10.5.0.0/16","SubnetLen":26}`)
	got = f.acquire(node(1), got.Subnets(), lease)
	if got.Subnet.Bits() != 26 || got.Subnet6.IsValid() || len(f.keys()) != 1 {
		t.Errorf("%+v; keys %v", got, f.keys())
	}
	f.set("config", `{"Network":`)
	if _, err := f.Acquire(t.Context(), node(1), Subnets{}, lease); !errors.Is(err, ErrBadConfig) {
		t.Errorf("with a config of garbage: %v", err)
	}
}

func TestOlderOfTwoThatOverlapIsUsed(t *testing.T) {
	f := newFixture(t, dualConfig)
	f.set("subnets/10.5.7.0-24&fc00:0:0:1::-64", flanneld(7))
	f.set("subnets/10.5.7.0-24&fc00:0:0:2::-64", flanneld(8))
	f.set("subnets/10.5.7.0-24", flanneld(9))
	f.set("subnets/10.6.0.0-24", flanneld(10))
	f.set("subnets/nonsense", "")
	f.set("subnets/10.5.8.0-24", "{}")
	s, err := f.List(t.Context())
	if err != nil || len(s.Leases) != 1 || s.Leases[0].PublicIP != node(7).PublicIP {
		t.Errorf("%+v, %v", s.Leases, err)
	}
	var got []string
	for _, i := range s.Ignored {
		got = append(got, i.Key+": "+i.Reason)
	}
	want := []string{
		`10.5.7.0-24: the host (192.168.0.7) has 10.5.7.0-24&fc00:0:0:1::-64, and had it first`,
		`10.5.7.0-24&fc00:0:0:2::-64: the host (192.168.0.7) has 10.5.7.0-24&fc00:0:0:1::-64, and had it first`,
		`10.5.8.0-24: the lease 10.5.8.0-24: neither PublicIP nor PublicIPv6 is an address: nobody can reach its ` +
			`holder`,
		`10.6.0.0-24: 10.6.0.0/24 is not inside the network 10.5.0.0/16`,
		`nonsense: the key "nonsense": "nonsense" is no IPv4 subnet, such as 10.5.1.0-24`,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	// Whose lease is the younger gets another.
	if l := f.acquire(node(8), Subnets{}, f.grant()); l.Subnet == pfx("10.5.7.0/24") || !f.paired(l) {
		t.Errorf("%+v", l)
	}
	if _, still := f.keys()["10.5.7.0-24&fc00:0:0:2::-64"]; !still {
		t.Error("a reservation was removed") // it is not ours to end
	}
}

func (f fixture) paired(l Lease) bool {
	c, err := f.Config(f.t.Context())
	if err != nil {
		f.t.Fatal(err)
	}
	return c.paired(l.Subnets())
}

func TestAcquireEndsWithItsContext(t *testing.T) {
	f := newFixture(t, v4Config)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.Acquire(ctx, node(1), Subnets{}, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if keys := f.keys(); len(keys) != 0 {
		t.Errorf("left: %v", keys)
	}
}

package subnet

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func pfx(s string) netip.Prefix {
	if s == "" {
		return netip.Prefix{}
	}
	return netip.MustParsePrefix(s)
}

func TestLeaseAsFlannelWritesIt(t *testing.T) {
	for _, c := range []struct {
		key, value string
		want       Lease
	}{
		{"10.5.41.0-24", `{"PublicIP":"192.168.7.2","PublicIPv6":null,"BackendType":"vxlan",` +
			`"BackendData":{"VNI":1,"VtepMAC":"ee:c2:2a:87:c4:04"}}`, Lease{
			Subnet: pfx("10.5.41.0/24"),
			Attrs: Attrs{PublicIP: netip.MustParseAddr("192.168.7.2"), BackendType: "vxlan",
				BackendData: json.RawMessage(`{"VNI":1,"VtepMAC":"ee:c2:2a:87:c4:04"}`)},
		}},
		{"10.5.1.0-24&fc00::-64", `{"PublicIP":"192.168.7.2","PublicIPv6":"fd00::2","BackendType":"host-gw"}`, Lease{
			Subnet: pfx("10.5.1.0/24"), Subnet6: pfx("fc00::/64"),
			Attrs: Attrs{PublicIP: netip.MustParseAddr("192.168.7.2"), PublicIPv6: netip.MustParseAddr("fd00::2"),
				BackendType: "host-gw"},
		}},
		{"0.0.0.0-0&fc00:0:0:5::-64", `{"PublicIP":"0.0.0.0","PublicIPv6":"fd00::2","NodeID":"n1"}`, Lease{
			Subnet6: pfx("fc00:0:0:5::/64"), Attrs: Attrs{PublicIPv6: netip.MustParseAddr("fd00::2"), NodeID: "n1"},
		}},
	} {
		c.want.Key = c.key
		got, err := ParseLease(c.key, []byte(c.value))
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(c.want, got, byValue()); d != "" {
			t.Errorf("%s (-want +got):\n%s", c.key, d)
		}
		if got.Subnets().Key() != c.key {
			t.Errorf("the key of %s is %s", got.Subnets(), got.Subnets().Key())
		}
		if b, err := json.Marshal(got.Attrs); err != nil || string(b) != c.value {
			t.Errorf("written as %s (%v), want %s", b, err, c.value)
		}
	}
}

func TestParseLeaseRefuses(t *testing.T) {
	ok := `{"PublicIP":"192.168.7.2"}`
	for _, c := range []struct{ key, value, want string }{
		{"", ok, "no IPv4 subnet"},
		{"10.5.1.0", ok, "no IPv4 subnet"},
		{"10.5.1.1-24", ok, "beyond its length"},
		{"10.5.1.0-024", ok, `want it spelled "10.5.1.0-24"`},
		{"10.5.1.0-32", ok, "of this length"},
		{"0.0.0.0-0", ok, "of this length"},
		{"10.5.1.0-24&", ok, "no IPv6 subnet"},
		{"10.5.1.0-24&fc00::1-64", ok, "beyond its length"},
		{"10.5.1.0-24&FC00::-64", ok, "want it spelled"},
		{"10.5.1.0-24&::ffff:1.2.3.4-64", ok, "no IPv6 subnet"},
		{"10.5.1.0-24", `[]`, "is no lease"},
		{"10.5.1.0-24", `{"PublicIP":"192.168.7.2"`, "unexpected end"},
		{"10.5.1.0-24", `{}`, "nobody can reach"},
		{"10.5.1.0-24", `{"PublicIP":"0.0.0.0"}`, "nobody can reach"},
		{"10.5.1.0-24", `{"PublicIP":"fd00::1"}`, "no IPv4 address"},
		{"10.5.1.0-24", `{"PublicIP":"127.0.0.1"}`, "no address a node can be reached at"},
		{"10.5.1.0-24", `{"PublicIP":"224.0.0.1"}`, "no address a node can be reached at"},
		{"10.5.1.0-24", `{"PublicIP":"192.168.7.2","PublicIPv6":"fe80::1%eth0"}`, "no IPv6 address"},
		{"10.5.1.0-24", `{"PublicIP":7}`, "is no lease"},
	} {
		if _, err := ParseLease(c.key, []byte(c.value)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %s: got %v, want an error that says %q", c.key, c.value, err, c.want)
		}
	}
}

func FuzzParseLease(f *testing.F) {
	f.Add("10.5.1.0-24", []byte(`{"PublicIP":"192.168.7.2","BackendData":{"VNI":1}}`))
	f.Add("10.5.1.0-24&fc00::-64", []byte(`{"PublicIP":"192.168.7.2","PublicIPv6":"fd00::2"}`))
	f.Add("0.0.0.0-0&fc00::-64", []byte(`{"PublicIPv6":"fd00::2","NodeID":"\u0000"}`))
	f.Fuzz(func(t *testing.T, key string, value []byte) {
		l, err := ParseLease(key, value)
		if err != nil {
			return
		}
		if got := l.Subnets().Key(); got != key {
			t.Fatalf("key %q is written as %q", key, got)
		}
		b, err := json.Marshal(l.Attrs)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseLease(key, b)
		if err != nil {
			t.Fatalf("%q was written as %s: %v", value, b, err)
		}
		if same, err := l.Attrs.equal(again.Attrs); !same || err != nil {
			t.Fatalf("%q changed: %+v, %+v (%v)", value, l, again, err)
		}
	})
}

// What is picked is always free, fits, and is there as long as anything is free.
func TestPick(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := Config{EnableIPv4: rapid.Bool().Draw(t, "v4"), Network: pfx("10.5.0.0/24"), SubnetLen: 28,
			IPv6Network: pfx("fc00::/60")}
		c.EnableIPv6 = !c.EnableIPv4 || rapid.Bool().Draw(t, "v6")
		c, err := c.Complete()
		if err != nil {
			t.Fatal(err)
		}
		var used []taken
		got := map[string]bool{}
		for range 15 {
			if rapid.Float64Range(0, 1).Draw(t, "flanneld") < 0.3 && c.EnableIPv4 && c.EnableIPv6 {
				// picks both halves at random
				i, j := rapid.Int64Range(0, 14).Draw(t, "i"), rapid.Int64Range(0, 14).Draw(t, "j")
				s := Subnets{c.v4().at(i), c.v6().at(j)}
				if !anyOverlaps(used, s) {
					used = append(used, taken{Subnets: s})
				}
				continue
			}
			choice, ok := c.pick(Subnets{}, used)
			if !ok {
				t.Fatalf("none is free after %v", used)
			}
			if !c.fits(choice.Subnets) || anyOverlaps(used, choice.Subnets) || got[choice.Key()] {
				t.Fatalf("picked %v with %v taken", choice, used)
			}
			if choice.paired != c.paired(choice.Subnets) {
				t.Fatalf("%v", choice)
			}
			got[choice.Key()] = true
			used = append(used, taken{Subnets: choice.Subnets})
		}
		if len(used) == 15 {
			if choice, ok := c.pick(Subnets{}, used); ok {
				t.Fatalf("all are taken, and %v was picked", choice)
			}
		}
	})
}

func anyOverlaps(used []taken, s Subnets) bool {
	for _, u := range used {
		if u.Overlaps(s) {
			return true
		}
	}
	return false
}

func TestPickSeesWhatIsOfAnotherLength(t *testing.T) {
	c, err := ParseConfig([]byte(`{"Network":"10.5.0.0/20"}`)) // 10.5.1.0 to 10.5.15.0
	if err != nil {
		t.Fatal(err)
	}
	used := []taken{
		{Subnets: Subnets{V4: pfx("10.5.0.0/22")}},   // 1, 2, 3
		{Subnets: Subnets{V4: pfx("10.5.8.0/21")}},   // 8 to 15
		{Subnets: Subnets{V4: pfx("10.5.4.128/25")}}, // 4
		{Subnets: Subnets{V4: pfx("10.5.5.0/24")}},
		{Subnets: Subnets{V4: pfx("10.5.7.0/24")}},
		{Subnets: Subnets{V4: pfx("10.9.0.0/16")}}, // elsewhere
		{Subnets: Subnets{V4: pfx("10.4.0.0/16")}},
	}
	if got, ok := c.pick(Subnets{}, used); !ok || got.V4 != pfx("10.5.6.0/24") {
		t.Errorf("picked %v, %v; only 10.5.6.0/24 is free", got, ok)
	}
	if got, ok := c.pick(Subnets{V4: pfx("10.5.6.0/25")}, used); !ok || got.V4 != pfx("10.5.6.0/24") {
		t.Errorf("asked for one of another length: %v, %v", got, ok)
	}
}

func TestWriteEnv(t *testing.T) {
	c, err := ParseConfig([]byte(`{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fc00::/48"}`))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "run", "subnet.env")
	for _, l := range []struct {
		lease Lease
		want  string
	}{
		{Lease{Subnet: pfx("10.5.7.0/24"), Subnet6: pfx("fc00:0:0:7::/64")},
			"FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.7.1/24\nFLANNEL_IPV6_NETWORK=fc00::/48\n" +
				"FLANNEL_IPV6_SUBNET=fc00:0:0:7::1/64\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"},
		{Lease{Subnet: pfx("10.5.7.0/24")},
			"FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.7.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"},
	} {
		if err := WriteEnv(path, NewEnv(c, l.lease, 1450, true)); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != l.want {
			t.Errorf("got %s (%v)\nwant %s", got, err, l.want)
		}
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("left beside it: %v (%v)", entries, err)
	}
	if err := WriteEnv(filepath.Join(path, "below"), Env{}); err == nil ||
		!strings.Contains(err.Error(), "subnet.env/below") {
		t.Errorf("below a file: %v", err)
	}
}

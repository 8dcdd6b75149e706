package record_test

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/cluster/record"
	"github.com/vethloom/vethloom/plan"
)

// wantRefusal fails unless err says each of the words, or is nil when there are none.
func wantRefusal(t *testing.T, err error, words ...string) {
	t.Helper()
	if len(words) == 0 {
		if err != nil {
			t.Errorf("refused: %v", err)
		}
		return
	}
	if err == nil {
		t.Errorf("not refused; want an error with %q", words)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not say %q", err, w)
		}
	}
}

func TestCheckNetwork(t *testing.T) {
	shared := &cnm.ClusterNetwork{VNI: 1}
	for name, c := range map[string]struct {
		n    cnm.Network
		want []string
	}{
		"honest":                   {cnm.Network{ID: "aa", Name: "web", Cluster: shared}, nil},
		"another's record":         {cnm.Network{ID: "bb", Name: "web", Cluster: shared}, []string{`id is "bb"`}},
		"of one node alone":        {cnm.Network{ID: "aa", Name: "web"}, []string{`"web"`, "cluster"}},
		"an ID with a line end":    {cnm.Network{ID: "a\n", Cluster: shared}, []string{`"a\n"`}},
		"an ID with an escape":     {cnm.Network{ID: "\x1b]0;x", Cluster: shared}, []string{`\x1b`}},
		"nothing but the ID":       {cnm.Network{ID: "aa"}, []string{"cluster"}},
		"a name with control text": {cnm.Network{ID: "aa", Name: "\x1b[2J"}, []string{`\x1b[2J`}},
	} {
		t.Run(name, func(t *testing.T) { wantRefusal(t, record.CheckNetwork("aa", c.n), c.want...) })
	}
}

func TestCheckNodeAndAlive(t *testing.T) {
	wantRefusal(t, record.CheckNode("n", record.Node{ID: "n"}))
	wantRefusal(t, record.CheckNode("n", record.Node{ID: "other"}), `"other"`)
	wantRefusal(t, record.CheckNode("n", record.Node{}), `""`)
	wantRefusal(t, record.CheckAlive("n", record.Alive{Addr: "anything at all"}))
}

func TestCheckEndpoint(t *testing.T) {
	good := record.Endpoint{ID: "e", Network: "n", Node: "node", MAC: plan.MAC{2, 0, 0, 0, 0, 1},
		Addrs: []netip.Addr{netip.MustParseAddr("10.1.0.2")}}
	for name, c := range map[string]struct {
		change func(*record.Endpoint)
		want   []string
	}{
		"honest":             {func(*record.Endpoint) {}, nil},
		"without addresses":  {func(e *record.Endpoint) { e.Addrs = nil }, nil},
		"of another network": {func(e *record.Endpoint) { e.Network = "m" }, []string{`"m"`, `"e"`}},
		"another endpoint":   {func(e *record.Endpoint) { e.ID = "f" }, []string{`"n"`, `"f"`}},
		"of no node":         {func(e *record.Endpoint) { e.Node = "" }, []string{"no node"}},
		"without a MAC":      {func(e *record.Endpoint) { e.MAC = plan.MAC{} }, []string{"no mac"}},
		"of every node": {func(e *record.Endpoint) {
			e.Ingress = []cnm.Ingress{{Proto: "tcp", Port: 80, Count: 2}, {Proto: "udp", Port: 53, Count: 254}}
		}, nil},
		"of too many ports": {func(e *record.Endpoint) {
			e.Ingress = []cnm.Ingress{{Proto: "tcp", Port: 80, Count: 200}, {Proto: "udp", Port: 80, Count: 200}}
		}, []string{"400"}},
		"of a port that is none": {func(e *record.Endpoint) { e.Ingress = []cnm.Ingress{{Proto: "tcp", Count: 1}} },
			[]string{"port \"0\""}},
		"of ports beyond the last": {func(e *record.Endpoint) {
			e.Ingress = []cnm.Ingress{{Proto: "tcp", Port: 65535, Count: 2}}
		}, []string{"65535"}},
		"of a strange transport": {func(e *record.Endpoint) {
			e.Ingress = []cnm.Ingress{{Proto: "\x1b", Port: 1, Count: 1}}
		}, []string{"transport"}},
		"with an empty addr": {func(e *record.Endpoint) { e.Addrs = append(e.Addrs, netip.Addr{}) },
			[]string{"addrs"}},
		"a dot moved from one": {func(e *record.Endpoint) { e.Network, e.ID = "n.", "e" }, []string{`"n."`}},
	} {
		t.Run(name, func(t *testing.T) {
			e := good
			c.change(&e)
			wantRefusal(t, record.CheckEndpoint("n.e", e), c.want...)
		})
	}
}

func TestCheckBlock(t *testing.T) {
	mine := record.Block{Node: "n"}
	wantRefusal(t, record.CheckBlock(netip.MustParsePrefix("10.1.0.64/26"), mine))
	wantRefusal(t, record.CheckBlock(netip.MustParsePrefix("fd00::/112"), mine))
	wantRefusal(t, record.CheckBlock(netip.MustParsePrefix("10.1.0.65/26"), mine), "10.1.0.65/26", "10.1.0.64/26")
	wantRefusal(t, record.CheckBlock(netip.MustParsePrefix("10.1.0.64/26"), record.Block{}), "no node")
}

// The key of a block is read back as what it was made of.
func TestBlockKeysRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		network := rapid.StringMatching(`[0-9a-f]{64}`).Draw(t, "network")
		var a netip.Addr
		if rapid.Bool().Draw(t, "IPv6") {
			a = netip.AddrFrom16([16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "address")))
		} else {
			a = netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "address")))
		}
		p := netip.PrefixFrom(a, rapid.IntRange(0, a.BitLen()).Draw(t, "bits")).Masked()
		key := record.BlockKey(network, p)
		if key.Kind != record.KindBlock || strings.Contains(key.ID, "/") {
			t.Fatalf("key %v", key)
		}
		gotNetwork, got, err := record.ParseBlock(key.ID)
		if err != nil || gotNetwork != network || got != p {
			t.Fatalf("%q became %q, %v: %v", key.ID, gotNetwork, got, err)
		}
	})
}

func TestParseBlockRefuses(t *testing.T) {
	for _, id := range []string{"", ".", "net", "net.10.0.0.0", "net.10.0.0.0-", "net.-26", "net.10.0.0.0-33",
		"net.x-8",
		"net.10.0.0.0/26", "net.10.0.0.0-+8", "net.10.0.0.0-26-26", "net.fe80::1%eth0-64"} {
		if network, p, err := record.ParseBlock(id); err == nil {
			t.Errorf("%q is taken for %v of %q", id, p, network)
		}
	}
}

func TestKeysOfTheLocalStore(t *testing.T) {
	if a, b := record.SelfKey(), record.LeaseKey("self"); a == b || a.Kind != cnm.KindMember ||
		b.Kind != cnm.KindMember {
		t.Errorf("keys %v and %v", a, b)
	}
	if a, b := record.LeaseKey("n1"), record.LeaseKey("n2"); a == b {
		t.Errorf("two networks have the key %v", a)
	}
}

// What is written is what is read, and what cannot be read is an error, never a panic or a half-read value that
// counts.
func TestEncodeAndDecode(t *testing.T) {
	want := record.Endpoint{ID: "e", Network: "n", Node: "x", Name: "web", Aliases: []string{"a"},
		MAC: plan.MAC{2, 0, 0, 0, 0, 1}, Addrs: []netip.Addr{netip.MustParseAddr("fd00::1")},
		Addr4: netip.MustParseAddr("192.0.2.1")}
	b, err := record.Encode(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := record.Decode[record.Endpoint](b)
	if err != nil {
		t.Fatal(err)
	}
	x, _ := json.Marshal(got)
	if string(x) != string(b) {
		t.Errorf("%s became %s", b, x)
	}
	for _, text := range []string{"", "null x", "[]", `"e"`, "{", `{"mac":"02:00:00:00:00:01"}`,
		`{"addrs":["10.0.0.256"]}`,
		`{"addr4":7}`, `{"aliases":{}}`} {
		if v, err := record.Decode[record.Endpoint]([]byte(text)); err == nil {
			t.Errorf("%q is read as %+v", text, v)
		}
	}
	if _, err := record.Encode(func() {}); err == nil {
		t.Error("a function is encoded")
	}
}

// FuzzRecords reads what anybody may have written.
func FuzzRecords(f *testing.F) {
	for _, seed := range []string{`{"id":"n.e","network":"n","node":"x","mac":[2,0,0,0,0,1]}`, `{"node":"x"}`,
		`{"id":"n","addr4":"192.0.2.1","mtu":-1}`, "\xff", `{"id":"` + strings.Repeat("a", 300) + `"}`} {
		f.Add("n.10.0.0.0-26", []byte(seed))
	}
	f.Fuzz(func(t *testing.T, id string, value []byte) {
		if e, err := record.Decode[record.Endpoint](value); err == nil && record.CheckEndpoint(id, e) == nil {
			if e.Key().ID != id || e.Node == "" {
				t.Errorf("%q passes as the record %q", value, id)
			}
		}
		if n, err := record.Decode[record.Node](value); err == nil && record.CheckNode(id, n) == nil && n.ID != id {
			t.Errorf("%q passes as node %q", value, id)
		}
		if n, err := record.Decode[cnm.Network](value); err == nil && record.CheckNetwork(id, n) == nil &&
			n.Cluster == nil {
			t.Errorf("%q passes as network %q", value, id)
		}
		if network, p, err := record.ParseBlock(id); err == nil && p == p.Masked() {
			if again, q, err := record.ParseBlock(record.BlockKey(network, p).ID); err != nil || again != network ||
				q != p {
				t.Errorf("block %q is %v, and then %v: %v", id, p, q, err)
			}
		}
	})
}

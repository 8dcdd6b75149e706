package nftables

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/vethloom/vethloom/internal/golden"
	"github.com/vethloom/vethloom/internal/kern/kerntest"
	"github.com/vethloom/vethloom/plan"
)

// openTestRules opens the tables of a fresh namespace.
func openTestRules(t testing.TB) (*Rules, *kerntest.Env) {
	t.Helper()
	env := kerntest.New(t)
	r, err := Open(env.NetNS())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r, env
}

// testChain makes a chain from the text of its rules.
func testChain(t testing.TB, f plan.Family, name string, base plan.Base, texts ...string) plan.Chain {
	t.Helper()
	c := plan.Chain{Family: f, Name: name, Base: base}
	for _, text := range texts {
		r, err := plan.ParseRule(text)
		if err != nil {
			t.Fatal(err)
		}
		c.Rules = append(c.Rules, r)
	}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	return c
}

func testBase(typ, hook string, priority int) plan.Base {
	return plan.Base{Type: typ, Hook: hook, Priority: priority, Policy: "accept"}
}

// firewall is a ruleset with a rule and a set of every kind.
func firewall(t testing.TB) plan.Ruleset {
	const notOurs = "meta l4proto { tcp, udp, sctp }"
	return plan.Ruleset{
		Chains: []plan.Chain{
			testChain(t, plan.Inet, "raw", testBase("filter", "prerouting", -300),
				"iifname != lo meta nfproto ipv4 ip daddr 127.0.0.0/8 counter drop",
				"iifname != lo meta nfproto ipv4 ip saddr 127.0.0.0/8 counter drop"),
			testChain(t, plan.Inet, "forward", testBase("filter", "forward", 0),
				"ct state established,related accept",
				"iifname . oifname @same accept",
				"ct state invalid ip saddr @masq4 counter drop",
				"ct status dnat accept",
				"ct status ! dnat iifname vlb-* oifname @bridges drop",
				"oifname @bridges counter drop",
				"iifname != @bridges ct direction original ip6 daddr { fe80::/10, ff02::1 } accept",
				"meta l4proto tcp tcp flags syn iifname @bridges tcp option maxseg size set rt mtu",
				"iifname vmap @verdicts"),
			testChain(t, plan.Inet, "publish", plan.Base{},
				notOurs+" dnat ip to meta l4proto . th dport map @any4",
				notOurs+" dnat ip to ip daddr . meta l4proto . th dport map @ports4",
				notOurs+" dnat ip to ip daddr . meta l4proto . th dport map @range4",
				notOurs+" dnat ip6 to ip6 daddr . meta l4proto . th dport map @ports6",
				notOurs+" dnat ip6 to ip6 daddr . meta l4proto . th dport map @range6"),
			testChain(t, plan.Inet, "guard", plan.Base{},
				"meta l4proto tcp th dport 1-1023 counter drop",
				"th dport != 2000-3000 meta mark 0x2a counter return",
				"th sport { 53, 123, 5000-5010 } counter"),
			testChain(t, plan.Inet, "prerouting", testBase("nat", "prerouting", -100),
				"fib saddr . iif oif missing counter", "fib saddr . iif oif exists counter",
				"fib daddr type local jump publish"),
			testChain(t, plan.Inet, "output", testBase("nat", "output", -100), "fib daddr type local jump publish"),
			testChain(t, plan.Inet, "postrouting", testBase("nat", "postrouting", 100),
				"ip saddr . oifname @local4 ct status dnat masquerade",
				"ip6 saddr . oifname @local6 ct status dnat masquerade",
				"ip6 saddr . oifname @local6 return",
				"ip saddr @masq4 masquerade",
				"ip6 saddr @masq6 masquerade",
				"ip saddr 127.0.0.0/8 oifname @bridges masquerade",
				"ip6 saddr ::1 oifname @bridges masquerade"),
			testChain(t, plan.BridgeTable, "source", testBase("filter", "prerouting", -300),
				"meta protocol ip iifname . ether saddr . ip saddr @source4 accept",
				"iifname != @guarded accept",
				"iifname . ether saddr != @sourcemac counter drop",
				"meta protocol arp iifname . arp saddr ether . arp saddr ip @source4 accept",
				"meta protocol ip6 meta l4proto ipv6-icmp icmpv6 type { nd-router-advert, nd-redirect } counter drop",
				"meta protocol ip6 meta l4proto ipv6-icmp icmpv6 type nd-neighbor-advert iifname . ether saddr . "+
					"icmpv6 taddr != @source6 counter drop",
				"iifname . ether saddr . ip6 saddr @source6 accept",
				"ip6 saddr :: icmpv6 type { nd-neighbor-solicit, mld2-listener-report } accept",
				"counter drop"),
		},
		Sets:     firewallSets(),
		Elements: firewallElements(),
	}
}

func firewallSets() []plan.Set {
	set := func(f plan.Family, name string, interval bool, types ...plan.DataType) plan.Set {
		return plan.Set{Family: f, Name: name, KeyTypes: types, Interval: interval}
	}
	published := func(name string, addr plan.DataType, data ...plan.DataType) plan.Set {
		s := set(plan.Inet, name, true, addr, plan.TypeInetProto, plan.TypePort)
		s.Data = data
		return s
	}
	anywhere := set(plan.Inet, "any4", false, plan.TypeInetProto, plan.TypePort)
	anywhere.Data = []plan.DataType{plan.TypeIPv4, plan.TypePort}
	verdicts := set(plan.Inet, "verdicts", false, plan.TypeIfName)
	verdicts.Data = []plan.DataType{plan.TypeVerdict}
	return []plan.Set{
		set(plan.Inet, "bridges", false, plan.TypeIfName),
		set(plan.Inet, "same", false, plan.TypeIfName, plan.TypeIfName),
		set(plan.Inet, "local4", true, plan.TypeIPv4, plan.TypeIfName),
		set(plan.Inet, "local6", true, plan.TypeIPv6, plan.TypeIfName),
		set(plan.Inet, "masq4", true, plan.TypeIPv4),
		set(plan.Inet, "masq6", true, plan.TypeIPv6),
		anywhere,
		published("ports4", plan.TypeIPv4, plan.TypeIPv4, plan.TypePort),
		published("range4", plan.TypeIPv4, plan.TypeIPv4),
		published("ports6", plan.TypeIPv6, plan.TypeIPv6, plan.TypePort),
		published("range6", plan.TypeIPv6, plan.TypeIPv6),
		verdicts,
		set(plan.BridgeTable, "guarded", false, plan.TypeIfName),
		set(plan.BridgeTable, "sourcemac", false, plan.TypeIfName, plan.TypeEther),
		set(plan.BridgeTable, "source4", false, plan.TypeIfName, plan.TypeEther, plan.TypeIPv4),
		set(plan.BridgeTable, "source6", false, plan.TypeIfName, plan.TypeEther, plan.TypeIPv6),
	}
}

func firewallElements() []plan.Element {
	const mac = "02:42:0a:01:00:02"
	type parts = []string
	element := func(f plan.Family, set string, scope plan.Owner, keys, data parts) plan.Element {
		return plan.Element{Family: f, Set: set, Keys: keys, Data: data, Owner: scope}
	}
	return []plan.Element{
		element(plan.Inet, "bridges", "network/3f2a", parts{"vlb-3f2a"}, nil),
		element(plan.Inet, "same", "network/3f2a", parts{"vlb-3f2a", "vlb-3f2a"}, nil),
		element(plan.Inet, "local4", "network/3f2a", parts{"10.1.0.0/16", "vlb-3f2a"}, nil),
		element(plan.Inet, "local6", "network/3f2a", parts{"fd00:1::/64", "vlb-3f2a"}, nil),
		element(plan.Inet, "masq4", "network/3f2a", parts{"10.1.0.0/16"}, nil),
		element(plan.Inet, "masq4", "network/77aa", parts{"10.2.0.0/16"}, nil),
		element(plan.Inet, "masq6", "network/3f2a", parts{"fd00:1::/64"}, nil),
		element(plan.Inet, "any4", "endpoint/91bc", parts{"tcp", "8081"}, parts{"10.1.0.2", "81"}),
		element(plan.Inet, "ports4", "endpoint/91bc", parts{"0.0.0.0/0", "tcp", "8080"}, parts{"10.1.0.2", "80"}),
		element(plan.Inet, "ports4", "endpoint/91bc", parts{"127.0.0.1", "udp", "53"}, parts{"10.1.0.2", "5353"}),
		element(plan.Inet, "range4", "endpoint/91bc", parts{"0.0.0.0/0", "tcp", "9000-9010"}, parts{"10.1.0.2"}),
		element(plan.Inet, "ports6", "endpoint/91bc", parts{"::/0", "tcp", "8080"}, parts{"fd00:1::2", "80"}),
		element(plan.Inet, "range6", "endpoint/91bc", parts{"::1", "sctp", "9000-9010"}, parts{"fd00:1::2"}),
		element(plan.Inet, "verdicts", "network/3f2a", parts{"vlb-3f2a"}, parts{"jump guard"}),
		element(plan.Inet, "verdicts", "network/77aa", parts{"vlb-77aa"}, parts{"drop"}),
		element(plan.BridgeTable, "guarded", "endpoint/91bc", parts{"vle-91bc"}, nil),
		element(plan.BridgeTable, "sourcemac", "endpoint/91bc", parts{"vle-91bc", mac}, nil),
		element(plan.BridgeTable, "source4", "endpoint/91bc", parts{"vle-91bc", mac, "10.1.0.2"}, nil),
		element(plan.BridgeTable, "source6", "endpoint/91bc", parts{"vle-91bc", mac, "fd00:1::2"}, nil),
	}
}

// creation is the operations that make all of a ruleset.
func creation(rs plan.Ruleset) []plan.Op { return operations(plan.Create, rs) }

func operations(verb plan.Verb, rs plan.Ruleset) []plan.Op {
	var ops []plan.Op
	for _, c := range rs.Chains {
		ops = append(ops, plan.Op{Verb: verb, Object: c})
	}
	for _, s := range rs.Sets {
		ops = append(ops, plan.Op{Verb: verb, Object: s})
	}
	for _, e := range rs.Elements {
		ops = append(ops, plan.Op{Verb: verb, Object: e})
	}
	return ops
}

func mustApply(t testing.TB, r *Rules, ops ...plan.Op) {
	t.Helper()
	if err := r.Apply(t.Context(), ops); err != nil {
		t.Fatal(err)
	}
}

func mustObserve(t testing.TB, r *Rules) plan.Ruleset {
	t.Helper()
	have, err := r.Observe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return have
}

// lines is a ruleset as sorted text, one line an object.
func lines(rs plan.Ruleset) []string {
	var out []string
	for _, op := range creation(rs) {
		out = append(out, op.Object.String())
	}
	slices.Sort(out)
	return out
}

func checkSame(t testing.TB, want, have plan.Ruleset) {
	t.Helper()
	if diff := cmp.Diff(lines(want), lines(have), cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("observed (+) differs from applied (-):\n%s", diff)
	}
}

// handles and counters differ from run to run.
var volatile = regexp.MustCompile(` # handle \d+|packets \d+ bytes \d+ ?`)

func checkListing(t testing.TB, name, text string) {
	t.Helper()
	text = volatile.ReplaceAllString(text, "")
	golden.Equal(t, name, text)
}

func TestRulesRoundTrip(t *testing.T) {
	r, env := openTestRules(t)
	checkSame(t, plan.Ruleset{}, mustObserve(t, r))
	want := firewall(t)
	mustApply(t, r, creation(want)...)
	checkSame(t, want, mustObserve(t, r))
	checkListing(t, "firewall.txt", env.Run("nft", "-s", "list", "ruleset"))

	// What exists already may be created again: a crash repeats a pass.
	mustApply(t, r, creation(want)...)
	checkSame(t, want, mustObserve(t, r))

	// nft(8) understands what it lists.
	env.Sh("nft list ruleset | sed 's/@th,64,128/ip6 saddr/' | nft -c -f -")
}

func TestRulesLeaveNothing(t *testing.T) {
	r, env := openTestRules(t)
	env.Run("nft", "add", "table", "inet", "other")
	want := firewall(t)
	mustApply(t, r, creation(want)...)
	mustApply(t, r, operations(plan.Delete, want)...)
	if got, want := env.Run("nft", "list", "ruleset"), "table inet other {\n}\n"; got != want {
		t.Errorf("left behind:\n%s", got)
	}
	// Deleting what is away is done already.
	mustApply(t, r, operations(plan.Delete, want)...)

	bridge, inet := want, want
	bridge.Chains, inet.Chains = want.Chains[len(want.Chains)-1:], want.Chains[:len(want.Chains)-1]
	mustApply(t, r, creation(want)...)
	mustApply(t, r, operations(plan.Delete, plan.Ruleset{Chains: bridge.Chains})...)
	mustApply(t, r, operations(plan.Delete, plan.Ruleset{Sets: want.Sets[len(want.Sets)-4:]})...)
	if tables := env.Run("nft", "list", "tables"); strings.Contains(tables, "bridge") ||
		!strings.Contains(tables, "inet vethloom") {
		t.Errorf("tables after the last object of one family went:\n%s", tables)
	}
}

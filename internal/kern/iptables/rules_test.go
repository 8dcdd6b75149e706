package iptables_test

import (
	"errors"
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/internal/firewall"
	"github.com/vethloom/vethloom/internal/kern/iptables"
	"github.com/vethloom/vethloom/internal/kern/kerntest"
	"github.com/vethloom/vethloom/plan"
)

// host is a namespace with the rules of some networks.
type host struct {
	t     *testing.T
	env   *kerntest.Env
	rules *iptables.Rules
	want  plan.Ruleset
	save  string // what prints all tables
	tool  string // iptables of the variant
}

func newHost(t *testing.T, variant string) *host {
	t.Helper()
	env := kerntest.New(t)
	rules, err := iptables.Open(t.Context(), env.NetNS(), variant, true)
	if err != nil {
		t.Fatal(err)
	}
	h := &host{t: t, env: env, rules: rules, want: someRules(), tool: "iptables-" + variant}
	h.save = h.tool + "-save; ip6tables-" + variant + "-save"
	return h
}

// someRules have one of everything that iptables can express.
func someRules() plan.Ruleset {
	r := firewall.Base(firewall.Config{}).Rules
	net := firewall.Elements{Owner: "network/a"}
	p4, p6 := netip.MustParsePrefix("10.1.0.0/24"), netip.MustParsePrefix("fd01::/64")
	for _, link := range []string{"vlb-1", "br0:1", "x#y"} {
		net.Bridge(link)
		net.Forward(link, link)
	}
	for _, p := range []netip.Prefix{p4, p6} {
		net.Local(p, "vlb-1")
		net.Local(p, "vlt-1")
		net.Masquerade(p)
		net.Cluster(p, p)
	}
	net.Internal("vlb-1")
	net.Restricted("vlb-1")
	net.Open(p4.Addr(), "vlb-1")
	net.Open(p6.Addr(), "vlb-1")
	net.Tunnel("vlt-1")
	net.ForwardCluster("vlt-1", "vlb-1")
	net.TunnelPort(4789)
	net.Stretched("vlx-1")
	net.TunnelPeer(netip.MustParseAddr("192.0.2.7"))
	net.TunnelPeer(netip.MustParseAddr("2001:db8::7"))
	end := firewall.Elements{Owner: "endpoint/b"}
	end.Source("vlp-1", plan.MAC{2, 0x42, 0, 0, 0, 1}, []netip.Prefix{netip.MustParsePrefix("10.1.0.2/24")})
	for _, to := range []netip.Addr{netip.MustParseAddr("10.1.0.2"), netip.MustParseAddr("fd01::2")} {
		all := firewall.Everywhere(to)
		from := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/25"), netip.MustParsePrefix("2001:db8::/33")}
		for _, pub := range []firewall.Publication{
			{On: all, HostPort: 8080, Count: 1, Port: 80},
			{On: netip.PrefixFrom(to, to.BitLen()), HostPort: 8081, Count: 1, Port: 80},
			{On: all, HostPort: 9000, Count: 11, Port: 9000},
			{On: all, HostPort: 9100, Count: 1, Port: 80, From: from},
			{On: all, HostPort: 9200, Count: 3, Port: 9200, From: from},
		} {
			pub.Proto, pub.To = plan.SCTP, to
			end.Publish(pub)
		}
	}
	r.Elements = append(net.List, end.List...)
	return r
}

func (h *host) observe() plan.Ruleset {
	h.t.Helper()
	have, err := h.rules.Observe(h.t.Context())
	if err != nil {
		h.t.Fatal(err)
	}
	return have
}

func (h *host) ops() []plan.Op {
	h.t.Helper()
	var out []plan.Op
	for _, op := range plan.Diff(plan.State{Rules: h.want}, plan.State{Rules: h.observe()}) {
		if op.Verb != plan.Purge {
			out = append(out, op)
		}
	}
	return out
}

func (h *host) converge() {
	h.t.Helper()
	if err := h.rules.Apply(h.t.Context(), h.ops()); err != nil {
		h.t.Fatal(err)
	}
	for _, op := range h.ops() {
		h.t.Errorf("still to do after a pass: %s", op)
	}
	if deviates, err := h.rules.Deviates(h.t.Context()); err != nil || deviates {
		h.t.Errorf("deviates %v after a pass: %v", deviates, err)
	}
}

// dump is what the tables hold, without counters and comments of the tool.
func (h *host) dump() string {
	h.t.Helper()
	text := h.env.Sh(h.save + "; ebtables-save")
	return regexp.MustCompile(`(?m)^#.*\n|\[[0-9]+:[0-9]+\]`).ReplaceAllString(text, "")
}

// Whatever somebody does to the rules is noticed, and made good.
func TestRepairs(t *testing.T) {
	for _, variant := range []string{iptables.Legacy, iptables.Nft} {
		t.Run(variant, func(t *testing.T) {
			h := newHost(t, variant)
			h.converge()
			whole := h.dump()
			for _, harm := range []string{
				"4 -F", "4 -F; 4 -X", "4 -t nat -F", "4 -t nat -F VETHLOOM-publish", "6 -F; 6 -t nat -F",
				"4 -D FORWARD -j VETHLOOM-forward", "4 -I FORWARD -j ACCEPT", "4 -t raw -D VETHLOOM-raw 1",
				"4 -A INPUT -j VETHLOOM-input", "4 -D VETHLOOM-ledger 3", "4 -F VETHLOOM-ledger",
				"4 -A VETHLOOM-ledger -m comment --comment 'e inet bridges x'", "4 -N VETHLOOM-stray",
				"4 -I VETHLOOM-forward -j ACCEPT", "4 -t mangle -F", "ebtables -t nat -F",
				"ebtables -t nat -D VETHLOOM-vlp-1 1", "ebtables -t nat -D VETHLOOM-source 2",
				"4 -R VETHLOOM-forward 2 -j DROP",
			} {
				h.env.Sh(strings.NewReplacer("4 -", h.tool+" -", "6 -", "ip6tables-"+variant+" -").Replace(harm))
				if deviates, err := h.rules.Deviates(t.Context()); err != nil || !deviates {
					t.Errorf("%s: deviates %v: %v", harm, deviates, err)
				}
				h.converge()
				h.env.Sh(h.tool + " -D FORWARD -j ACCEPT || true")
				if now := h.dump(); now != whole {
					t.Fatalf("after %s:\n%s\nwant\n%s", harm, now, whole)
				}
			}
		})
	}
}

// The administrator's chain comes first, and stays; all else goes without a trace.
func TestLeavesTheUsersChain(t *testing.T) {
	for _, variant := range []string{iptables.Legacy, iptables.Nft} {
		t.Run(variant, func(t *testing.T) {
			h := newHost(t, variant)
			h.converge()
			h.env.Sh(h.tool + " -A VETHLOOM-USER -d 10.1.0.2 -j DROP")
			h.converge()
			h.env.Sh(h.tool + " -C VETHLOOM-USER -d 10.1.0.2 -j DROP")
			rules := h.env.Sh(h.tool + " -S VETHLOOM-forward")
			if !strings.Contains(rules, "-N VETHLOOM-forward\n-A VETHLOOM-forward -j VETHLOOM-USER\n") {
				t.Errorf("the user's chain is not the first:\n%s", rules)
			}
			h.want = plan.Ruleset{}
			h.converge()
			left := h.dump()
			kept := "-A VETHLOOM-USER -d 10.1.0.2/32 -j DROP"
			if strings.Count(left, "VETHLOOM") != 2 || !strings.Contains(left, kept) {
				t.Errorf("left:\n%s", left)
			}
			h.env.Sh(h.tool + " -F VETHLOOM-USER; " + h.tool + " -X VETHLOOM-USER")
			h.want = someRules()
			h.converge()
			h.want = plan.Ruleset{}
			h.converge()
			if left := h.dump(); strings.Contains(left, "VETHLOOM") {
				t.Errorf("left:\n%s", left)
			}
		})
	}
}

// What iptables cannot express is refused, by the element that asks for it.
func TestRefuses(t *testing.T) {
	h := newHost(t, iptables.Legacy)
	h.converge()
	bridge := func(link string) plan.Element {
		return plan.Element{Family: plan.Inet, Set: "bridges", Keys: []string{link}, Owner: "network/c"}
	}
	for _, c := range []struct {
		element plan.Element
		words   string
	}{
		{plan.Element{Family: plan.BridgeTable, Set: "source6", Keys: []string{"vlp-1", "02:42:00:00:00:01", "fd01::2"},
			Owner: "endpoint/b"}, "source validation of IPv6"},
		{bridge("wild+"), `a link named "wild+"`},
		{bridge(`quo"te`), `a link named "quo\"te"`},
	} {
		err := h.rules.Apply(t.Context(), []plan.Op{
			{Verb: plan.Create, Object: bridge("vlb-9")}, {Verb: plan.Create, Object: c.element}})
		var op *plan.OpError
		if !errors.As(err, &op) || op.Op.Object.Key() != c.element.Key() || !errors.Is(err, plan.ErrUnsupported) ||
			!strings.Contains(err.Error(), c.words) || !strings.Contains(err.Error(), "--firewall nftables") {
			t.Errorf("%s: error %v", c.element, err)
		}
	}
	if ops := h.ops(); len(ops) > 0 {
		t.Errorf("a refused batch left %v", ops)
	}
}

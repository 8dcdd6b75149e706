package kern

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/internal/kern/iptables"
	"github.com/vethloom/vethloom/internal/kern/kerntest"
	"github.com/vethloom/vethloom/plan"
)

// masquerade lets what the container sends be answered.
const masquerade = "nft -f - <<'E'\n" +
	"table inet masq { chain post { type nat hook postrouting priority 100; oifname wan masquerade; }; }\nE"

const (
	patience      = await.Patience
	shortPatience = 300 * time.Millisecond
)

// TestForeignAccept lets another tool drop what is forwarded, in each way it
// may do that, and checks that packets pass once the accept is there and that it goes
// without a trace.
func TestForeignAccept(t *testing.T) {
	for name, c := range map[string]struct{ setup, list, chain string }{
		"nft": {
			"iptables-nft -P FORWARD DROP; ip6tables-nft -P FORWARD DROP",
			"iptables-nft -S; ip6tables-nft -S", "FORWARD",
		},
		"legacy": {
			"iptables-legacy -P FORWARD DROP; ip6tables-legacy -P FORWARD DROP",
			"iptables-legacy -S; ip6tables-legacy -S", "FORWARD",
		},
		"docker": {
			"for i in iptables-nft ip6tables-nft; do $i -P FORWARD DROP; $i -N DOCKER-USER; $i -A DOCKER-USER -j " +
				"RETURN; $i -A FORWARD -j DOCKER-USER; done",
			"iptables-nft -S; ip6tables-nft -S", "DOCKER-USER",
		},
		"both": {
			"iptables-nft -P FORWARD DROP; iptables-legacy -P FORWARD DROP; ip6tables-nft -P FORWARD DROP",
			"iptables-nft -S; iptables-legacy -S; ip6tables-nft -S", "FORWARD",
		},
	} {
		t.Run(name, func(t *testing.T) { foreignAccept(t, c.setup, c.list, c.chain) })
	}
}

// openHere opens the kernel of the test's namespace, until the test ends.
func openHere(t *testing.T, env *kerntest.Env) *Kernel {
	t.Helper()
	k, err := Open(Config{RunDir: env.RunDir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	})
	return k
}

func foreignAccept(t *testing.T, setup, list, chain string) {
	env := kerntest.New(t)
	f := kerntest.NewHosts(t, env)
	env.Sh(masquerade)
	k := openHere(t, env)
	want := plan.State{Accepts: []plan.ForwardAccept{{Family: "ip", Links: "vlb-+"}, {Family: "ip6", Links: "vlb-+"}}}
	observed := func() plan.State {
		t.Helper()
		s, err := k.Observe(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		return plan.State{Accepts: s.Accepts}
	}
	if have := observed(); len(have.Accepts) > 0 {
		t.Fatalf("observed %v before there was anything", have.Accepts)
	}
	needed := func() []plan.ForwardAccept {
		t.Helper()
		accepts, err := k.NeededAccepts(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return accepts
	}
	if n := needed(); len(n) > 0 {
		t.Errorf("%v needed before there was anything", n)
	}
	env.Sh(setup)
	if n := needed(); !slices.Equal(n, want.Accepts) {
		t.Errorf("%v needed, want %v", n, want.Accepts)
	}
	before := env.Sh(list)
	f.Serve(f.Client, 7000)
	out := []string{kerntest.ClientAddr4 + ":7000", "[" + kerntest.ClientAddr6 + "]:7000"}
	for _, addr := range out {
		if _, err := f.Ask(f.Container, "tcp", addr, shortPatience); err == nil {
			t.Fatalf("the other tool does not drop what goes to %s", addr)
		}
	}
	ops := plan.Diff(want, observed())
	if len(ops) != 2 {
		t.Fatalf("operations %v, want an accept for each family", ops)
	}
	for range 2 { // the second time finds it there
		if err := k.Apply(t.Context(), ops); err != nil {
			t.Fatal(err)
		}
	}
	if have := observed(); !slices.Equal(have.Accepts, want.Accepts) {
		t.Errorf("observed %v, want %v", have.Accepts, want.Accepts)
	}
	for _, addr := range out {
		if _, err := f.Ask(f.Container, "tcp", addr, patience); err != nil {
			t.Errorf("out to %s: %v", addr, err)
		}
	}
	if n := needed(); !slices.Equal(n, want.Accepts) {
		t.Errorf("%v needed once it is there, want %v still", n, want.Accepts)
	}
	rules := env.Sh(list)
	if n, variants := strings.Count(rules, "-A "+chain+" -"),
		strings.Count(before, "-P FORWARD DROP"); n-strings.Count(before, "-A "+chain+" -") != 2*variants {
		t.Errorf("want two rules more in %s of %d tables:\n%s", chain, variants, rules)
	}
	if err := k.Apply(t.Context(), plan.Diff(plan.State{}, observed())); err != nil {
		t.Fatal(err)
	}
	if after := env.Sh(list); after != before {
		t.Errorf("left behind:\n%s\nwas:\n%s", after, before)
	}
	if have := observed(); len(have.Accepts) > 0 {
		t.Errorf("observed %v after its removal", have.Accepts)
	}
}

// TestForeignAcceptUnaware makes the accept where there is nothing it is needed for.
func TestForeignAcceptUnaware(t *testing.T) {
	env := kerntest.New(t)
	k, err := Open(Config{RunDir: env.RunDir})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	accept := plan.ForwardAccept{Family: "ip", Links: "mybr0"}
	if err := k.Apply(t.Context(), []plan.Op{{Verb: plan.Delete, Object: accept}}); err != nil {
		t.Errorf("delete where there is nothing: %v", err)
	}
	if left := env.Run("nft", "list", "ruleset"); left != "" {
		t.Errorf("looking left:\n%s", left)
	}
	if err := k.Apply(t.Context(), []plan.Op{{Verb: plan.Create, Object: accept}}); err != nil {
		t.Fatal(err)
	}
	s, err := k.Observe(t.Context(), nil)
	if err != nil || !slices.Equal(s.Accepts, []plan.ForwardAccept{accept}) {
		t.Errorf("observed %v: %v", s.Accepts, err)
	}
	err = k.Apply(t.Context(), []plan.Op{{Verb: plan.Create, Object: plan.ForwardAccept{Family: "inet"}}})
	if err == nil || !strings.Contains(err.Error(), `family "inet" is none of ip, ip6`) {
		t.Errorf("error %v", err)
	}
}

// What the administrator forbids stays forbidden: accepts come behind, but for a last rule that is about everything.
func TestForeignAcceptComesBehind(t *testing.T) {
	for name, c := range map[string]struct {
		setup string
		want  []string
	}{
		"policy": {"iptables -P FORWARD DROP; iptables -A FORWARD -d 192.0.2.9 -j REJECT", []string{
			"-P FORWARD DROP", "-A FORWARD -d 192.0.2.9/32 -j REJECT", "-A FORWARD -i vlb-+", "-A FORWARD -o vlb-+"}},
		"last rule": {"iptables -A FORWARD -d 192.0.2.9 -j ACCEPT; iptables -A FORWARD -j REJECT", []string{
			"-P FORWARD ACCEPT", "-A FORWARD -d 192.0.2.9/32 -j ACCEPT", "-A FORWARD -i vlb-+", "-A FORWARD -o vlb-+",
			"-A FORWARD -j REJECT"}},
		"last rule, counted, with a comment": {"iptables -A FORWARD -m comment --comment end -j DROP", []string{
			"-P FORWARD ACCEPT", "-A FORWARD -i vlb-+", "-A FORWARD -o vlb-+",
			"-A FORWARD -m comment --comment end -j DROP"}},
	} {
		t.Run(name, func(t *testing.T) {
			env := kerntest.New(t)
			k, err := Open(Config{RunDir: env.RunDir})
			if err != nil {
				t.Fatal(err)
			}
			defer k.Close()
			drift, err := k.Drift(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			env.Sh(c.setup)
			accepts, err := k.NeededAccepts(t.Context())
			if err != nil || len(accepts) != 1 || accepts[0].Family != "ip" {
				t.Fatalf("%v needed, %v", accepts, err)
			}
			want := plan.State{Accepts: accepts}
			check := func() {
				t.Helper()
				s, err := k.Observe(t.Context(), nil)
				if err != nil {
					t.Fatal(err)
				}
				if err := k.Apply(t.Context(), plan.Diff(want, plan.State{Accepts: s.Accepts})); err != nil {
					t.Fatal(err)
				}
				rules := strings.Split(strings.TrimSpace(env.Sh("iptables -S FORWARD")), "\n")
				for i, rule := range c.want {
					if i >= len(rules) || !strings.HasPrefix(rules[i], rule) {
						t.Errorf("rule %d: want %q of\n%s", i, rule, strings.Join(rules, "\n"))
					}
				}
			}
			check()
			drained := false
			for !drained { // what went before
				select {
				case <-drift:
				case <-time.After(150 * time.Millisecond):
					drained = true
				}
			}
			env.Sh("iptables -F FORWARD; " + c.setup)
			await.From(t, "a wake by the removal of the accepts", drift)
			check()
		})
	}
}

// The rule of others that stops what containers send is named, and its counter proves it.
func TestForwardBlockers(t *testing.T) {
	for name, c := range map[string]struct{ setup, chain, rule string }{
		"policy":        {"iptables-nft -P FORWARD DROP", "ip filter FORWARD", "-P FORWARD DROP"},
		"legacy policy": {"iptables-legacy -P FORWARD DROP", "ip filter FORWARD", "-P FORWARD DROP"},
		"legacy rule": {"for r in '-N mine' '-A FORWARD -j mine' '-A mine -p tcp -j DROP'; do iptables-legacy $r; done",
			"ip filter mine", "-A mine -p tcp -j DROP"},
		"rule": {"iptables-nft -N mine; iptables-nft -A FORWARD -j mine; iptables-nft -A mine -o wan -j DROP",
			"ip filter mine", `oifname "wan" drop`},
		"nftables": {"nft 'add table inet f; add chain inet f way { type filter hook forward priority 5; }; add rule " +
			"inet f way ip protocol tcp counter reject; add rule inet f way ip6 daddr fd77::1 counter drop'",
			"inet f way", "ip protocol tcp reject"},
	} {
		t.Run(name, func(t *testing.T) {
			env := kerntest.New(t)
			f := kerntest.NewHosts(t, env)
			k, err := Open(Config{RunDir: env.RunDir})
			if err != nil {
				t.Fatal(err)
			}
			defer k.Close()
			env.Sh(c.setup)
			look := func() (before uint64, others int) {
				t.Helper()
				all, err := k.ForwardBlockers(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				for _, b := range all {
					if b.Chain != c.chain || !strings.HasPrefix(b.Rule, c.rule) {
						t.Errorf("names %+v", b)
						others++
						continue
					}
					before = b.Packets
				}
				return before, others
			}
			last, _ := look()
			for range 2 {
				if _, err := f.Ask(f.Container, "tcp", kerntest.ClientAddr4+":7000", shortPatience); err == nil {
					t.Error("what is stopped is answered")
				}
				now, _ := look()
				if now <= last {
					t.Errorf("counted %d after a packet, %d before", now, last)
				}
				last = now
			}
		})
	}
}

// TestForeignLinks finds what rules of either iptables are about, but for our own ones where iptables has them.
func TestForeignLinks(t *testing.T) {
	env := kerntest.New(t)
	k, err := Open(Config{RunDir: env.RunDir, Firewall: Iptables, Variant: iptables.Nft})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	rules := plan.Ruleset{Chains: []plan.Chain{{Family: plan.Inet, Name: "forward",
		Base: plan.Base{Type: "filter", Hook: "forward", Policy: "accept"}, Rules: []plan.Rule{{Verdict: plan.Drop,
			Match: []plan.Match{{Fields: []plan.Field{plan.IIfName}, Values: []string{"vlb-1"}}}}}}}}
	apply := func(want, have plan.State) {
		t.Helper()
		if err := k.Apply(t.Context(), plan.Diff(want, have)); err != nil {
			t.Fatal(err)
		}
	}
	apply(plan.State{Rules: rules}, plan.State{})
	defer apply(plan.State{}, plan.State{Rules: rules})
	for _, c := range []struct {
		setup string
		want  []string
	}{
		{"true", nil},
		{"iptables-legacy -A FORWARD -o vlb-2 -j DROP; iptables-legacy -A FORWARD -i vlb-3 -j ACCEPT",
			[]string{"vlb-2"}},
		{"ip6tables-nft -A FORWARD -i vlb-+ -j DROP; ip6tables-legacy -A INPUT -i vlb-4 -j DROP",
			[]string{"vlb-*", "vlb-2"}},
		{"iptables-legacy -t raw -A PREROUTING -i vlb-5 -j DROP; " +
			"iptables-legacy -t mangle -A FORWARD -o eth0 -j DROP; " +
			"iptables-legacy -A FORWARD -i vlb-6 -j LOG --log-prefix ACCEPT",
			[]string{"eth0", "vlb-*", "vlb-2", "vlb-5", "vlb-6"}},
	} {
		env.Sh(c.setup)
		if got, _, err := k.ForeignLinks(t.Context()); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("after %s: %q, %v; want %q", c.setup, got, err, c.want)
		}
	}
}

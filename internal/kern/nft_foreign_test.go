package kern

import (
	"slices"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/internal/plan"
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
			"for i in iptables-nft ip6tables-nft; do $i -P FORWARD DROP; $i -N DOCKER-USER; $i -A DOCKER-USER -j RETURN; $i -A FORWARD -j DOCKER-USER; done",
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

func foreignAccept(t *testing.T, setup, list, chain string) {
	f, _ := newFabric(t)
	k, err := Open(Config{RunDir: f.env.RunDir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	})
	want := plan.State{Accepts: []plan.ForeignAccept{{Family: "ip"}, {Family: "ip6"}}}
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
	needed := func() []plan.ForeignAccept {
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
	f.env.Sh(setup)
	if n := needed(); !slices.Equal(n, want.Accepts) {
		t.Errorf("%v needed, want %v", n, want.Accepts)
	}
	before := f.env.Sh(list)
	f.serve(f.client, 7000)
	out := []string{clientAddr4 + ":7000", "[" + clientAddr6 + "]:7000"}
	for _, addr := range out {
		if _, err := f.ask(f.container, "tcp", addr, shortPatience); err == nil {
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
		if _, err := f.ask(f.container, "tcp", addr, patience); err != nil {
			t.Errorf("out to %s: %v", addr, err)
		}
	}
	if n := needed(); !slices.Equal(n, want.Accepts) {
		t.Errorf("%v needed once it is there, want %v still", n, want.Accepts)
	}
	rules := f.env.Sh(list)
	if n, variants := strings.Count(rules, "-A "+chain+" -"), strings.Count(before, "-P FORWARD DROP"); n-strings.Count(before, "-A "+chain+" -") != 2*variants {
		t.Errorf("want two rules more in %s of %d tables:\n%s", chain, variants, rules)
	}
	if err := k.Apply(t.Context(), plan.Diff(plan.State{}, observed())); err != nil {
		t.Fatal(err)
	}
	if after := f.env.Sh(list); after != before {
		t.Errorf("left behind:\n%s\nwas:\n%s", after, before)
	}
	if have := observed(); len(have.Accepts) > 0 {
		t.Errorf("observed %v after its removal", have.Accepts)
	}
}

// TestForeignAcceptUnaware makes the accept where there is nothing it is needed for.
func TestForeignAcceptUnaware(t *testing.T) {
	_, env := openTestRules(t)
	k, err := Open(Config{RunDir: env.RunDir})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	accept := plan.ForeignAccept{Family: "ip"}
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
	if err != nil || !slices.Equal(s.Accepts, []plan.ForeignAccept{accept}) {
		t.Errorf("observed %v: %v", s.Accepts, err)
	}
	err = k.Apply(t.Context(), []plan.Op{{Verb: plan.Create, Object: plan.ForeignAccept{Family: "inet"}}})
	if err == nil || !strings.Contains(err.Error(), `family "inet" is none of ip, ip6`) {
		t.Errorf("error %v", err)
	}
}

package nftables

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/internal/kern/kerntest"
	"github.com/vethloom/vethloom/plan"
)

// handle is the shell text that finds the handle of the first rule of a chain
// that contains a text.
func handle(family, chain, text string) string {
	return "$(nft -a list chain " + family + " vethloom " + chain + " | sed -n 's/.*" + text +
		".*handle //p' | head -1)"
}

// TestStrangersAreNoticed lets somebody else change each kind of object: that must be a
// difference, and what the difference asks for must heal it.
func TestStrangersAreNoticed(t *testing.T) {
	r, env := openTestRules(t)
	want := firewall(t)
	mustApply(t, r, creation(want)...)
	masquerade := handle("inet", "postrouting", "@masq4 masquerade")
	for name, script := range map[string]string{
		"flush ruleset":  "nft flush ruleset",
		"delete table":   "nft delete table bridge vethloom",
		"flush chain":    "nft flush chain inet vethloom forward",
		"delete rule":    "nft delete rule inet vethloom postrouting handle " + masquerade,
		"add rule":       "nft add rule inet vethloom forward accept",
		"insert rule":    "nft insert rule bridge vethloom source accept",
		"add equal rule": "nft add rule inet vethloom postrouting ip saddr @masq4 masquerade",
		"replace rule": "nft replace rule inet vethloom postrouting handle " + masquerade +
			" ip saddr @masq4 masquerade",
		"replace by other": "nft replace rule inet vethloom postrouting handle " + masquerade +
			" ip daddr @masq4 masquerade",
		"reorder": "nft delete rule inet vethloom postrouting handle " + masquerade +
			"; nft add rule inet vethloom postrouting ip saddr @masq4 masquerade",
		"policy":    "nft add chain inet vethloom forward '{ policy drop; }'",
		"add chain": "nft add chain inet vethloom theirs",
		"add base chain": "nft add chain inet vethloom theirs '{ type filter hook ingress device lo " +
			"priority 5; }' || nft add chain inet vethloom theirs '{ type filter hook input priority 5; }'",
		"add set": "nft add set inet vethloom theirs '{ type mark; flags dynamic,timeout; timeout " +
			"5m; }'",
		"delete element":      "nft delete element inet vethloom bridges '{ vlb-3f2a }'",
		"delete interval":     "nft delete element inet vethloom masq4 '{ 10.2.0.0/16 }'",
		"delete map element":  "nft delete element inet vethloom range4 '{ 0.0.0.0/0 . tcp . 9000-9010 }'",
		"add element":         "nft add element inet vethloom bridges '{ eth7 }'",
		"add interval":        "nft add element inet vethloom masq4 '{ 192.168.7.3-192.168.7.99 }'",
		"add bottom interval": "nft add element inet vethloom masq4 '{ 0.0.0.0/8 }'",
		"add top interval":    "nft add element inet vethloom masq6 '{ ff00::/8 }'",
		"add map element": "nft add element inet vethloom ports4 '{ 10.0.0.0-10.0.0.9 . tcp . 1-3 : 10.1.0.9 " +
			". 99 }'",
		"add verdict":  "nft add element inet vethloom verdicts '{ eth7 : goto guard }'",
		"add catchall": "nft add element inet vethloom verdicts '{ * : drop }'",
		"change owner": "nft delete element inet vethloom bridges '{ vlb-3f2a }'; nft add element inet " +
			"vethloom bridges '{ vlb-3f2a comment \"network/0\" }'",
		"change data": "nft delete element inet vethloom ports4 '{ 127.0.0.1 . udp . 53 }'; nft add " +
			"element inet vethloom ports4 '{ 127.0.0.1 . udp . 53 comment \"endpoint/91bc\" : 10.1.0.2 . 5354 }'",
		"replace set": "nft flush chain inet vethloom postrouting; nft flush chain inet vethloom " +
			"forward; nft delete set inet vethloom masq4; nft add set inet vethloom masq4 '{ type ipv4_addr; }'",
		"save and restore": "nft list ruleset | sed 's/@th,64,128/ip6 saddr/' > $TMPDIR/saved; nft flush " +
			"ruleset; nft -f $TMPDIR/saved",
		"flush set": "nft flush set bridge vethloom source4",
		"rename by user data": "nft flush chain inet vethloom raw; nft add rule inet vethloom raw iifname != lo " +
			"ip daddr 127.0.0.0/8 counter drop",
		"swap rules of one kind": "nft flush chain inet vethloom publish; for m in range4 ports4; do nft add rule " +
			"inet vethloom publish 'meta l4proto { tcp, udp, sctp } dnat ip to ip daddr . meta l4proto . th dport " +
			"map @'$m; done",
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("TMPDIR", t.TempDir())
			stranger(t, r, env, want, script)
		})
	}
}

func stranger(t *testing.T, r *Rules, env *kerntest.Env, want plan.Ruleset, script string) {
	// The sub-test has a goroutine of its own: the namespace is the parent's.
	err := env.Do("", func() error {
		env.Sh("TMPDIR=" + t.TempDir() + "; " + script)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	have := mustObserve(t, r)
	if slices.Equal(lines(want), lines(have)) {
		t.Fatalf("%s: not noticed", script)
	}
	ops := plan.Diff(plan.State{Rules: want}, plan.State{Rules: have})
	mustApply(t, r, ops...)
	checkSame(t, want, mustObserve(t, r))
}

func TestRulesAtomic(t *testing.T) {
	r, env := openTestRules(t)
	want := firewall(t)
	bad := plan.Element{Family: plan.Inet, Set: "verdicts", Keys: []string{"eth0"}, Data: []string{"jump nowhere"},
		Owner: "network/1"}
	err := r.Apply(t.Context(), append(creation(want), plan.Op{Verb: plan.Create, Object: bad}))
	var failed *plan.OpError
	if !errors.As(err, &failed) || failed.Op.Object.Key() != bad.Key() || !errors.Is(err, unix.ENOENT) {
		t.Errorf("error %v does not name %s", err, bad.Key())
	}
	if left := env.Run("nft", "list", "ruleset"); left != "" {
		t.Errorf("a failed transaction left:\n%s", left)
	}
}

// TestRuleErrors checks that an error names the object and the cause.
func TestRuleErrors(t *testing.T) {
	r, _ := openTestRules(t)
	mustApply(t, r, creation(firewall(t))...)
	element := func(set string, keys, data []string) plan.Op {
		return plan.Op{Verb: plan.Create, Object: plan.Element{Family: plan.Inet, Set: set, Keys: keys, Data: data}}
	}
	for name, c := range map[string]struct {
		op    plan.Op
		words []string
		is    error
	}{
		"no such set": {element("nosuch", []string{"a"}, nil), []string{"element inet nosuch", "set nosuch"},
			unix.ENOENT},
		"other data": {
			element("ports4", []string{"0.0.0.0/0", "tcp", "8080"}, []string{"10.1.0.9", "80"}),
			[]string{"ports4 0.0.0.0/0 . tcp . 8080", "other content"}, unix.EEXIST,
		},
		"overlap": {
			element("range4", []string{"0.0.0.0/0", "tcp", "9010-9020"}, []string{"10.1.0.9"}),
			[]string{"range4 0.0.0.0/0 . tcp . 9010-9020"}, unix.EEXIST,
		},
		"set in use": {
			plan.Op{Verb: plan.Delete, Object: firewallSets()[0]}, []string{"set inet bridges", "still refers"},
			unix.EBUSY,
		},
		"bad port": {element("range4", []string{"::1", "tcp", "80"}, []string{"10.1.0.9"}),
			[]string{"key part 1", `"::1"`}, nil},
		"bad number": {element("range4", []string{"1.2.3.4", "tcp", "80000"}, []string{"10.1.0.9"}),
			[]string{"key part 3", `"80000"`}, nil},
		"reversed": {element("range4", []string{"1.2.3.4", "tcp", "90-80"}, []string{"10.1.0.9"}),
			[]string{"key part 3", `"90-80"`}, nil},
		"parts": {element("range4", []string{"1.2.3.4", "tcp"}, []string{"10.1.0.9"}), []string{"2 parts", "3"},
			nil},
		"data range": {element("range4", []string{"1.2.3.4", "tcp", "1"}, []string{"10.1.0.0/24"}),
			[]string{"data part 1"}, nil},
		"range in set": {element("same", []string{"vlb-1", ""}, nil), []string{"key part 2"}, nil},
		"long scope": {
			plan.Op{Verb: plan.Create, Object: plan.Element{
				Family: plan.Inet, Set: "bridges", Keys: []string{"a"}, Owner: plan.Owner(strings.Repeat("x", 200)),
			}},
			[]string{"scope", "200"}, nil,
		},
		"rule of a missing set": {
			plan.Op{Verb: plan.Create, Object: testChain(t, plan.Inet, "bad", plan.Base{}, "iifname @nosuch accept")},
			[]string{"chain inet bad", "@nosuch"}, unix.ENOENT,
		},
		"other hook": {
			plan.Op{Verb: plan.Create, Object: testChain(t, plan.Inet, "raw", testBase("filter", "input", 7))},
			[]string{"chain inet raw", "another hook"}, nil,
		},
		"two protocols": {
			plan.Op{Verb: plan.Create, Object: testChain(t, plan.Inet, "bad", plan.Base{},
				"ip saddr 1.2.3.4 ip6 daddr ::1 accept")},
			[]string{"chain inet bad", "ip6"}, nil,
		},
		"masquerade outside nat": {
			plan.Op{Verb: plan.Create, Object: testChain(t, plan.Inet, "bad", testBase("filter", "input", 7),
				"masquerade")},
			[]string{"chain inet bad", `"masquerade"`}, nil,
		},
	} {
		before := lines(mustObserve(t, r))
		err := r.Apply(t.Context(), []plan.Op{c.op})
		if err == nil {
			t.Errorf("%s: no error", name)
			continue
		}
		var failed *plan.OpError
		if !errors.As(err, &failed) || failed.Op.Object.Key() != c.op.Object.Key() {
			t.Errorf("%s: %v is not about %s", name, err, c.op.Object.Key())
		}
		for _, word := range c.words {
			if !strings.Contains(err.Error(), word) {
				t.Errorf("%s: %q lacks %q", name, err, word)
			}
		}
		if c.is != nil && !errors.Is(err, c.is) {
			t.Errorf("%s: %v is not %v", name, err, c.is)
		}
		if after := lines(mustObserve(t, r)); !slices.Equal(before, after) {
			t.Errorf("%s: something has changed", name)
		}
	}
}

// TestRemovalAfterDrift removes what somebody else has already removed in part.
func TestRemovalAfterDrift(t *testing.T) {
	for name, script := range map[string]string{
		"one element": "nft delete element inet vethloom ports4 '{ 127.0.0.1 . udp . 53 }'",
		"a set":       "nft flush chain inet vethloom publish; nft delete map inet vethloom ports4",
		"a table":     "nft delete table inet vethloom",
		"everything":  "nft flush ruleset",
	} {
		t.Run(name, func(t *testing.T) {
			r, env := openTestRules(t)
			want := firewall(t)
			mustApply(t, r, creation(want)...)
			env.Sh(script)
			mustApply(t, r, operations(plan.Delete, plan.Ruleset{Elements: want.Elements})...)
			if left := mustObserve(t, r).Elements; len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

// TestModifyWhatIsAway repairs with the operations of an outdated observation.
func TestModifyWhatIsAway(t *testing.T) {
	r, env := openTestRules(t)
	want := firewall(t)
	mustApply(t, r, creation(want)...)
	old := want.Chains[1]
	old.Rules = old.Rules[1:]
	other := want.Elements[0]
	other.Owner = "network/0"
	ops := []plan.Op{
		{Verb: plan.Modify, Object: want.Chains[1], Old: old},
		{Verb: plan.Modify, Object: want.Elements[0], Old: other},
	}
	mustApply(t, r, ops...)
	checkSame(t, want, mustObserve(t, r))
	env.Run("nft", "flush", "chain", "inet", "vethloom", "forward")
	env.Run("nft", "delete", "chain", "inet", "vethloom", "forward")
	env.Run("nft", "flush", "set", "inet", "vethloom", "bridges")
	mustApply(t, r, ops...)
	checkSame(t, want, mustObserve(t, r))
}

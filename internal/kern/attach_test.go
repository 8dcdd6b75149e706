package kern_test

import (
	"context"
	"net/netip"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/internal/kern"
	"github.com/vethloom/vethloom/internal/kern/kerntest"
	"github.com/vethloom/vethloom/plan"
)

// open opens the kernel in the test's namespace and, at the end, removes all
// that is ours.
func open(tb testing.TB, env *kerntest.Env) *kern.Kernel {
	tb.Helper()
	return openWith(tb, kern.Config{RunDir: env.RunDir})
}

func openWith(tb testing.TB, cfg kern.Config) *kern.Kernel {
	tb.Helper()
	k, err := kern.Open(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		converge(tb, k, plan.State{})
		if err := k.Close(); err != nil {
			tb.Errorf("close: %v", err)
		}
	})
	return k
}

// fataler is a test, or a run of a property.
type fataler interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
}

// observe reads what the kernel has.
func observe(tb fataler, k *kern.Kernel, sysctls []plan.Sysctl) plan.State {
	tb.Helper()
	have, err := k.Observe(context.Background(), sysctls)
	if err != nil {
		tb.Fatal(err)
	}
	return have
}

// converge makes the kernel have what is wanted, and returns the operations it took.
func converge(tb fataler, k *kern.Kernel, want plan.State) []plan.Op {
	tb.Helper()
	ops := plan.Diff(want, observe(tb, k, want.Sysctls))
	if err := k.Apply(context.Background(), ops); err != nil {
		tb.Fatalf("apply: %v\nof\n%s", err, lines(ops))
	}
	return ops
}

// settled fails unless the kernel has what is wanted.
func settled(tb fataler, k *kern.Kernel, want plan.State) {
	tb.Helper()
	if ops := plan.Diff(want, observe(tb, k, want.Sysctls)); len(ops) > 0 {
		tb.Fatalf("still to do:\n%s", lines(ops))
	}
}

func lines(ops []plan.Op) string {
	var b strings.Builder
	for _, op := range ops {
		b.WriteString(op.String() + "\n")
	}
	return b.String()
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }

// network is a bridge with a gateway of both families.
func network() plan.State {
	return plan.State{
		Links: []plan.Link{{Name: "vlb-1", Owner: "network/1", Kind: plan.Bridge, MTU: 1500, Up: true,
			MAC: plan.MAC{2, 0, 0, 0, 0, 1}}},
		Addrs: []plan.Addr{
			{Link: "vlb-1", Prefix: prefix("10.1.0.1/16")},
			{Link: "vlb-1", Prefix: prefix("fd00:1::1/64")},
		},
		Sysctls: []plan.Sysctl{
			{Path: "ipv4/ip_forward", Value: "1"},
			{Path: "ipv4/conf/vlb-1/route_localnet", Value: "1"},
		},
		Routes: []plan.Route{
			{Type: plan.Local, Table: 255, Dst: prefix("::1/128"), Link: "vlb-1", Metric: 4096},
		},
	}
}

// endpoint is a sandbox on that bridge.
func endpoint() plan.State {
	return plan.State{
		Namespaces: []plan.Namespace{{Name: "sb"}},
		Links: []plan.Link{{
			Name: "vle-1", Owner: "endpoint/1", Kind: plan.Veth, MTU: 1500, Up: true, Master: "vlb-1",
			Port: plan.BridgePort{Hairpin: true, Isolated: true},
			Peer: plan.VethPeer{NS: "sb", Name: "eth0", MAC: plan.MAC{2, 0x42, 10, 1, 0, 2}},
		}},
		Addrs: []plan.Addr{
			{NS: "sb", Link: "eth0", Prefix: prefix("10.1.0.2/16")},
			{NS: "sb", Link: "eth0", Prefix: prefix("fd00:1::2/64")},
		},
		Routes: []plan.Route{
			{NS: "sb", Dst: prefix("0.0.0.0/0"), Via: addr("10.1.0.1"), Link: "eth0"},
			{NS: "sb", Dst: prefix("::/0"), Via: addr("fd00:1::1"), Link: "eth0"},
		},
	}
}

func TestAttach(t *testing.T) {
	env := kerntest.New(t)
	k := open(t, env)
	converge(t, k, network())
	want := plan.Union(network(), endpoint())
	converge(t, k, want)
	settled(t, k, want)

	env.RunIn("sb", "ping", "-c1", "-W2", "10.1.0.1")
	env.RunIn("sb", "ping", "-c1", "-W2", "fd00:1::1")
	near := env.Run("ip", "-d", "link", "show", "vle-1")
	for _, part := range []string{"master vlb-1", "alias vethloom:endpoint/1\n", "isolated on", "hairpin on",
		"addrgenmode none", "group 1986817901"} {
		if !strings.Contains(near, part) {
			t.Errorf("near end lacks %q:\n%s", part, near)
		}
	}
	far := env.RunIn("sb", "ip", "-d", "link", "show", "eth0") + env.RunIn("sb", "ip", "addr", "show", "eth0")
	for _, part := range []string{"alias vethloom:endpoint/1 peer\n", "addrgenmode none", "02:42:0a:01:00:02"} {
		if !strings.Contains(far, part) {
			t.Errorf("far end lacks %q:\n%s", part, far)
		}
	}
	if strings.Contains(far+near, "fe80:") {
		t.Errorf("link-local addresses:\n%s%s", near, far)
	}
}

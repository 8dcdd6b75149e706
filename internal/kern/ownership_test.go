package kern_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/vethloom/vethloom/internal/kern"
	"github.com/vethloom/vethloom/internal/kern/kerntest"
	"github.com/vethloom/vethloom/plan"
)

// TestStrangersAreLeftAlone makes objects like ours without our mark.
func TestStrangersAreLeftAlone(t *testing.T) {
	env := kerntest.New(t)
	k := open(t, env)
	converge(t, k, plan.Union(network(), endpoint()))
	env.Sh(`
		ip link add vlb-9 type bridge
		ip link set vlb-9 up
		ip addr add 192.0.2.1/24 dev vlb-9
		ip route add 198.51.100.0/24 via 192.0.2.2
		ip neigh add 192.0.2.3 lladdr 02:00:00:00:00:09 dev vlb-9
	`)
	env.RunIn("sb", "ip", "addr", "add", "10.1.0.77/16", "dev", "eth0")
	env.RunIn("sb", "ip", "route", "add", "203.0.113.0/24", "via", "10.1.0.1")
	settled(t, k, plan.Union(network(), endpoint()))

	// Creating what somebody else has is an error, not a take-over.
	for name, want := range map[string]plan.State{
		"link":  {Links: []plan.Link{{Name: "vlb-9", Owner: "network/9", Kind: plan.Bridge, Up: true}}},
		"route": {Routes: []plan.Route{{Dst: prefix("198.51.100.0/24"), Via: addr("192.0.2.4"), Link: "vlb-9"}}},
	} {
		err := k.Apply(context.Background(), plan.Diff(want, plan.State{}))
		var failed *plan.OpError
		if !errors.As(err, &failed) || !errors.Is(err, os.ErrExist) {
			t.Errorf("%s: error %v; want that it exists", name, err)
		}
		if err := k.Apply(context.Background(), plan.Diff(plan.State{}, want)); err != nil {
			t.Errorf("%s: remove: %v", name, err)
		}
	}
	out := env.Sh("ip addr show vlb-9; ip route; ip neigh") + env.RunIn("sb", "sh", "-c", "ip addr; ip route")
	for _, part := range []string{"192.0.2.1/24", "198.51.100.0/24 via 192.0.2.2", "02:00:00:00:00:09 PERMANENT",
		"10.1.0.77/16", "203.0.113.0/24 via 10.1.0.1"} {
		if !strings.Contains(out, part) {
			t.Errorf("%s has gone:\n%s", part, out)
		}
	}
	converge(t, k, plan.State{})
	env.Sh("ip link show vlb-9; ip link del vlb-9")
}

// TestRestart opens the kernel anew over what an earlier run has left, crumbs of a
// crash among it.
func TestRestart(t *testing.T) {
	env := kerntest.New(t)
	first, err := kern.Open(kern.Config{RunDir: env.RunDir})
	if err != nil {
		t.Fatal(err)
	}
	want := plan.Union(network(), endpoint())
	converge(t, first, want)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	crumb := filepath.Join(env.RunDir, "netns", "half")
	if err := os.WriteFile(crumb, nil, 0o444); err != nil {
		t.Fatal(err)
	}
	k := open(t, env)
	settled(t, k, want)
	if _, err := os.Stat(crumb); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file without a namespace is left: %v", err)
	}
	// A crash before both are marked leaves the group alone.
	env.Sh("ip link set vle-1 alias ''; ip link set vle-1 down; ip link set vlb-1 alias ''")
	env.RunIn("sb", "ip", "link", "set", "eth0", "alias", "")
	if ops := converge(t, k, want); slices.ContainsFunc(ops, func(op plan.Op) bool {
		return op.Kind() == "link" &&
			op.Verb != plan.Modify
	}) {
		t.Errorf("links without an alias are not taken up:\n%s", lines(ops))
	}
	settled(t, k, want)
	env.Sh("ip link set vle-1 alias ''; ip link set vlb-1 alias ''")
	env.RunIn("sb", "ip", "link", "set", "eth0", "alias", "")
	converge(t, k, plan.State{})
	env.Sh("! ip link show vlb-1 2>/dev/null")
	converge(t, k, want)
	// A crash between the two messages about a pair leaves its far end without a mark and down.
	env.RunIn("sb", "sh", "-c", "ip link set eth0 down; ip link set eth0 alias ''")
	converge(t, k, want)
	settled(t, k, want)
	env.RunIn("sb", "ping", "-c1", "-W2", "10.1.0.1")
}

func TestNamesThatLeaveTheDirectory(t *testing.T) {
	env := kerntest.New(t)
	k := open(t, env)
	for _, name := range []plan.NetNS{"", ".", "..", "../x", "a/b", "a\x00b"} {
		for _, v := range []plan.Verb{plan.Create, plan.Delete} {
			if err := k.Apply(context.Background(),
				[]plan.Op{{Verb: v, Object: plan.Namespace{Name: name}}}); err == nil {
				t.Errorf("%s of namespace %q succeeds", v, name)
			}
		}
	}
	for _, path := range []string{"", "../kernel/hostname", "ipv4/../../kernel/hostname", "/ipv4/ip_forward"} {
		op := plan.Op{Verb: plan.Create, Object: plan.Sysctl{Path: path, Value: "1"}}
		if err := k.Apply(context.Background(), []plan.Op{op}); err == nil {
			t.Errorf("sysctl %q can be set", path)
		}
	}
	for _, name := range []string{"", "a/b", "sixteen-bytes-xx", "a b"} {
		op := plan.Op{Verb: plan.Create, Object: plan.Link{Name: name, Kind: plan.Bridge, Owner: "x"}}
		if err := k.Apply(context.Background(), []plan.Op{op}); err == nil {
			t.Errorf("link %q can be made", name)
		}
	}
}

// attach is the nth endpoint on the network.
func attach(n int) plan.State {
	ns := plan.NetNS(fmt.Sprintf("sb%d", n))
	ip := fmt.Sprintf("10.1.%d.%d", 1+n/200, 1+n%200)
	return plan.State{
		Namespaces: []plan.Namespace{{Name: ns}},
		Links: []plan.Link{{
			Name: fmt.Sprintf("vle-%d", n), Owner: plan.Owner(fmt.Sprintf("endpoint/%d", n)), Kind: plan.Veth,
			MTU: 1500, Up: true, Master: "vlb-1", Port: plan.BridgePort{Hairpin: true},
			Peer: plan.VethPeer{NS: ns, Name: "eth0"},
		}},
		Addrs:  []plan.Addr{{NS: ns, Link: "eth0", Prefix: prefix(ip + "/16")}},
		Routes: []plan.Route{{NS: ns, Dst: prefix("0.0.0.0/0"), Via: addr("10.1.0.1"), Link: "eth0"}},
	}
}

// TestParallelAttaches applies many endpoints at once, as callers of the real
// thing may, and then lets all go in one pass.
func TestParallelAttaches(t *testing.T) {
	env := kerntest.New(t)
	k := open(t, env)
	converge(t, k, network())
	const count = 50
	states := []plan.State{network()}
	errs := make([]error, count)
	var all sync.WaitGroup
	for n := range count {
		states = append(states, attach(n))
		all.Go(func() { errs[n] = k.Apply(context.Background(), plan.Diff(attach(n), plan.State{})) })
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	settled(t, k, plan.Union(states...))
	env.RunIn("sb0", "ping", "-c1", "-W2", "10.1.1.50")

	// Without the namespaces the links go by one message.
	var kept plan.State
	for n := range count {
		kept.Namespaces = append(kept.Namespaces, attach(n).Namespaces...)
	}
	want := plan.Union(network(), kept)
	converge(t, k, want)
	settled(t, k, want)
}

func BenchmarkAttach(b *testing.B) {
	env := kerntest.New(b)
	k := open(b, env)
	converge(b, k, network())
	n := 0
	var done plan.State
	for b.Loop() {
		s := attach(n % 20000)
		if err := k.Apply(context.Background(), plan.Diff(s, plan.State{})); err != nil {
			b.Fatal(err)
		}
		done = s
		n++
	}
	b.StopTimer()
	converge(b, k, plan.Union(network(), done))
}

func BenchmarkObserve100(b *testing.B) {
	env := kerntest.New(b)
	k := open(b, env)
	states := []plan.State{network()}
	for n := range 100 {
		states = append(states, attach(n))
	}
	want := plan.Union(states...)
	converge(b, k, want)
	for b.Loop() {
		settled(b, k, want)
	}
}

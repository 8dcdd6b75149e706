package kern_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/internal/kern/kerntest"
	"github.com/vethloom/vethloom/plan"
)

// A link of somebody else's becomes a port of our bridge, again after others have taken it out or it was away, and is
// let go with the bridge. Ports that others have added stay.
func TestAMemberOfABridge(t *testing.T) {
	env := kerntest.New(t)
	k := open(t, env)
	env.Sh("ip link add eth1 type veth peer name far; ip link add tap1 type veth peer name far2; ip link set eth1 up")
	drift, err := k.Drift(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	bridge := plan.State{Links: []plan.Link{
		{Name: "vlb-1", Owner: "network/1", Kind: plan.Bridge, MTU: 1500, Up: true}}}
	want := plan.Union(bridge, plan.State{Members: []plan.MemberLink{{Link: "eth1", Bridge: "vlb-1"}}})
	converge(t, k, want)
	calm(t, drift, "our own creation")
	for _, change := range []string{
		"ip link set eth1 nomaster",
		"ip link del vlb-1",
		"ip link del eth1; ip link add eth1 type veth peer name far",
		"ip link add other type bridge; ip link set eth1 master other; ip link del other",
	} {
		repaired(t, env, k, drift, want, change)
	}
	env.Sh("ip link set tap1 master vlb-1")
	quiet(t, drift, "a port that others have added")
	converge(t, k, bridge)
	if got := env.Sh("ip -o link show eth1; ip -o link show tap1"); strings.Count(got, "master vlb-1") != 1 {
		t.Errorf("after the member was let go:\n%s", got)
	}
	converge(t, k, want)
	converge(t, k, plan.State{})
	if got := env.Sh("ip -o link show eth1"); strings.Contains(got, "master") {
		t.Errorf("after the bridge went:\n%s", got)
	}
	calm(t, drift, "our own removal")
	env.Sh("ip link del eth1; ip link del tap1")
}

// A link that is in use is not taken, and stays as it is; one that comes back is noticed although it was missing when
// it was wanted.
func TestNoMemberOfABridge(t *testing.T) {
	for _, c := range []struct{ made, want string }{
		{"ip link add eth1 type veth peer name far; ip addr add 192.0.2.1/24 dev eth1", "192.0.2.1/24"},
		{"ip link add eth1 type veth peer name far; ip addr add 2001:db8::1/64 dev eth1", "2001:db8::1/64"},
		{"ip link add eth1 type veth peer name far; ip link add br0 type bridge; ip link set eth1 master br0",
			"a port of another bridge"},
		{"ip link add eth1 type bridge", "a bridge itself"},
		{"ip link add eth1 type veth peer name far; ip link add m0 link eth1 type macvlan", "macvlan or ipvlan on it"},
	} {
		env := kerntest.New(t)
		k := open(t, env)
		env.Sh(c.made)
		before := env.Sh("ip -d link show eth1")
		ops := plan.Diff(plan.State{
			Links:   []plan.Link{{Name: "vlb-1", Owner: "network/1", Kind: plan.Bridge, MTU: 1500, Up: true}},
			Members: []plan.MemberLink{{Link: "eth1", Bridge: "vlb-1"}},
		}, plan.State{})
		err := k.Apply(context.Background(), ops)
		if unfit, ok := errors.AsType[*plan.UnfitLinkError](err); !ok || !strings.Contains(unfit.Reason, c.want) {
			t.Errorf("%s: %v, want %q", c.made, err, c.want)
		}
		if after := env.Sh("ip -d link show eth1"); after != before {
			t.Errorf("%s: before %s after %s", c.made, before, after)
		}
		converge(t, k, plan.State{})
		env.Sh("ip link del eth1; ! ip link show br0 2>/dev/null || ip link del br0")
	}
}

func TestAMemberThatIsMissing(t *testing.T) {
	env := kerntest.New(t)
	k := open(t, env)
	drift, err := k.Drift(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	want := plan.State{
		Links:   []plan.Link{{Name: "vlb-1", Owner: "network/1", Kind: plan.Bridge, MTU: 1500, Up: true}},
		Members: []plan.MemberLink{{Link: "eth1", Bridge: "vlb-1"}},
	}
	err = k.Apply(context.Background(), plan.Diff(want, plan.State{}))
	if missing, ok := errors.AsType[*plan.NoLinkError](err); !ok || missing.Link != "eth1" {
		t.Fatalf("got %v, want that the link is missing", err)
	}
	calm(t, drift, "what was made")
	env.Sh("ip link add eth1 type veth peer name far")
	woken(t, drift, "the link that came")
	converge(t, k, want)
	settled(t, k, want)
	converge(t, k, plan.State{})
	env.Sh("ip link del eth1")
}

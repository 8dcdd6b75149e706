package kern_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/internal/kern/kerntest"
	"github.com/vethloom/vethloom/plan"
)

// given is a sandbox with a link in it that somebody else makes by the name src.
func given(src string, after uint32) plan.State {
	return plan.State{
		Namespaces: []plan.Namespace{{Name: "box"}},
		Links: []plan.Link{{NS: "box", Name: "eth0", Owner: "endpoint/1", Kind: plan.Given, Up: true,
			MAC: plan.MAC{2, 0, 0, 0, 0, 7}, Given: plan.GivenLink{Name: src, After: after}}},
		Addrs: []plan.Addr{{NS: "box", Link: "eth0", Prefix: netip.MustParsePrefix("10.1.0.2/24")}},
		Routes: []plan.Route{{NS: "box", Link: "eth0", Dst: netip.MustParsePrefix("0.0.0.0/0"),
			Via: netip.MustParseAddr("10.1.0.1")}},
	}
}

// A link that somebody else has made is moved, renamed, and found again, whatever its kind; it goes with the sandbox.
func TestAGivenLink(t *testing.T) {
	for kind, add := range map[string]string{
		"veth": "ip link add src type veth peer name far", "macvlan": "ip link add src link low type macvlan",
	} {
		t.Run(kind, func(t *testing.T) {
			env := kerntest.New(t)
			k := open(t, env)
			env.Sh("ip link add low type veth peer name low2; ip link set low up")
			t.Cleanup(func() { env.Sh("ip link del low; ip link del far 2>/dev/null || true") })
			after, err := k.LastLink(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			env.Sh(add)
			env.Sh("ip link set src up")
			want := given("src", after)
			converge(t, k, want)
			if ops := converge(t, k, want); len(ops) > 0 {
				t.Errorf("still to do: %s", lines(ops))
			}
			env.RunIn("box", "ip", "link", "set", "eth0", "address", "02:00:00:00:00:08", "mtu", "1000")
			env.RunIn("box", "ip", "link", "set", "eth0", "down")
			converge(t, k, want)
			if ops := converge(t, k, want); len(ops) > 0 {
				t.Errorf("after a change by others, still to do: %s", lines(ops))
			}
			text := env.RunIn("box", "ip", "addr", "show", "eth0")
			for _, part := range []string{"02:00:00:00:00:07", "10.1.0.2/24", "UP"} {
				if !strings.Contains(text, part) {
					t.Errorf("no %s in %s", part, text)
				}
			}
			want.Links, want.Addrs, want.Routes = nil, nil, nil
			converge(t, k, want)
			if text := env.RunIn("box", "ip", "-o", "link"); strings.Count(text, "\n") != 1 {
				t.Errorf("left in the sandbox: %s", text)
			}
		})
	}
}

// What the host or the fabric has is never taken, whatever is said of it.
func TestLinksThatAreNotTaken(t *testing.T) {
	env := kerntest.New(t)
	k := open(t, env)
	env.Sh("ip link add old type veth peer name old2")
	after, err := k.LastLink(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	env.Sh(`for l in uplink port under vle-1234567 marked; do ip link add ${l} type veth peer name x-$l; done
		ip link set vle-1234567 name vle-12345678
		ip addr add 192.0.2.1/24 dev uplink; ip link set uplink up
		ip link add sw0 type bridge; ip link set port master sw0
		ip link add over link under type macvlan
		ip link set marked alias vethloom:endpoint/2`)
	t.Cleanup(func() {
		env.Sh("for l in old uplink sw0 port under vle-12345678 marked; do ip link del $l 2>/dev/null || true; done")
	})
	for src, want := range map[string]string{
		"lo": "device of the host", "old": "before it was asked for", "uplink": "the address 192.0.2.1/24",
		"port": "a port of another link", "sw0": "link port of the host sits on it", "under": "link over of the host",
		"vle-12345678": "one of vethloom's own", "marked": "one of vethloom's own",
	} {
		err := k.Apply(context.Background(), []plan.Op{
			{Verb: plan.Create, Object: plan.Namespace{Name: "box"}},
			{Verb: plan.Create, Object: given(src, after).Links[0]},
		})
		var foreign *plan.ForeignLinkError
		if !errors.As(err, &foreign) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", src, err, want)
		}
		env.Run("ip", "link", "show", src)
		if err := k.Apply(context.Background(), []plan.Op{
			{Verb: plan.Delete, Object: plan.Namespace{Name: "box"}}}); err != nil {
			t.Fatal(err)
		}
	}
	var missing *plan.NoLinkError
	err = k.Apply(context.Background(), []plan.Op{
		{Verb: plan.Create, Object: plan.Namespace{Name: "box"}},
		{Verb: plan.Create, Object: given("nope", after).Links[0]},
	})
	if !errors.As(err, &missing) || missing.Link != "nope" {
		t.Errorf("a link that is not there: %v", err)
	}
	env.Sh("ip link add src type veth peer name src2")
	env.RunIn("box", "ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth1")
	err = k.Apply(context.Background(), []plan.Op{{Verb: plan.Create, Object: given("src", after).Links[0]}})
	if err == nil || !strings.Contains(fmt.Sprint(err), "the sandbox has a link eth0 already") {
		t.Errorf("a name that is taken: %v", err)
	}
	env.Run("ip", "link", "del", "src")
}

package kern_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/internal/kern"
	"github.com/vethloom/vethloom/internal/kern/host"
	"github.com/vethloom/vethloom/internal/kern/kerntest"
	"github.com/vethloom/vethloom/plan"
	"golang.org/x/sys/unix"
)

// tunnelled is the spanning state with a tunnel on its TUN link.
func tunnelled() plan.State {
	s := spanning()
	s.Tunnels = []plan.Tunnel{{Link: "vlt-3", Local: addr("192.0.2.1"), Port: 8285}}
	s.TunnelPeers = []plan.TunnelPeer{
		{Link: "vlt-3", Prefix: prefix("10.3.2.0/24"), Dst: addr("192.0.2.2")},
		{Link: "vlt-3", Prefix: prefix("10.3.3.0/24"), Dst: addr("192.0.2.3")},
	}
	return s
}

// TestLinksThatVanish removes a link of another kind each time: it is noticed, and one pass
// brings it back with everything on it.
func TestLinksThatVanish(t *testing.T) {
	env := kerntest.New(t)
	host := &kerntest.Tunnels{}
	k := openWith(t, kern.Config{RunDir: env.RunDir, Tunnels: host})
	drift, err := k.Drift(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	want := tunnelled()
	converge(t, k, want)
	calm(t, drift, "our own creation")
	quiet(t, drift, "nothing")
	for _, c := range []struct {
		change string
		ops    int // at least
	}{
		{"ip link del vlx-1", 1 + 3 + 2},
		{"ip link del vlf-2", 1 + 2 + 1 + 2 + 2},
		{"ip link del vlt-3", 1 + 2 + 1 + 2 + 2},
		{"ip link set vlt-3 down", 1 + 2},
		{"bridge fdb del 00:00:00:00:00:00 dev vlx-1 dst 192.0.2.3", 1},
		{"bridge fdb del 02:00:00:00:07:02 dev vlx-6", 1},
		{"bridge fdb replace 02:00:00:00:07:03 dev vlf-2 dst 192.0.2.77", 1},
		{"bridge fdb append 02:00:00:00:07:55 dev vlf-2 dst 192.0.2.77", 1},
		{"ip neigh del 10.2.2.0 dev vlf-2", 1},
		{"ip neigh del fd00:1::7 dev vlx-1", 1},
		{"ip neigh replace 10.1.0.7 dev vlx-1 lladdr 02:00:00:00:00:66 nud permanent", 1},
		{"ip neigh replace fd00:2:2:: dev vlf-2 lladdr 02:00:00:00:07:03 nud reachable", 1},
		{"ip link set vlf-2 type vxlan learning", 1},
	} {
		env.Sh(c.change)
		woken(t, drift, c.change)
		if ops := converge(t, k, want); len(ops) < c.ops {
			t.Errorf("%s: repaired with\n%swant %d operations", c.change, lines(ops), c.ops)
		}
		settled(t, k, want)
		calm(t, drift, "the repair of "+c.change)
	}
	// Others' neighbours, and what a link learns, are none of our business.
	env.Sh("ip neigh add 10.2.2.99 dev vlf-2 lladdr 02:00:00:00:00:99 nud reachable; ip neigh del 10.2.2.99 dev vlf-2")
	quiet(t, drift, "a neighbour that is not ours")
	converge(t, k, plan.State{})
	calm(t, drift, "our own removal")
	if tunnels, remotes := host.List(); len(tunnels)+len(remotes) > 0 {
		t.Errorf("left behind: %v %v", tunnels, remotes)
	}
}

func TestTunnelErrors(t *testing.T) {
	env := kerntest.New(t)
	host := &kerntest.Tunnels{}
	k := openWith(t, kern.Config{RunDir: env.RunDir, Tunnels: host})
	var udp *net.UDPConn
	if err := env.Do("", func() (err error) {
		udp, err = net.ListenUDP("udp4", &net.UDPAddr{Port: 8285})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	host.FailWith(unix.EADDRINUSE)
	err := k.Apply(context.Background(), plan.Diff(tunnelled(), plan.State{}))
	var failed *plan.OpError
	var taken *plan.PortTakenError
	if !errors.As(err, &failed) || failed.Op.Kind() != "tunnel" || !errors.As(err, &taken) ||
		!strings.HasPrefix(taken.By, "kern.test (pid ") {
		t.Errorf("a port that is taken: %v", err)
	}
	udp.Close()
	host.FailWith(nil)
	converge(t, k, tunnelled())
	settled(t, k, tunnelled())
	converge(t, k, plan.State{})

	none := open(t, env)
	err = none.Apply(context.Background(), plan.Diff(tunnelled(), plan.State{}))
	if !errors.Is(err, plan.ErrUnsupported) {
		t.Errorf("a tunnel that nobody carries: %v", err)
	}
}

func TestFeaturesAcrossHosts(t *testing.T) {
	kerntest.New(t)
	all, err := host.Features(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, f := range all {
		found[f.Name] = f.Err == nil
	}
	if !found["vxlan"] || !found["tun"] {
		t.Errorf("features: %v", all)
	}
}

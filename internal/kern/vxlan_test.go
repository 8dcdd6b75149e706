package kern_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vethloom/vethloom/internal/kern/kerntest"
	"github.com/vethloom/vethloom/plan"
)

// spanning is a VXLAN device that is routed to, one of each family that is a port of a
// bridge, and a TUN link.
func spanning() plan.State {
	return plan.State{
		Links: []plan.Link{
			{Name: "vlb-1", Owner: "network/1", Kind: plan.Bridge, MTU: 1450, Up: true,
				MAC: plan.MAC{2, 0, 0, 0, 0, 1}},
			{Name: "vlx-1", Owner: "network/1", Kind: plan.VXLAN, MTU: 1450, Up: true, Master: "vlb-1",
				Port:  plan.BridgePort{Isolated: true},
				VXLAN: plan.VXLANDevice{VNI: 4097, Port: 4789, Local: addr("192.0.2.1"), Proxy: true}},
			{Name: "vlx-6", Owner: "network/6", Kind: plan.VXLAN, MTU: 1430, Up: true, Master: "vlb-1",
				VXLAN: plan.VXLANDevice{VNI: 4097, Port: 4790, Local: addr("2001:db8::1")}},
			{Name: "vlf-2", Owner: "network/2", Kind: plan.VXLAN, MAC: plan.MAC{2, 0, 0, 0, 0, 2}, MTU: 1450, Up: true,
				VXLAN: plan.VXLANDevice{VNI: 1, Port: 8472, Local: addr("192.0.2.1")}},
			{Name: "vlt-3", Owner: "network/3", Kind: plan.TUN, MTU: 1472, Up: true},
		},
		Addrs: []plan.Addr{{Link: "vlf-2", Prefix: prefix("10.2.1.0/32")},
			{Link: "vlf-2", Prefix: prefix("fd00:2:1::/128")},
			{Link: "vlt-3", Prefix: prefix("10.3.1.0/32")}, {Link: "vlt-3", Prefix: prefix("fd00:3:1::/128")}},
		FDB: []plan.FDBEntry{
			{Link: "vlx-1", Dst: addr("192.0.2.2")},
			{Link: "vlx-1", Dst: addr("192.0.2.3")},
			{Link: "vlx-1", MAC: plan.MAC{2, 0, 0, 0, 7, 1}, Dst: addr("192.0.2.2")},
			{Link: "vlx-6", Dst: addr("2001:db8::2")},
			{Link: "vlx-6", MAC: plan.MAC{2, 0, 0, 0, 7, 2}, Dst: addr("2001:db8::3")},
			{Link: "vlf-2", MAC: plan.MAC{2, 0, 0, 0, 7, 3}, Dst: addr("192.0.2.2")},
		},
		Neighs: []plan.Neigh{
			{Link: "vlf-2", IP: addr("10.2.2.0"), MAC: plan.MAC{2, 0, 0, 0, 7, 3}},
			{Link: "vlf-2", IP: addr("fd00:2:2::"), MAC: plan.MAC{2, 0, 0, 0, 7, 3}},
			{Link: "vlx-1", IP: addr("10.1.0.7"), MAC: plan.MAC{2, 0, 0, 0, 7, 1}},
			{Link: "vlx-1", IP: addr("fd00:1::7"), MAC: plan.MAC{2, 0, 0, 0, 7, 1}},
		},
		Routes: []plan.Route{
			{Dst: prefix("10.2.2.0/24"), Via: addr("10.2.2.0"), Link: "vlf-2", OnLink: true},
			{Dst: prefix("fd00:2:2::/64"), Via: addr("fd00:2:2::"), Link: "vlf-2", OnLink: true},
			{Dst: prefix("10.3.0.0/16"), Link: "vlt-3"},
			{Dst: prefix("fd00:3::/32"), Link: "vlt-3"},
		},
	}
}

func TestSpanningLinks(t *testing.T) {
	env := kerntest.New(t)
	k := open(t, env)
	want := spanning()
	converge(t, k, want)
	settled(t, k, want)
	for link, parts := range map[string][]string{
		"vlx-1": {"vxlan id 4097 local 192.0.2.1 srcport 0 0 dstport 4789 nolearning proxy", "noudpcsum",
			"master vlb-1", "isolated on", "alias vethloom:network/1"},
		"vlx-6": {"vxlan id 4097 local 2001:db8::1 srcport 0 0 dstport 4790 nolearning",
			"noudp6zerocsumtx udp6zerocsumrx", "mtu 1430"},
		"vlf-2": {"vxlan id 1 local 192.0.2.1", "noudpcsum", "02:00:00:00:00:02"},
		"vlt-3": {"tun type tun pi off vnet_hdr on persist on", "mtu 1472", "alias vethloom:network/3"},
	} {
		out := env.Run("ip", "-d", "link", "show", link)
		for _, part := range parts {
			if !strings.Contains(out, part) {
				t.Errorf("%s: no %q in\n%s", link, part, out)
			}
		}
	}
	if out := env.Sh("ip -6 addr show scope link"); strings.Contains(out, "inet6 fe80") {
		t.Errorf("link-local addresses that nobody wants:\n%s", out)
	}
	// Everything changes that can.
	want.Links[1].Port.Isolated, want.Links[1].MTU, want.Links[3].MAC[5], want.Links[4].MTU = false, 1400, 9, 1300
	want.FDB[0].Dst, want.FDB[2].Dst, want.FDB[4].Dst = addr("192.0.2.4"), addr("192.0.2.3"), addr("2001:db8::4")
	for i := range want.Neighs {
		want.Neighs[i].MAC[4] = 8
	}
	ops := converge(t, k, want)
	settled(t, k, want)
	for _, op := range ops {
		if op.Kind() == "link" && op.Verb != plan.Modify {
			t.Errorf("not changed in place: %s", op)
		}
	}
	// What they are made with does not change: they are made anew, with all that is on them.
	want.Links[1].VXLAN.Proxy, want.Links[2].VXLAN.Local, want.Links[3].VXLAN.VNI = false, addr("2001:db8::9"), 2
	converge(t, k, want)
	settled(t, k, want)
	// Nor does the fabric leave alone what others change of it.
	env.Sh("ip link set vlf-2 type vxlan learning")
	converge(t, k, want)
	settled(t, k, want)
	env.Sh("ip link del vlx-1; ip link del vlf-2; ip link del vlt-3; bridge fdb del 02:00:00:00:07:02 dev vlx-6; " +
		"bridge fdb append 00:00:00:00:00:00 dev vlx-6 dst 2001:db8::9")
	converge(t, k, want)
	settled(t, k, want)
}

// TestSpanningCrash stops after every single operation, as a crash would, and starts anew.
func TestSpanningCrash(t *testing.T) {
	env := kerntest.New(t)
	k := open(t, env)
	changed := spanning()
	changed.Links[1].VXLAN.VNI, changed.Links[3].VXLAN.Port = 5000, 4789
	for _, want := range []plan.State{spanning(), changed, {}} {
		before := observe(t, k, nil)
		for n := range plan.Diff(want, before) {
			if err := k.Apply(context.Background(), plan.Diff(want, observe(t, k, nil))[:min(n, 1)]); err != nil {
				t.Fatal(err)
			}
			if len(plan.Diff(want, observe(t, k, nil))) == 0 {
				break
			}
		}
		converge(t, k, want)
		settled(t, k, want)
	}
}

// TestVXLANInTheWay makes devices that cannot be; the error has to say why.
func TestVXLANInTheWay(t *testing.T) {
	env := kerntest.New(t)
	k := open(t, env)
	env.Sh(`
		ip link add flannel.1 type vxlan id 1 local 192.0.2.1 dstport 8472 nolearning
		ip link add elsewhere type vxlan id 7 local 192.0.2.1 dstport 8472 nolearning
		ip link add taken type bridge
		ip link add group0 type vxlan id 9 local 192.0.2.1 dstport 9999 gbp && ip link set group0 up
	`)
	var udp *net.UDPConn
	if err := env.Do("", func() (err error) {
		udp, err = net.ListenUDP("udp4", &net.UDPAddr{Port: 4789})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	device := func(name string, vni uint32, port uint16) plan.State {
		return plan.State{Links: []plan.Link{{Name: name, Owner: "network/1", Kind: plan.VXLAN, Up: true,
			VXLAN: plan.VXLANDevice{VNI: vni, Port: port, Local: addr("192.0.2.1")}}}}
	}
	for _, c := range []struct {
		want plan.State
		is   error
		says string
	}{
		{device("vlf-1", 1, 8472), os.ErrExist,
			"the host's VXLAN device flannel.1 already has identifier 1 on UDP port 8472; " +
				"choose another identifier or port, or stop flanneld and `ip link del flannel.1`"},
		{device("taken", 2, 8472), os.ErrExist, "a link of that name is there already"},
		{device("vlf-1", 3, 4789), plan.ErrPortTaken, fmt.Sprintf("by kern.test (pid %d)", os.Getpid())},
		{device("vlf-1", 3, 9999), plan.ErrPortTaken,
			"by the VXLAN device group0: choose another port, or `ip link del group0`"},
		{device("vlf-1", 1<<24, 9999), nil, "want 0 to 16777215"},
		{device("vlf-1", 3, 0), nil, "VXLAN port 0"},
	} {
		err := k.Apply(context.Background(), plan.Diff(c.want, observe(t, k, nil)))
		var failed *plan.OpError
		if !errors.As(err, &failed) || c.is != nil && !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: error %v; want %v that says %q", c.want.Links[0], err, c.is, c.says)
		}
	}
	udp.Close()
	env.Sh("ip link del group0; ip link del flannel.1; ip link del elsewhere; ip link del taken")
	// Once nothing is in the way the next pass gets there.
	converge(t, k, device("vlf-1", 3, 9999))
	settled(t, k, device("vlf-1", 3, 9999))
	err := k.Apply(context.Background(),
		plan.Diff(plan.State{Links: []plan.Link{{Name: "lo", Owner: "x", Kind: plan.TUN}}}, plan.State{}))
	if !errors.Is(err, os.ErrExist) {
		t.Errorf("a TUN link in the place of another: %v", err)
	}
}

// TestManyEntries makes and removes as many entries as a large network has.
func TestManyEntries(t *testing.T) {
	env := kerntest.New(t)
	k := open(t, env)
	want := spanning()
	const n = 10_000
	base := addr("10.64.0.0").As4()
	for i := range n {
		b := base
		b[2], b[3] = byte(i>>8), byte(i)
		mac := plan.MAC{2, 1, 0, 0, byte(i >> 8), byte(i)}
		want.Neighs = append(want.Neighs, plan.Neigh{Link: "vlx-1", IP: netip.AddrFrom4(b), MAC: mac})
		want.FDB = append(want.FDB, plan.FDBEntry{Link: "vlx-1", MAC: mac, Dst: addr("192.0.2.2")})
	}
	drift, err := k.Drift(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	converge(t, k, spanning())
	calm(t, drift, "our own creation")
	timed := func(what string, to plan.State) {
		t.Helper()
		start := time.Now()
		have := observe(t, k, nil)
		observed := time.Since(start)
		ops := plan.Diff(to, have)
		planned := time.Since(start) - observed
		// Where the daemon does it: on a goroutine that is tied to no thread.
		done := make(chan error)
		go func() { done <- k.Apply(context.Background(), ops) }()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %d operations; observe %v, diff %v, apply %v", what, len(ops), observed, planned,
			time.Since(start)-observed-planned)
	}
	timed("create", want)
	quiet(t, drift, "what we make ourselves")
	timed("keep", want)
	settled(t, k, want)
	env.Run("bridge", "fdb", "del", "02:01:00:00:12:34", "dev", "vlx-1")
	woken(t, drift, "one entry of many")
	timed("repair", want)
	settled(t, k, want)
	calm(t, drift, "the repair")
	timed("remove", spanning())
	quiet(t, drift, "what we remove ourselves")
	settled(t, k, spanning())
}

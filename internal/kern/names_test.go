package kern_test

import (
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vethloom/vethloom/internal/descriptor"
	"github.com/vethloom/vethloom/internal/kern"
	"github.com/vethloom/vethloom/internal/kern/kerntest"
	"github.com/vethloom/vethloom/plan"
)

// named is a network with its gateway's name servers and a sandbox on it.
func named() plan.State {
	return plan.State{
		Namespaces: []plan.Namespace{{Name: "box"}},
		Links: []plan.Link{{Name: "vlb-1", Owner: "network/1", Kind: plan.Bridge, MTU: 1500, Up: true},
			{Name: "vle-1", Owner: "endpoint/1", Kind: plan.Veth, MTU: 1500, Up: true, Master: "vlb-1",
				Peer: plan.VethPeer{NS: "box", Name: "eth0"}}},
		Addrs: []plan.Addr{{Link: "vlb-1", Prefix: netip.MustParsePrefix("10.7.0.1/24")},
			{Link: "vlb-1", Prefix: netip.MustParsePrefix("fd07::1/64")},
			{NS: "box", Link: "eth0", Prefix: netip.MustParsePrefix("10.7.0.2/24")},
			{NS: "box", Link: "eth0", Prefix: netip.MustParsePrefix("fd07::2/64")}},
		NameZones: []plan.NameZone{{ID: "1", Name: "front"}},
		NameMembers: []plan.NameMember{{Zone: "1", ID: "1", NS: "box", Names: []string{"web"},
			Addrs: []netip.Addr{addr("10.7.0.2")}}},
		NameServers: []plan.NameServer{
			{NS: "box", Addr: addr("127.0.0.11"), Upstreams: []netip.Addr{addr("10.7.0.1")}},
			{Link: "vlb-1", Addr: addr("10.7.0.1"), Network: "1"}, {Link: "vlb-1", Addr: addr("fd07::1"), Network: "1"},
		},
	}
}

// echo answers with what it is asked, at the sockets of a server, until the test ends.
func echo(t *testing.T, h *kerntest.Names, key string) {
	t.Helper()
	u, l, err := h.Server(key)
	if err != nil {
		t.Fatal(err)
	}
	pc, err := packetConn(u)
	if err != nil {
		t.Fatal(err)
	}
	f := l.File("tcp")
	listener, err := net.FileListener(f)
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{}, 2)
	go func() {
		defer func() { done <- struct{}{} }()
		b := make([]byte, 4096)
		for {
			n, from, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			if _, err := pc.WriteTo(b[:n], from); err != nil {
				return
			}
		}
	}()
	go func() {
		defer func() { done <- struct{}{} }()
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = io.CopyN(c, c, 5)
			c.Close()
		}
	}()
	t.Cleanup(func() {
		pc.Close()
		listener.Close()
		<-done
		<-done
	})
}

func packetConn(d descriptor.Descriptor) (net.PacketConn, error) {
	f := d.File("udp")
	defer f.Close()
	return net.FilePacketConn(f)
}

// asks says hello to an address by UDP and TCP from a namespace and wants it back.
func asks(t *testing.T, env *kerntest.Env, ns, at string, want bool) {
	t.Helper()
	for _, network := range []string{"udp", "tcp"} {
		var got string
		err := env.Do(ns, func() error {
			c, err := net.DialTimeout(network, at, 5*time.Second)
			if err != nil {
				return err
			}
			defer c.Close()
			wait := 5 * time.Second
			if !want {
				wait = 200 * time.Millisecond
			}
			if err := c.SetDeadline(time.Now().Add(wait)); err != nil {
				return err
			}
			if _, err := c.Write([]byte("hello")); err != nil {
				return err
			}
			b := make([]byte, 5)
			_, err = io.ReadFull(c, b)
			got = string(b)
			return err
		})
		if (err == nil && got == "hello") != want {
			t.Errorf("%s at %s: got %q, %v; want an answer: %v", network, at, got, err, want)
		}
	}
}

func TestNameServers(t *testing.T) {
	env := kerntest.New(t)
	host := &kerntest.Names{}
	k := openWith(t, kern.Config{RunDir: env.RunDir, Names: host})
	want := named()
	converge(t, k, want)
	settled(t, k, want)
	box := k.NetNSPath("box")
	for _, n := range want.NameServers {
		echo(t, host, n.Key())
	}
	// A program of the sandbox can have port 53 on every address.
	err := env.Do(box, func() error {
		for _, at := range []string{"0.0.0.0:53", "[::]:53"} {
			pc, err := net.ListenPacket("udp", at)
			if err != nil {
				return err
			}
			pc.Close()
			l, err := net.Listen("tcp", at)
			if err != nil {
				return err
			}
			l.Close()
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	asks(t, env, box, "127.0.0.11:53", true)
	asks(t, env, box, "10.7.0.1:53", true)
	asks(t, env, box, "[fd07::1]:53", true)
	asks(t, env, "", "10.7.0.1:53", true)
	// Strangers who send to the gateway's address come by another link.
	env.Sh("ip netns add outside-names; ip link add up0 type veth peer name eth0 netns outside-names")
	env.Sh("ip addr add 192.0.2.1/24 dev up0; ip link set up0 up; sysctl -qw net.ipv4.ip_forward=1")
	env.Sh("ip -n outside-names addr add 192.0.2.2/24 dev eth0; ip -n outside-names link set eth0 up; " +
		"ip -n outside-names route add 10.7.0.0/24 via 192.0.2.1; ip netns exec outside-names ping -qc1 10.7.0.1")
	asks(t, env, "/run/netns/outside-names", "10.7.0.1:53", false)
	env.Sh("ip netns del outside-names; ip link del up0 2>/dev/null || true")
	converge(t, k, plan.State{})
	if zones, members, servers := host.List(); len(zones)+len(members)+len(servers) > 0 {
		t.Errorf("left behind: %v %v %v", zones, members, servers)
	}
}

// What takes questions away from a server is found, and put right by a pass like any other.
func TestNameServersThatVanish(t *testing.T) {
	env := kerntest.New(t)
	host := &kerntest.Names{}
	k := openWith(t, kern.Config{RunDir: env.RunDir, Names: host})
	want := named()
	converge(t, k, want)
	box := k.NetNSPath("box")
	for change, servers := range map[string]int{
		"nsenter --net=" + box + " nft flush ruleset":                 1,
		"nsenter --net=" + box + " nft flush chain ip vethloom names": 1,
		"ip link del vlb-1":             2,
		"umount " + box + "; rm " + box: 1,
		"umount " + box + "; rm " + box + "; touch " + box + "; unshare --net=" + box + " ip link set lo up": 1,
	} {
		env.Sh(change)
		ops := converge(t, k, want)
		n := 0
		for _, op := range ops {
			if op.Kind() == "nameserver" {
				n++
			}
		}
		if n != servers {
			t.Errorf("%s: %d servers served anew, want %d:\n%s", change, n, servers, lines(ops))
		}
		settled(t, k, want)
		echo(t, host, want.NameServers[0].Key())
		asks(t, env, k.NetNSPath("box"), "127.0.0.11:53", true)
	}
	converge(t, k, plan.State{})
}

// Where somebody else has a gateway's port, the error says so and nothing else fails.
func TestNameServerOnATakenPort(t *testing.T) {
	env := kerntest.New(t)
	host := &kerntest.Names{}
	k := openWith(t, kern.Config{RunDir: env.RunDir, Names: host})
	var taken net.PacketConn
	if err := env.Do("", func() (err error) {
		taken, err = net.ListenPacket("udp", "0.0.0.0:53")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	want := named()
	have, err := k.Observe(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	err = k.Apply(t.Context(), plan.Diff(want, have))
	if err == nil || !strings.Contains(err.Error(), "10.7.0.1:53") {
		t.Errorf("with the port taken: %v", err)
	}
	taken.Close()
	converge(t, k, want)
	converge(t, k, plan.State{})
}

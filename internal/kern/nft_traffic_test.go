package kern

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vethloom/vethloom/internal/kern/kerntest"
	"github.com/vethloom/vethloom/internal/plan"
)

// fabric is a client, a host and a container in namespaces of their own, the
// host being the test's.
type fabric struct {
	t         *testing.T
	env       *kerntest.Env
	client    string // path of the namespace
	container string
	pids      [2]string
}

// The addresses of the fabric. The container's are those of [firewallElements].
const (
	hostAddr4, hostAddr6     = "192.0.2.1", "2001:db8::1"
	clientAddr4, clientAddr6 = "192.0.2.2", "2001:db8::2"
	bridgeAddr4, bridgeAddr6 = "10.1.0.1", "fd00:1::1"
	boxAddr4, boxAddr6       = "10.1.0.2", "fd00:1::2"
	patience                 = 5 * time.Second
	shortPatience            = 300 * time.Millisecond
)

// namespace starts a process in a namespace of its own and returns its number.
func (f *fabric) namespace() string {
	f.t.Helper()
	cmd := exec.Command("unshare", "--net", "sh", "-c", "echo; exec cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		f.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		f.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() {
		if err := errors.Join(in.Close(), cmd.Wait()); err != nil {
			f.t.Error(err)
		}
	})
	if _, err := out.Read(make([]byte, 1)); err != nil { // the namespace is there
		f.t.Fatal(err)
	}
	return fmt.Sprint(cmd.Process.Pid)
}

func newFabric(t *testing.T) (*fabric, *rules) {
	r, env := openTestRules(t)
	f := &fabric{t: t, env: env}
	f.pids = [2]string{f.namespace(), f.namespace()}
	f.client, f.container = "/proc/"+f.pids[0]+"/ns/net", "/proc/"+f.pids[1]+"/ns/net"
	env.Sh(strings.NewReplacer("CLIENT", f.pids[0], "BOX", f.pids[1]).Replace(`
		echo 1 > /proc/sys/net/ipv4/ip_forward
		echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
		for c in iptables ip6tables arptables; do
			if [ -e /proc/sys/net/bridge/bridge-nf-call-$c ]; then echo 0 > /proc/sys/net/bridge/bridge-nf-call-$c; fi
		done
		ip link add wan type veth peer name eth0 netns CLIENT
		ip addr add 192.0.2.1/24 dev wan
		ip addr add 2001:db8::1/64 dev wan nodad
		ip link set wan up
		ip link add vlb-3f2a type bridge
		ip addr add 10.1.0.1/16 dev vlb-3f2a
		ip addr add fd00:1::1/64 dev vlb-3f2a nodad
		ip link set vlb-3f2a up
		echo 1 > /proc/sys/net/ipv4/conf/vlb-3f2a/route_localnet
		ip -6 route add local ::1 dev vlb-3f2a table local metric 4096
		ip link add vle-91bc master vlb-3f2a type veth peer name eth0 address 02:42:0a:01:00:02 netns BOX
		ip link set vle-91bc up
		bridge link set dev vle-91bc hairpin on`))
	f.in(f.client, `
		ip link set lo up
		ip addr add 192.0.2.2/24 dev eth0
		ip addr add 2001:db8::2/64 dev eth0 nodad
		ip link set eth0 up
		ip route add 10.1.0.0/16 via 192.0.2.1`)
	f.in(f.container, `
		ip link set lo up
		ip addr add 10.1.0.2/16 dev eth0
		ip addr add fd00:1::2/64 dev eth0 nodad
		ip link set eth0 up
		ip route add default via 10.1.0.1
		ip -6 route add default via fd00:1::1`)
	t.Cleanup(func() { env.Sh("ip link del wan; ip link del vle-91bc; ip link del vlb-3f2a") })

	rs := firewall(t)
	for _, p := range [][4]string{
		{"ports4", "0.0.0.0/0", "udp", boxAddr4}, {"ports6", "::/0", "udp", boxAddr6},
	} {
		rs.Elements = append(rs.Elements, plan.Element{
			Family: plan.Inet, Set: p[0], Keys: []string{p[1], p[2], "8080"}, Data: []string{p[3], "80"}, Scope: "endpoint/91bc",
		})
	}
	for _, p := range [][3]string{
		{"range4", "0.0.0.0/0", boxAddr4}, {"range6", "::/0", boxAddr6},
	} {
		rs.Elements = append(rs.Elements, plan.Element{
			Family: plan.Inet, Set: p[0], Keys: []string{p[1], "udp", "9000-9010"}, Data: []string{p[2]}, Scope: "endpoint/91bc",
		})
	}
	rs.Elements = append(rs.Elements, plan.Element{
		Family: plan.Inet, Set: "range6", Keys: []string{"::/0", "tcp", "9000-9010"}, Data: []string{boxAddr6}, Scope: "endpoint/91bc",
	})
	mustApply(t, r, creation(rs)...)
	return f, r
}

// in runs a script in a namespace.
func (f *fabric) in(ns, script string) string {
	f.t.Helper()
	return f.env.Run("nsenter", "--net="+ns, "sh", "-ec", script)
}

// serve answers on a port in a namespace, until the test ends: each connection
// and each datagram with the address it came from.
func (f *fabric) serve(ns string, port int) {
	f.t.Helper()
	var tcp net.Listener
	var udp net.PacketConn
	err := f.env.Do(ns, func() (err error) {
		if tcp, err = net.Listen("tcp", fmt.Sprintf("[::]:%d", port)); err != nil {
			return err
		}
		udp, err = net.ListenPacket("udp", fmt.Sprintf("[::]:%d", port))
		return err
	})
	if err != nil {
		f.t.Fatal(err)
	}
	var done sync.WaitGroup
	f.t.Cleanup(func() {
		if err := errors.Join(tcp.Close(), udp.Close()); err != nil {
			f.t.Error(err)
		}
		done.Wait()
	})
	done.Go(func() {
		for {
			c, err := tcp.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, plainAddr(c.RemoteAddr()))
			c.Close()
		}
	})
	done.Go(func() {
		buf := make([]byte, 64)
		for {
			_, from, err := udp.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = udp.WriteTo([]byte(plainAddr(from)), from) // a lost answer fails whoever waits for it
		}
	})
}

func plainAddr(a net.Addr) string {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return err.Error()
	}
	return ap.Addr().Unmap().WithZone("").String()
}

// ask connects from a namespace and returns what the server says: who it saw.
func (f *fabric) ask(ns, network, addr string, wait time.Duration) (answer string, err error) {
	ctx, cancel := context.WithTimeout(f.t.Context(), wait)
	defer cancel()
	err = f.env.Do(ns, func() error {
		var d net.Dialer
		c, err := d.DialContext(ctx, network, addr)
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(wait)); err != nil {
			return err
		}
		if network == "udp" {
			if _, err := c.Write([]byte("?")); err != nil {
				return err
			}
		}
		buf := make([]byte, 64)
		n, err := c.Read(buf)
		answer = string(buf[:n])
		return err
	})
	return answer, err
}

func TestTrafficPublished(t *testing.T) {
	f, _ := newFabric(t)
	for _, port := range []int{80, 9005} {
		f.serve(f.container, port)
	}
	for _, c := range []struct {
		name, from, host4, host6 string
		seen4, seen6             string
	}{
		{"client", f.client, hostAddr4, hostAddr6, clientAddr4, clientAddr6},
		{"host by its address", "", hostAddr4, hostAddr6, hostAddr4, hostAddr6},
		{"host by loopback", "", "127.0.0.1", "::1", bridgeAddr4, bridgeAddr6},
		{"host by the bridge", "", bridgeAddr4, bridgeAddr6, bridgeAddr4, bridgeAddr6},
		{"container itself", f.container, hostAddr4, hostAddr6, bridgeAddr4, bridgeAddr6},
		{"container by its gateway", f.container, bridgeAddr4, bridgeAddr6, bridgeAddr4, bridgeAddr6},
	} {
		for _, network := range []string{"tcp", "udp"} {
			for _, port := range []string{"8080", "9005"} {
				for host, seen := range map[string]string{c.host4: c.seen4, c.host6: c.seen6} {
					got, err := f.ask(c.from, network, net.JoinHostPort(host, port), patience)
					if err != nil || got != seen {
						t.Errorf("%s, %s %s port %s: container saw %q, want %q: %v", c.name, network, host, port, got, seen, err)
					}
				}
			}
		}
	}
}

func TestTrafficRefused(t *testing.T) {
	f, _ := newFabric(t)
	f.serve(f.container, 80)
	f.serve(f.client, 80)
	f.serve(f.client, 7000)
	for name, c := range map[string]struct{ from, addr string }{
		"into the network, unpublished": {f.client, boxAddr4 + ":80"},
		"a port that is not published":  {f.client, hostAddr4 + ":8081"},
		"out, by the guard chain":       {f.container, clientAddr4 + ":80"},
	} {
		if got, err := f.ask(c.from, "tcp", c.addr, shortPatience); err == nil {
			t.Errorf("%s: went through as %s", name, got)
		}
	}
	for addr, seen := range map[string]string{clientAddr4: hostAddr4, clientAddr6: hostAddr6} {
		got, err := f.ask(f.container, "tcp", net.JoinHostPort(addr, "7000"), patience)
		if err != nil || got != seen {
			t.Errorf("out to %s: seen as %q, want masqueraded as %q: %v", addr, got, seen, err)
		}
	}
	// Loopback addresses from a link other than loopback.
	f.in(f.client, `
		echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet
		ip rule add pref 1000 lookup local
		ip rule add pref 1 to 127.0.0.9 lookup 9
		ip rule del pref 0
		ip route add 127.0.0.9 via 192.0.2.1 dev eth0 src 192.0.2.2 table 9`)
	f.env.Sh("echo 1 > /proc/sys/net/ipv4/conf/wan/route_localnet")
	if got, err := f.ask(f.client, "tcp", "127.0.0.9:8080", shortPatience); err == nil {
		t.Errorf("127.0.0.9 from outside went through as %s", got)
	}
	raw := f.env.Run("nft", "list", "chain", "inet", "vethloom", "raw")
	if !strings.Contains(raw, "daddr 127.0.0.0/8 counter packets") || strings.Contains(raw, "daddr 127.0.0.0/8 counter packets 0 ") {
		t.Errorf("the raw chain has not dropped it:\n%s", raw)
	}
}

// TestTrafficSources lets the container send from addresses that are not its
// own. Frames stay in order, so when the honest one has come, the others have been dropped.
func TestTrafficSources(t *testing.T) {
	f, _ := newFabric(t)
	bridgeMAC := strings.TrimSpace(f.env.Sh("ip -br link show vlb-3f2a | awk '{print $3}'"))
	f.in(f.container, `
		ip addr add 10.1.0.99/16 dev eth0
		ip addr add fd00:1::99/64 dev eth0 nodad
		ip neigh replace 10.1.0.1 lladdr `+bridgeMAC+` dev eth0
		ip neigh replace fd00:1::1 lladdr `+bridgeMAC+` dev eth0`)
	for _, c := range []struct{ host, real, spoofed string }{
		{bridgeAddr4, boxAddr4, "10.1.0.99"}, {bridgeAddr6, boxAddr6, "fd00:1::99"},
	} {
		listener, err := net.ListenPacket("udp", net.JoinHostPort(c.host, "7001"))
		if err != nil {
			t.Fatal(err)
		}
		f.sendFrom(c.spoofed, c.host, "other address")
		f.in(f.container, "ip link set eth0 address 02:42:0a:01:00:77")
		f.in(f.container, "ip neigh replace "+c.host+" lladdr "+bridgeMAC+" dev eth0")
		f.sendFrom(c.real, c.host, "other hardware address")
		f.in(f.container, "ip link set eth0 address 02:42:0a:01:00:02")
		f.in(f.container, "ip neigh replace "+c.host+" lladdr "+bridgeMAC+" dev eth0")
		f.sendFrom(c.real, c.host, "honest")
		if err := listener.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 64)
		n, from, err := listener.ReadFrom(buf)
		if err != nil || plainAddr(from) != c.real || string(buf[:n]) != "honest" {
			t.Errorf("host received %q from %v, want only the honest one from %s: %v", buf[:n], from, c.real, err)
		}
		if err := listener.Close(); err != nil {
			t.Error(err)
		}
	}
}

// sendFrom sends one datagram from the container.
func (f *fabric) sendFrom(source, host, content string) {
	f.t.Helper()
	err := f.env.Do(f.container, func() error {
		d := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(source)}}
		c, err := d.DialContext(f.t.Context(), "udp", net.JoinHostPort(host, "7001"))
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write([]byte(content))
		return err
	})
	if err != nil {
		f.t.Fatal(err)
	}
}

package nftables

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/internal/kern/kerntest"
	"github.com/vethloom/vethloom/plan"
)

const (
	patience      = await.Patience
	shortPatience = 300 * time.Millisecond
)

// newFabric are hosts with the rules of [firewall].
func newFabric(t *testing.T) (*kerntest.Hosts, *Rules) {
	r, env := openTestRules(t)
	f := kerntest.NewHosts(t, env)
	rs := firewall(t)
	for _, p := range [][4]string{
		{"ports4", "0.0.0.0/0", "udp", kerntest.BoxAddr4}, {"ports6", "::/0", "udp", kerntest.BoxAddr6},
	} {
		rs.Elements = append(rs.Elements, plan.Element{
			Family: plan.Inet, Set: p[0], Keys: []string{p[1], p[2], "8080"}, Data: []string{p[3], "80"},
			Owner: "endpoint/91bc",
		})
	}
	for _, p := range [][3]string{
		{"range4", "0.0.0.0/0", kerntest.BoxAddr4}, {"range6", "::/0", kerntest.BoxAddr6},
	} {
		rs.Elements = append(rs.Elements, plan.Element{
			Family: plan.Inet, Set: p[0], Keys: []string{p[1], "udp", "9000-9010"}, Data: []string{p[2]},
			Owner: "endpoint/91bc",
		})
	}
	rs.Elements = append(rs.Elements, plan.Element{
		Family: plan.Inet, Set: "range6", Keys: []string{"::/0", "tcp", "9000-9010"}, Data: []string{kerntest.BoxAddr6},
		Owner: "endpoint/91bc",
	})
	mustApply(t, r, creation(rs)...)
	return f, r
}

func TestTrafficPublished(t *testing.T) {
	f, _ := newFabric(t)
	for _, port := range []int{80, 9005} {
		f.Serve(f.Container, port)
	}
	for _, c := range []struct {
		name, from, host4, host6 string
		seen4, seen6             string
	}{
		{"client", f.Client, kerntest.HostAddr4, kerntest.HostAddr6, kerntest.ClientAddr4, kerntest.ClientAddr6},
		{"host by its address", "", kerntest.HostAddr4, kerntest.HostAddr6, kerntest.HostAddr4, kerntest.HostAddr6},
		{"host by loopback", "", "127.0.0.1", "::1", kerntest.BridgeAddr4, kerntest.BridgeAddr6},
		{"host by the bridge", "", kerntest.BridgeAddr4, kerntest.BridgeAddr6, kerntest.BridgeAddr4,
			kerntest.BridgeAddr6},
		{"container itself", f.Container, kerntest.HostAddr4, kerntest.HostAddr6, kerntest.BridgeAddr4,
			kerntest.BridgeAddr6},
		{"container by its gateway", f.Container, kerntest.BridgeAddr4, kerntest.BridgeAddr6, kerntest.BridgeAddr4,
			kerntest.BridgeAddr6},
	} {
		for _, network := range []string{"tcp", "udp"} {
			for _, port := range []string{"8080", "9005"} {
				for host, seen := range map[string]string{c.host4: c.seen4, c.host6: c.seen6} {
					got, err := f.Ask(c.from, network, net.JoinHostPort(host, port), patience)
					if err != nil || got != seen {
						t.Errorf("%s, %s %s port %s: container saw %q, want %q: %v", c.name, network, host, port, got,
							seen, err)
					}
				}
			}
		}
	}
}

func TestTrafficRefused(t *testing.T) {
	f, _ := newFabric(t)
	f.Serve(f.Container, 80)
	f.Serve(f.Client, 80)
	f.Serve(f.Client, 7000)
	for name, c := range map[string]struct{ from, addr string }{
		"into the network, unpublished": {f.Client, kerntest.BoxAddr4 + ":80"},
		"a port that is not published":  {f.Client, kerntest.HostAddr4 + ":8081"},
		"out, by the guard chain":       {f.Container, kerntest.ClientAddr4 + ":80"},
	} {
		if got, err := f.Ask(c.from, "tcp", c.addr, shortPatience); err == nil {
			t.Errorf("%s: went through as %s", name, got)
		}
	}
	for addr, seen := range map[string]string{kerntest.ClientAddr4: kerntest.HostAddr4,
		kerntest.ClientAddr6: kerntest.HostAddr6} {
		got, err := f.Ask(f.Container, "tcp", net.JoinHostPort(addr, "7000"), patience)
		if err != nil || got != seen {
			t.Errorf("out to %s: seen as %q, want masqueraded as %q: %v", addr, got, seen, err)
		}
	}
	// Loopback addresses from a link other than loopback.
	f.In(f.Client, `
		echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet
		ip rule add pref 1000 lookup local
		ip rule add pref 1 to 127.0.0.9 lookup 9
		ip rule del pref 0
		ip route add 127.0.0.9 via 192.0.2.1 dev eth0 src 192.0.2.2 table 9`)
	f.Env().Sh("echo 1 > /proc/sys/net/ipv4/conf/wan/route_localnet")
	if got, err := f.Ask(f.Client, "tcp", "127.0.0.9:8080", shortPatience); err == nil {
		t.Errorf("127.0.0.9 from outside went through as %s", got)
	}
	raw := f.Env().Run("nft", "list", "chain", "inet", "vethloom", "raw")
	if !strings.Contains(raw, "daddr 127.0.0.0/8 counter packets") ||
		strings.Contains(raw, "daddr 127.0.0.0/8 counter packets 0 ") {
		t.Errorf("the raw chain has not dropped it:\n%s", raw)
	}
}

// TestTrafficSources lets the container send from addresses that are not its
// own. Frames stay in order, so when the honest one has come, the others have been dropped.
func TestTrafficSources(t *testing.T) {
	f, _ := newFabric(t)
	bridgeMAC := strings.TrimSpace(f.Env().Sh("ip -br link show vlb-3f2a | awk '{print $3}'"))
	f.In(f.Container, `
		ip addr add 10.1.0.99/16 dev eth0
		ip addr add fd00:1::99/64 dev eth0 nodad
		ip neigh replace 10.1.0.1 lladdr `+bridgeMAC+` dev eth0
		ip neigh replace fd00:1::1 lladdr `+bridgeMAC+` dev eth0`)
	for _, c := range []struct{ host, real, spoofed string }{
		{kerntest.BridgeAddr4, kerntest.BoxAddr4, "10.1.0.99"}, {kerntest.BridgeAddr6, kerntest.BoxAddr6, "fd00:1::99"},
	} {
		listener, err := net.ListenPacket("udp", net.JoinHostPort(c.host, "7001"))
		if err != nil {
			t.Fatal(err)
		}
		sendFrom(t, f, c.spoofed, c.host, "other address")
		f.In(f.Container, "ip link set eth0 address 02:42:0a:01:00:77")
		f.In(f.Container, "ip neigh replace "+c.host+" lladdr "+bridgeMAC+" dev eth0")
		sendFrom(t, f, c.real, c.host, "other hardware address")
		f.In(f.Container, "ip link set eth0 address 02:42:0a:01:00:02")
		f.In(f.Container, "ip neigh replace "+c.host+" lladdr "+bridgeMAC+" dev eth0")
		sendFrom(t, f, c.real, c.host, "honest")
		if err := listener.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 64)
		n, from, err := listener.ReadFrom(buf)
		if err != nil || kerntest.PlainAddr(from) != c.real || string(buf[:n]) != "honest" {
			t.Errorf("host received %q from %v, want only the honest one from %s: %v", buf[:n], from, c.real, err)
		}
		if err := listener.Close(); err != nil {
			t.Error(err)
		}
	}
}

// sendFrom sends one datagram from the container.
func sendFrom(t *testing.T, f *kerntest.Hosts, source, host, content string) {
	t.Helper()
	err := f.Env().Do(f.Container, func() error {
		d := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(source)}}
		c, err := d.DialContext(t.Context(), "udp", net.JoinHostPort(host, "7001"))
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write([]byte(content))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

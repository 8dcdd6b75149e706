package health

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

var (
	n2     = netip.MustParseAddr("192.0.2.2")
	inside = netip.MustParseAddr("10.5.2.0")
	alive  = Peer{Alive: true, Announced: n2, Link: "eth0", Self: netip.MustParseAddr("192.0.2.1")}
	away   = Peer{Announced: n2, Link: "eth0", Self: alive.Self}
)

// underlay is a result of the underlay; what is nothing is well.
func underlay(small, large bool, x Refusals, pathMTU int) Result {
	return Result{Target: Target{Node: "2", Name: "n2", Path: Underlay, Addr: n2, MTU: 1500}, Checked: time.Unix(1, 0),
		Small: small, Large: large, PathMTU: pathMTU, Refused: x}
}

func tunnel(small, large bool, x Refusals, pathMTU int) Result {
	return Result{Target: Target{Node: "2", Name: "n2", Path: "vxlan web", Addr: inside, MTU: 1450,
		Outer: netip.AddrPortFrom(n2, 8472)},
		Checked: time.Unix(1, 0), Small: small, Large: large, PathMTU: pathMTU, Refused: x}
}

func TestDiagnose(t *testing.T) {
	well := underlay(true, true, Refusals{}, 1500)
	silent := underlay(false, false, Refusals{}, 0)
	elsewhere := underlay(true, true, Refusals{}, 1500)
	elsewhere.From = netip.MustParseAddr("192.0.2.77")
	gateway := tunnel(false, false, Refusals{}, 0)
	gateway.Path, gateway.Outer = "host-gw web", netip.AddrPort{}
	beyond := alive
	beyond.OnLink = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8::/64")}
	near := alive
	near.OnLink = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	moved := alive
	moved.Announced = netip.MustParseAddr("192.0.2.9")
	for _, c := range []struct {
		name          string
		peer          Peer
		under, path   Result
		cause, remedy string // parts; "" is nothing at all
	}{
		{"all well", alive, well, well, "", ""},
		{"tunnel well", alive, well, tunnel(true, true, Refusals{}, 1450), "", ""},
		{"tunnel well, pings filtered", alive, silent, tunnel(true, true, Refusals{}, 1450), "", ""},
		{"not probed yet", away, Result{}, Result{Target: Target{Path: Underlay}}, "", ""},
		{"away, no ARP", away, Result{}, underlay(false, false, Refusals{Neighbour: true}, 0),
			"n2 is away: nobody has 192.0.2.2 on link eth0", "--iface"},
		{"alive, no ARP", alive, Result{}, underlay(false, false, Refusals{Neighbour: true}, 0), "on the wrong link",
			"--iface"},
		{"no route", alive, Result{}, underlay(false, false, Refusals{NoRoute: true}, 0), "no route to 192.0.2.2",
			"ip route get 192.0.2.2"},
		{"own firewall", alive, Result{}, underlay(false, false, Refusals{Denied: true}, 0), "own firewall",
			"nft list ruleset"},
		{"prohibited", alive, Result{}, underlay(false, false, Refusals{Prohibited: true}, 0),
			"refuses packets to 192.0.2.2", "traceroute"},
		{"router", alive, Result{}, underlay(false, false, Refusals{Host: true}, 0), "a router says", "traceroute"},
		{"away, silent", away, Result{}, silent, "n2 is away", "systemctl start netd"},
		{"alive, silent", alive, Result{}, silent, "pings are filtered", "icmp type echo-request"},
		{"narrow underlay", alive, Result{}, underlay(true, false, Refusals{}, 1400),
			"MTU to n2 is 1400, smaller than the 1500 of eth0: large packets are lost", "-o mtu="},
		{"narrow underlay, told", alive, Result{}, underlay(true, false, Refusals{TooBig: 1400}, 1400),
			"a router says so", "ip link set eth0 mtu 1400"},
		{"other address answers", alive, Result{}, elsewhere, "another address than it announces: 192.0.2.77 answers",
			"--node-ip 192.0.2.77"},
		{"moved", moved, silent, tunnel(false, false, Refusals{}, 0), "n2 announces the address 192.0.2.9",
			"--node-ip"},
		{"beyond a router", beyond, well, gateway, "192.0.2.2 is not on link eth0: a router is between",
			"-o direct-routing=true"},
		{"on the link", near, well, gateway, "answers on the underlay, and not for network web", "-d vxlan"},
		{"tunnel beyond a router", beyond, well, tunnel(false, false, Refusals{}, 0), "UDP port 8472 is blocked",
			"dport 8472"},
		{"port blocked", alive, well, tunnel(false, false, Refusals{}, 0),
			"UDP port 8472 is blocked between 192.0.2.1 and 192.0.2.2", "udp dport 8472 accept"},
		{"port refused", alive, well, tunnel(false, false, Refusals{Prohibited: true}, 0),
			"a firewall refuses UDP port 8472", "dport 8472"},
		{"nobody listens", alive, well, tunnel(false, false, Refusals{Port: true}, 0),
			"nothing listens on UDP port 8472 of n2", "net diff"},
		{"netd down", away, well, tunnel(false, false, Refusals{Port: true}, 0), "netd is down on n2",
			"systemctl start netd"},
		{"netd down, tunnel stays", away, well, tunnel(false, false, Refusals{}, 0), "netd is down on n2",
			"systemctl start netd"},
		{"all silent", alive, silent, tunnel(false, false, Refusals{}, 0), "neither pings nor UDP port 8472",
			"traceroute"},
		{"away altogether", away, silent, tunnel(false, false, Refusals{}, 0), "n2 is away", "netd"},
		{"tunnel over a dead underlay", alive, underlay(false, false, Refusals{Neighbour: true}, 0),
			tunnel(false, false, Refusals{}, 0), "wrong link", "--iface"},
		{"narrow tunnel", alive, well, tunnel(true, false, Refusals{}, 1390), "above 1390 bytes are lost",
			"-o mtu=1390: net network rm web"},
		{"narrow tunnel by the underlay", alive, underlay(true, false, Refusals{}, 1440),
			tunnel(true, false, Refusals{}, 1390), "underlay's MTU to n2 is 1440, smaller than the 1500", "mtu=1390"},
		{"no forwarding", alive, well, gateway, "does not forward", "ip_forward"},
	} {
		t.Run(c.name, func(t *testing.T) {
			under := c.under
			if c.path.Path == Underlay {
				under = c.path
			}
			d := Diagnose(c.peer, under, c.path)
			if (c.cause == "") != (d.Cause == "") || !strings.Contains(d.Cause, c.cause) {
				t.Errorf("cause %q, want %q", d.Cause, c.cause)
			}
			if (c.remedy == "") != (d.Remedy == "") || !strings.Contains(d.Remedy, c.remedy) {
				t.Errorf("remedy %q, want %q", d.Remedy, c.remedy)
			}
		})
	}
}

func TestJudgeSeesFilteredPings(t *testing.T) {
	all := Judge(alive, []Result{underlay(false, false, Refusals{}, 0), tunnel(true, true, Refusals{}, 1450)})
	if !all[0].Reachable || !strings.Contains(all[0].Cause, "pings are filtered") || !all[1].Reachable ||
		all[1].Cause != "" {
		t.Errorf("%+v", all)
	}
	all = Judge(alive, []Result{underlay(false, false, Refusals{}, 0), tunnel(false, false, Refusals{}, 0)})
	if all[0].Reachable || !strings.Contains(all[1].Cause, "neither pings nor UDP") {
		t.Errorf("%+v", all)
	}
}

func TestLossIsThatOfTheLatest(t *testing.T) {
	var w window
	if w.loss() != 0 {
		t.Error("lost before anything was sent")
	}
	for i := range 40 {
		w.add(i%4 != 0)
	}
	if w.loss() != 0.25 {
		t.Errorf("loss %v, want 0.25", w.loss())
	}
	for range 16 {
		w.add(true)
	}
	if w.loss() != 0 {
		t.Errorf("loss %v after sixteen arrived", w.loss())
	}
}

func FuzzParse(f *testing.F) {
	f.Add(echoRequest(n2, 7, 9, 11, 84))
	f.Add([]byte{0x4f, 0})
	f.Add(append([]byte{113, 0, 0, 0, 2, 3, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0}, make([]byte, 14)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, ok := parseEcho(b, true); ok && len(b) < ipv4Header+icmpHeader {
			t.Errorf("made %+v of %d bytes", m, len(b))
		}
		if m, ok := parseEcho(b, false); ok && len(b) < icmpHeader {
			t.Errorf("made %+v of %d bytes", m, len(b))
		}
		if r, ok := parseRefusal(b); ok {
			r.refusals(n2)
		}
	})
}

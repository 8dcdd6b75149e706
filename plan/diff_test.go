package plan_test

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vethloom/vethloom/plan"
)

func pfx(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func ip(s string) netip.Addr    { return netip.MustParseAddr(s) }

func pfxs(all ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(all))
	for i, s := range all {
		out[i] = pfx(s)
	}
	return out
}

// text is the plan, a line an operation.
func text(ops []plan.Op) string {
	var b strings.Builder
	for _, op := range ops {
		b.WriteString(op.String() + "\n")
	}
	return b.String()
}

var continued = regexp.MustCompile(`\\\n\s*`)

// lines trims the indentation of a plan written in a test. A line that ends in a backslash goes on in the next.
func lines(s string) string {
	var b strings.Builder
	s = continued.ReplaceAllString(s, "")
	for line := range strings.Lines(strings.TrimSpace(s)) {
		if line = strings.TrimSpace(line); line != "" {
			b.WriteString(line + "\n")
		}
	}
	return b.String()
}

// bridged is one network with one endpoint that publishes a port.
func bridged() plan.State {
	return plan.State{
		Namespaces: []plan.Namespace{{Name: "sb"}},
		Links: []plan.Link{
			{Name: "vle-1", Owner: "endpoint/1", Kind: plan.Veth, MTU: 1500, Up: true, Master: "vlb-1",
				Port: plan.BridgePort{Hairpin: true}, Peer: plan.VethPeer{NS: "sb", Name: "eth0",
					MAC: plan.MAC{2, 0x42, 10, 1, 0, 2}}},
			{Name: "vlb-1", Owner: "network/1", Kind: plan.Bridge, MTU: 1500, Up: true},
		},
		Addrs: []plan.Addr{
			{NS: "sb", Link: "eth0", Prefix: pfx("10.1.0.2/16")},
			{Link: "vlb-1", Prefix: pfx("10.1.0.1/16")},
		},
		Routes: []plan.Route{{NS: "sb", Dst: pfx("0.0.0.0/0"), Via: ip("10.1.0.1"), Link: "eth0"},
			{NS: "sb", Dst: pfx("192.0.2.0/24"), Link: "eth0"}},
		Neighs: []plan.Neigh{{NS: "sb", Link: "eth0", IP: ip("10.1.0.1"), MAC: plan.MAC{2, 0, 0, 0, 0, 1}}},
		Sysctls: []plan.Sysctl{{Path: "ipv4/ip_forward", Value: "1"}, {Path: "ipv4/conf/vlb-1/route_localnet",
			Value: "1"}, {Path: "ipv6/conf/uplink/accept_ra", Value: "2"}},
		Ports: []plan.PortReservation{{Owner: "endpoint/1", Addr: netip.IPv4Unspecified(), Proto: plan.TCP,
			From: 8080, To: 8081}},
		Rules: plan.Ruleset{
			Sets: []plan.Set{
				{Family: plan.Inet, Name: "range4", Interval: true, Data: []plan.DataType{plan.TypeIPv4},
					KeyTypes: []plan.DataType{plan.TypeIPv4, plan.TypeInetProto, plan.TypePort}},
				{Family: plan.BridgeTable, Name: "source4", KeyTypes: []plan.DataType{plan.TypeIfName, plan.TypeEther,
					plan.TypeIPv4}},
			},
			Chains: []plan.Chain{{Family: plan.Inet, Name: "dnat", Base: plan.Base{Type: "nat", Hook: "prerouting",
				Priority: -100, Policy: "accept"}}},
			Elements: []plan.Element{
				{Family: plan.Inet, Set: "range4", Keys: []string{"0.0.0.0/0", "tcp", "8080-8081"},
					Data: []string{"10.1.0.2"}, Owner: "endpoint/1"},
				{Family: plan.BridgeTable, Set: "source4", Keys: []string{"vle-1", "02:42:0a:01:00:02", "10.1.0.2"},
					Owner: "endpoint/1"},
			},
		},
	}
}

func TestDiffOrder(t *testing.T) {
	create := lines(`
		create port 0.0.0.0:8080-8081 tcp
		create netns sb
		create sysctl net/ipv6/conf/uplink/accept_ra = 2
		create sysctl net/ipv4/ip_forward = 1
		create bridge set source4 { type ifname . ether_addr . ipv4_addr; }
		create inet map range4 { type ipv4_addr . inet_proto . inet_service : ipv4_addr; flags interval; }
		create inet chain dnat { type nat hook prerouting priority -100; policy accept; }
		create bridge element source4 { vle-1 . 02:42:0a:01:00:02 . 10.1.0.2 comment "endpoint/1" }
		create inet element range4 { 0.0.0.0/0 . tcp . 8080-8081 comment "endpoint/1" : 10.1.0.2 }
		purge flow tcp to 0.0.0.0/0:8080-8081 unless at 10.1.0.2
		create link vlb-1 bridge mtu 1500 up alias vethloom:network/1
		create link vle-1 veth mtu 1500 master vlb-1 hairpin up peer sb/eth0 address 02:42:0a:01:00:02 \
			alias vethloom:endpoint/1
		create sysctl net/ipv4/conf/vlb-1/route_localnet = 1
		create addr 10.1.0.2/16 dev eth0 netns sb
		create addr 10.1.0.1/16 dev vlb-1
		create neigh 10.1.0.1 lladdr 02:00:00:00:00:01 dev eth0 nud permanent netns sb
		create route 192.0.2.0/24 dev eth0 netns sb
		create route 0.0.0.0/0 via 10.1.0.1 dev eth0 netns sb
	`)
	if d := cmp.Diff(create, text(plan.Diff(bridged(), plan.State{}))); d != "" {
		t.Errorf("from nothing (-want +got):\n%s", d)
	}
	if ops := plan.Diff(bridged(), bridged()); len(ops) > 0 {
		t.Errorf("from itself:\n%s", text(ops))
	}
	remove := lines(`
		delete inet chain dnat { type nat hook prerouting priority -100; policy accept; }
		delete bridge set source4 { type ifname . ether_addr . ipv4_addr; }
		delete inet map range4 { type ipv4_addr . inet_proto . inet_service : ipv4_addr; flags interval; }
		purge flow of 10.1.0.2
		purge flow tcp to 0.0.0.0/0:8080-8081
		delete link vlb-1 bridge mtu 1500 up alias vethloom:network/1
		delete netns sb
		delete port 0.0.0.0:8080-8081 tcp
	`)
	// Sysctls have no owner, so they stay; what goes with a namespace or a link needs no operation.
	have := bridged()
	have.Sysctls = nil
	if d := cmp.Diff(remove, text(plan.Diff(plan.State{}, have))); d != "" {
		t.Errorf("to nothing (-want +got):\n%s", d)
	}
}

// TestDiffChanges changes one thing of the network at a time.
func TestDiffChanges(t *testing.T) {
	const near = "link vle-1 veth mtu 1500 master vlb-1 hairpin up peer sb/eth0 address 02:42:0a:01:00:02 alias " +
		"vethloom:endpoint/1"
	const anew = `delete link vle-1 veth mtu 1500 master vlb-1 hairpin up peer sb/eth7 address 02:42:0a:01:00:02 \
		alias vethloom:endpoint/1
		create ` + near + `
		create addr 10.1.0.2/16 dev eth0 netns sb
		create neigh 10.1.0.1 lladdr 02:00:00:00:00:01 dev eth0 nud permanent netns sb
		create route 192.0.2.0/24 dev eth0 netns sb`
	for name, c := range map[string]struct {
		want, have func(*plan.State)
		ops        string
	}{
		"no source is checked any more, and its flows go on": {
			want: func(s *plan.State) {
				s.Rules.Elements = slices.DeleteFunc(s.Rules.Elements, func(e plan.Element) bool {
					return e.Set == "source4"
				})
			},
			ops: `delete bridge element source4 { vle-1 . 02:42:0a:01:00:02 . 10.1.0.2 comment "endpoint/1" }`,
		},
		"do not care": {
			want: func(s *plan.State) { s.Links[0].MTU, s.Links[0].Peer.MAC = 0, plan.MAC{} },
			have: func(s *plan.State) { s.Links[1].MAC = plan.MAC{2, 9} },
		},
		"mtu": {
			want: func(s *plan.State) { s.Links[1].MTU = 1400 },
			ops:  "modify link vlb-1 bridge mtu 1400 up alias vethloom:network/1",
		},
		"mtu: what IPv6 has on the link comes again": {
			want: func(s *plan.State) {
				s.Links[1].MTU = 1400
				s.Sysctls = append(s.Sysctls, plan.Sysctl{Path: "ipv6/conf/vlb-1/disable_ipv6", Value: "1"})
			},
			have: func(s *plan.State) {
				s.Sysctls = append(s.Sysctls, plan.Sysctl{Path: "ipv6/conf/vlb-1/disable_ipv6", Value: "1"})
			},
			ops: `modify link vlb-1 bridge mtu 1400 up alias vethloom:network/1
				create sysctl net/ipv6/conf/vlb-1/disable_ipv6 = 1`,
		},
		"lost mark": {
			have: func(s *plan.State) { s.Links[0].Owner = "" },
			ops:  "modify " + near,
		},
		"port flags": {
			have: func(s *plan.State) { s.Links[0].Port.Isolated = true },
			ops:  "modify " + near,
		},
		"other peer: what sits on a new link comes again": {
			have: func(s *plan.State) { s.Links[0].Peer.Name = "eth7" },
			ops:  anew + "\ncreate route 0.0.0.0/0 via 10.1.0.1 dev eth0 netns sb",
		},
		"other kind: ports join, addresses come again": {
			have: func(s *plan.State) { s.Links[1].Kind = "dummy" },
			ops: `delete link vlb-1 dummy mtu 1500 up alias vethloom:network/1
				create link vlb-1 bridge mtu 1500 up alias vethloom:network/1
				modify ` + near + `
				create sysctl net/ipv4/conf/vlb-1/route_localnet = 1
				create addr 10.1.0.1/16 dev vlb-1`,
		},
		"the only address: routes and neighbours come again": {
			want: func(s *plan.State) { s.Addrs[0].Prefix = pfx("10.1.0.3/16") },
			ops: `delete route 0.0.0.0/0 via 10.1.0.1 dev eth0 netns sb
				delete route 192.0.2.0/24 dev eth0 netns sb
				delete neigh 10.1.0.1 lladdr 02:00:00:00:00:01 dev eth0 nud permanent netns sb
				delete addr 10.1.0.2/16 dev eth0 netns sb
				create addr 10.1.0.3/16 dev eth0 netns sb
				create neigh 10.1.0.1 lladdr 02:00:00:00:00:01 dev eth0 nud permanent netns sb
				create route 192.0.2.0/24 dev eth0 netns sb
				create route 0.0.0.0/0 via 10.1.0.1 dev eth0 netns sb`,
		},
		"route": {
			want: func(s *plan.State) { s.Routes[0].Via = ip("10.1.0.9") },
			ops:  "modify route 0.0.0.0/0 via 10.1.0.9 dev eth0 netns sb",
		},
		"another metric is another route": {
			want: func(s *plan.State) { s.Routes[0].Metric = 5 },
			ops: `delete route 0.0.0.0/0 via 10.1.0.1 dev eth0 netns sb
				create route 0.0.0.0/0 via 10.1.0.1 dev eth0 metric 5 netns sb`,
		},
		"made once: with its twin": {
			want: func(s *plan.State) { once(s) },
			ops:  "create route 0.0.0.0/0 via 10.1.0.1 dev eth0 table 99 netns sb",
		},
		"made once: anew with its twin": {
			want: func(s *plan.State) { once(s) },
			have: func(s *plan.State) { s.Routes = s.Routes[1:] },
			ops: `create route 0.0.0.0/0 via 10.1.0.1 dev eth0 once netns sb
				create route 0.0.0.0/0 via 10.1.0.1 dev eth0 table 99 netns sb`,
		},
		"made once: removed by somebody": {
			want: func(s *plan.State) { once(s) },
			have: func(s *plan.State) { once(s); s.Routes = s.Routes[1:] },
		},
		"made once: its link is made anew": {
			want: func(s *plan.State) { once(s) },
			have: func(s *plan.State) {
				once(s)
				s.Routes = s.Routes[1:]
				s.Links[0].Peer.Name = "eth7"
			},
			ops: anew + `
				create route 0.0.0.0/0 via 10.1.0.1 dev eth0 once netns sb
				create route 0.0.0.0/0 via 10.1.0.1 dev eth0 table 99 netns sb`,
		},
		"kernel's own words": {
			have: func(s *plan.State) {
				s.Routes[0].Table = 254
				s.Sysctls[0].Value = " 1\n"
				s.Rules.Elements[0].Keys = []string{"0.0.0.0/0", "tcp", "8080-8081"}
			},
		},
		"more ports of ours": {
			want: func(s *plan.State) { s.Ports[0].To = 8085 },
			ops: `delete port 0.0.0.0:8080-8081 tcp
				create port 0.0.0.0:8080-8085 tcp`,
		},
		"other target": {
			want: func(s *plan.State) { s.Rules.Elements[0].Data = []string{"10.1.0.7"} },
			ops: `modify inet element range4 { 0.0.0.0/0 . tcp . 8080-8081 comment "endpoint/1" : 10.1.0.7 }
				purge flow tcp to 0.0.0.0/0:8080-8081 unless at 10.1.0.7`,
		},
		"from a range to a single port": {
			have: func(s *plan.State) { s.Rules.Elements[0].Keys[2] = "8080" },
			want: func(s *plan.State) {
				s.Rules.Elements[0].Set = "any4"
				s.Rules.Elements[0].Keys = []string{"tcp", "8080"}
				s.Rules.Elements[0].Data = []string{"10.1.0.2", "8080"}
			},
			ops: `delete inet element range4 { 0.0.0.0/0 . tcp . 8080 comment "endpoint/1" : 10.1.0.2 }
				create inet element any4 { tcp . 8080 comment "endpoint/1" : 10.1.0.2 . 8080 }
				purge flow tcp to 0.0.0.0/0:8080 unless at 10.1.0.2:8080`,
		},
		"for some sources": {
			want: func(s *plan.State) {
				s.Rules.Elements[0].Set = "fromrange4"
				s.Rules.Elements[0].Keys = []string{"10.0.0.0/8", "0.0.0.0/0", "tcp", "8080"}
			},
			ops: `delete inet element range4 { 0.0.0.0/0 . tcp . 8080-8081 comment "endpoint/1" : 10.1.0.2 }
				create inet element fromrange4 { 10.0.0.0/8 . 0.0.0.0/0 . tcp . 8080 comment "endpoint/1" : 10.1.0.2 }
				purge flow tcp to 0.0.0.0/0:8080 from 10.0.0.0/8 unless at 10.1.0.2
				purge flow tcp to 0.0.0.0/0:8080-8081`,
		},
		"other set type: the family's table anew": {
			have: func(s *plan.State) { s.Rules.Sets[0].Interval = false },
			ops: `delete inet chain dnat { type nat hook prerouting priority -100; policy accept; }
				delete inet map range4 { type ipv4_addr . inet_proto . inet_service : ipv4_addr; }
				create inet map range4 { type ipv4_addr . inet_proto . inet_service : ipv4_addr; flags interval; }
				create inet chain dnat { type nat hook prerouting priority -100; policy accept; }
				create inet element range4 { 0.0.0.0/0 . tcp . 8080-8081 comment "endpoint/1" : 10.1.0.2 }`,
		},
		"other hook": {
			have: func(s *plan.State) { s.Rules.Chains[0].Base.Priority = 0 },
			ops: `delete inet chain dnat { type nat hook prerouting priority 0; policy accept; }
				create inet chain dnat { type nat hook prerouting priority -100; policy accept; }`,
		},
		"loopback": {
			want: func(s *plan.State) {
				s.Links = append(s.Links, plan.Link{NS: "sb", Name: "lo", Kind: plan.Loopback, MTU: 9000, Up: true})
			},
			have: func(s *plan.State) {
				s.Links = append(s.Links, plan.Link{NS: "sb", Name: "lo", Kind: plan.Loopback, MTU: 65536, Up: true},
					plan.Link{Name: "lo", Kind: plan.Loopback, MTU: 65536, Up: true})
			},
			ops: "modify link lo loopback mtu 9000 up netns sb",
		},
	} {
		t.Run(name, func(t *testing.T) {
			differs(t, bridged, c.want, c.have, c.ops)
		})
	}
}

// once has the first route made once, told by one in table 99.
func once(s *plan.State) {
	twin := s.Routes[0]
	twin.Table = 99
	s.Routes[0].Once = 99
	s.Routes = append(s.Routes, twin)
}

// differs compares two states that were changed in another way each.
func differs(t *testing.T, start func() plan.State, changeWant, changeHave func(*plan.State), ops string) {
	t.Helper()
	want, have := start(), start()
	if changeWant != nil {
		changeWant(&want)
	}
	if changeHave != nil {
		changeHave(&have)
	}
	if d := cmp.Diff(lines(ops), text(plan.Diff(want, have))); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestUnion(t *testing.T) {
	s := bridged()
	other := plan.State{Addrs: []plan.Addr{s.Addrs[0], {Link: "x", Prefix: pfx("192.0.2.1/24")}}}
	u := plan.Union(s, other, plan.State{})
	if len(u.Addrs) != 3 || len(u.Links) != 2 || len(u.Ports) != 1 {
		t.Errorf("union: %v", u)
	}
	if u.Empty() || !plan.Union().Empty() {
		t.Error("emptiness")
	}
	// One owner's hold of a port is not another's.
	mine, theirs := s.Ports[0], s.Ports[0]
	theirs.Owner = "endpoint/2"
	if u := plan.Union(plan.State{Ports: []plan.PortReservation{mine}},
		plan.State{Ports: []plan.PortReservation{theirs}}); len(u.Ports) != 2 {
		t.Errorf("ports: %v", u.Ports)
	}
	u.Addrs[0].Link = "changed"
	if s.Addrs[0].Link == "changed" {
		t.Error("the union shares a slice with a part")
	}
}

func TestFlowTarget(t *testing.T) {
	for in, want := range map[string]string{
		"0.0.0.0/0:80":       "0.0.0.0/0 80 80",
		"192.0.2.1:80-90":    "192.0.2.1/32 80 90",
		"[2001:db8::1]:80":   "2001:db8::1/128 80 80",
		"[::/0]:8000-8010":   "::/0 8000 8010",
		"192.0.2.1":          "",
		"192.0.2.1:90-80":    "",
		"192.0.2.1:http":     "",
		"nowhere:80":         "",
		"192.0.2.1:80-99999": "",
	} {
		dst, from, to, err := plan.ConntrackFlush{Dst: in}.Target()
		got := fmt.Sprint(dst, " ", from, " ", to)
		if want == "" {
			if err == nil {
				t.Errorf("%s is taken as %s", in, got)
			}
		} else if err != nil || got != want {
			t.Errorf("%s: %s, %v; want %s", in, got, err, want)
		}
	}
}

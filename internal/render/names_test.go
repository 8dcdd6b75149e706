package render_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/backend/hostgw"
	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/drivers/bridge"
	"github.com/vethloom/vethloom/drivers/macvlan"
	"github.com/vethloom/vethloom/drivers/null"
	"github.com/vethloom/vethloom/drivers/overlay"
	"github.com/vethloom/vethloom/drivers/routed"
	"github.com/vethloom/vethloom/internal/render"
	"github.com/vethloom/vethloom/internal/store/mem"
	"github.com/vethloom/vethloom/plan"
)

// real is a world with the drivers that networks have.
func real(t *testing.T) *world {
	t.Helper()
	w := &world{store: mem.New()}
	w.Renderer = render.New(render.Config{Store: w.store, Drivers: []cnm.Driver{bridge.Driver{}, macvlan.Driver{},
		null.Driver{}, overlay.Driver{}, routed.Driver{Backend: hostgw.Backend{}}}})
	uplink := cnm.Uplink{Link: "eth0", MTU: 1500, Addr4: netip.MustParseAddr("192.0.2.1")}
	w.Learned(render.Facts{Host: cnm.Host{MTU: 1500, Uplink: uplink}})
	return w
}

func pool(subnet, gateway string) cnm.Pool {
	p := netip.MustParsePrefix(subnet)
	return cnm.Pool{Subnet: p, Range: p, Gateway: netip.MustParseAddr(gateway)}
}

// names are the lines about names of an owner.
func (w *world) names(t *testing.T, owner plan.Owner) string {
	t.Helper()
	var out []string
	for line := range strings.SplitSeq(w.text(t, owner), "\n") {
		if kind, _, _ := strings.Cut(line, " "); kind == "zone" || kind == "name" || kind == "nameserver" ||
			kind == "error:" {
			out = append(out, line)
		}
	}
	return strings.Join(out, "\n")
}

func TestNamesOfNetworks(t *testing.T) {
	w := real(t)
	front := cnm.Network{ID: id("a"), Name: "Front", Driver: "bridge", IPv4: true, IPv6: true, Phase: cnm.Active,
		Internal: true, Pools: []cnm.Pool{pool("10.7.0.0/24", "10.7.0.1"), pool("fd07::/64", "fd07::1")}}
	w.put(t, cnm.KindNetwork, front.ID, front)
	lan := cnm.Network{ID: id("b"), Name: "lan", Driver: "macvlan", IPv4: true, Phase: cnm.Active,
		Pools:   []cnm.Pool{pool("192.0.2.0/24", "192.0.2.254")},
		Options: map[string]string{"parent": "eth0", "host-access": "true"}}
	w.put(t, cnm.KindNetwork, lan.ID, lan)
	w.put(t, cnm.KindNetwork, id("c"), cnm.Network{ID: id("c"), Name: "none", Driver: "null", Phase: cnm.Active})
	w.put(t, cnm.KindEndpoint, id("4"), cnm.Endpoint{ID: id("4"), Network: front.ID, Sandbox: id("1"), NetNS: "box",
		Name: "Web_1", Aliases: []string{"www", strings.Repeat("x", 64), "a.b"}, Index: 2, GwPriority: 3,
		Hostname: "host", MAC: plan.MAC{2, 1}, Addrs: []netip.Prefix{netip.MustParsePrefix("10.7.0.9/24")},
		Serves: []plan.NamePort{{Proto: plan.UDP, Port: 53}}, Phase: cnm.Active})
	w.put(t, cnm.KindSandbox, id("1"), cnm.Sandbox{ID: id("1"), NetNS: "box", Phase: cnm.Active,
		DNS: []netip.Addr{netip.MustParseAddr("9.9.9.9")}})
	for owner, want := range map[plan.Owner]string{
		cnm.NetworkOwner(front.ID): `zone aaaaaaaaaaaa "front" subnet 10.7.0.0/24 subnet fd07::/64 host 10.7.0.1 ` +
			`host fd07::1 internal`,
		cnm.NamesOwner(front.ID): "nameserver 10.7.0.1 dev vlb-aaaaaaaa zone aaaaaaaaaaaa\n" +
			"nameserver fd07::1 dev vlb-aaaaaaaa zone aaaaaaaaaaaa",
		cnm.NetworkOwner(id("c")): "",
		cnm.NamesOwner(id("c")):   "",
		cnm.NamesOwner(lan.ID):    "", // strangers are on it
		cnm.NamesOwner(id("d")):   "",
		cnm.SandboxOwner(id("1")): "nameserver 127.0.0.11 upstream 9.9.9.9 netns box",
		cnm.EndpointOwner(id("4")): `name 444444444444 zone aaaaaaaaaaaa from box rank 255234 "web_1" "www" "a.b" ` +
			`"111111111111" "host" addr 10.7.0.9 port 53/udp`,
	} {
		if got := w.names(t, owner); got != want {
			t.Errorf("%s has %q, want %q", owner, got, want)
		}
	}
	got := w.names(t, cnm.NetworkOwner(lan.ID))
	if !strings.HasPrefix(got, `zone bbbbbbbbbbbb "lan" subnet 192.0.2.0/24`) {
		t.Errorf("a LAN has %q", got)
	}
}

// Where nodes have subnets, an endpoint elsewhere is a name and no path; and none has an address outside of its
// network.
func TestNamesOfPeers(t *testing.T) {
	w := real(t)
	n := cnm.Network{ID: id("a"), Name: "web", Driver: "host-gw", Scope: cnm.Cluster, IPv4: true, Phase: cnm.Active,
		Pools:   []cnm.Pool{pool("10.5.1.0/24", "10.5.1.1")},
		Cluster: &cnm.ClusterNetwork{Subnets: []netip.Prefix{netip.MustParsePrefix("10.5.0.0/16")}, Leases: "/x"}}
	w.put(t, cnm.KindNetwork, n.ID, n)
	put := func(key, addr string) plan.Owner {
		p := cnm.Peer{ID: cnm.PeerID(n.ID, key), Network: n.ID, Node: "n2", Endpoint: true, MAC: plan.MAC{2, 9},
			Prefixes: []netip.Prefix{netip.MustParsePrefix(addr)}, Addr4: netip.MustParseAddr("192.0.2.2"),
			Names: []string{"db"}, Ports: []plan.NamePort{{Proto: plan.TCP, Port: 5432}}}
		w.put(t, cnm.KindPeer, p.ID, p)
		return cnm.PeerOwner(p.ID)
	}
	if got, want := w.text(t, put("e1", "10.5.2.7/32")),
		`name aaaaaaaaaaaa/e1 zone aaaaaaaaaaaa "db" addr 10.5.2.7 port 5432/tcp`; got != want {
		t.Errorf("an endpoint elsewhere is %q, want %q", got, want)
	}
	if got := w.text(t, put("e2", "203.0.113.7/32")); got != "" {
		t.Errorf("a name for an address elsewhere: %q", got)
	}
	if got, want := w.names(t, cnm.NetworkOwner(n.ID)),
		`zone aaaaaaaaaaaa "web" subnet 10.5.0.0/16 host 10.5.1.1`; got != want {
		t.Errorf("the network is %q, want %q", got, want)
	}
}

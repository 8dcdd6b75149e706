package cluster

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/cluster/record"
)

func nets(texts ...string) (out []netip.Prefix) {
	for _, s := range texts {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// What a host needs wins over what a network wants; the space that a node allows decides about larger routes.
func TestConflict(t *testing.T) {
	needs := Needs{
		Links:  nets("192.0.2.0/24", "fe80::/64", "127.0.0.0/8", "10.7.0.1/32"),
		Routes: nets("10.20.0.0/14", "192.168.9.0/24", "fd20::/32"),
		Store:  []netip.Addr{netip.MustParseAddr("10.99.0.9"), netip.MustParseAddr("fd99::9")},
	}
	for name, c := range map[string]struct {
		space []netip.Prefix
		// the subnet and what the reason and the remedy have in them; none: it can be a network's
		want map[string][]string
	}{
		"private addresses": {nil, map[string][]string{
			"10.5.0.0/16":      nil,
			"fd05::/64":        nil,
			"8.0.0.0/7":        {"private addresses", "--network-space 8.0.0.0/7"},
			"10.0.0.0/7":       {"private addresses"},
			"2001:470::/32":    {"private addresses"},
			"169.254.0.0/16":   {"private addresses"},
			"127.0.0.0/8":      {"private addresses"},
			"192.0.2.128/25":   {"n1 has 192.0.2.0/24 on one of its own links"},
			"10.7.0.0/24":      {"n1 has 10.7.0.1/32"},
			"10.99.0.0/24":     {"etcd is at 10.99.0.9"},
			"fd99::/64":        {"etcd is at fd99::9"},
			"10.98.0.0/24":     {"node n2 is at 10.98.0.2"},
			"10.21.0.0/16":     {"n1 has a route to 10.20.0.0/14", "--network-space 10.21.0.0/16"},
			"10.16.0.0/12":     {"n1 has a route to 10.20.0.0/14"},
			"192.168.0.0/16":   {"n1 has a route to 192.168.9.0/24"},
			"fd20:0:1::/48":    {"n1 has a route to fd20::/32"},
			"192.168.9.128/25": {"n1 has a route to 192.168.9.0/24"},
		}},
		"a space of the node's own": {nets("10.20.0.0/15", "8.8.0.0/16"), map[string][]string{
			"8.8.8.0/24":   nil,
			"10.21.0.0/16": nil,
			"10.20.0.0/14": {"10.20.0.0/15, 8.8.0.0/16"},
			"10.5.0.0/16":  {"10.20.0.0/15, 8.8.0.0/16"},
		}},
		"a space never covers links and routes as they are": {nets("0.0.0.0/0"), map[string][]string{
			"192.0.2.0/26": {"one of its own links"},
			"10.20.0.0/14": {"a route to 10.20.0.0/14"},
			"10.99.0.0/16": {"etcd is at"},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			m := networks{core: newCore(Config{Name: "n1", Space: c.space})}
			m.rep.nodes["two"] = held[record.Node]{v: record.Node{Name: "n2", Addr4: netip.MustParseAddr("10.98.0.2")}}
			for s, want := range c.want {
				reason, remedy := m.conflict(netip.MustParsePrefix(s), needs, m.nodeAddrs())
				if (reason == "") != (want == nil) {
					t.Errorf("%s: %q, want %q", s, reason, want)
				}
				for _, part := range want {
					if !strings.Contains(reason+"; "+remedy, part) {
						t.Errorf("%s: %q, %q, want %q", s, reason, remedy, part)
					}
				}
			}
		})
	}
}

// noNetworks is a controller that has none.
type noNetworks struct{ Controller }

func (noNetworks) Network(context.Context, string) (cnm.Network, error) {
	return cnm.Network{}, cnm.ErrNotFound
}

// What a flanneld has on a host in a network that is its own is no conflict: it is to be stopped.
func TestWhatAFlanneldHasOnItsHost(t *testing.T) {
	running := true
	m := networks{core: newCore(Config{Name: "n1",
		Needs: func(context.Context) (Needs, error) { return Needs{Links: nets("10.120.29.0/32")}, nil },
		Rival: func(dir string) string {
			if running && dir == "/coreos.com/network" {
				return "flanneld (pid 812)"
			}
			return ""
		}})}
	m.ctrl = noNetworks{}
	n := cnm.Network{ID: "a", Name: "web", Cluster: &cnm.ClusterNetwork{Leases: "/coreos.com/network",
		Subnets: nets("10.120.0.0/16")}}
	err := m.admit(t.Context(), n)
	if !errors.Is(err, cnm.ErrInUse) || !strings.Contains(err.Error(), "flanneld (pid 812)") ||
		!strings.Contains(err.Error(), "stop it") {
		t.Errorf("beside a flanneld: %v", err)
	}
	running = false
	if err := m.admit(t.Context(), n); !errors.Is(err, cnm.ErrForbidden) ||
		!strings.Contains(err.Error(), "10.120.29.0/32 on one of its own links") ||
		!strings.Contains(err.Error(), "ip link del flannel.1") {
		t.Errorf("with what is left of one: %v", err)
	}
	n.Cluster.Leases, running = "/elsewhere", true
	if err := m.admit(t.Context(), n); !errors.Is(err, cnm.ErrForbidden) {
		t.Errorf("beside the flanneld of another network: %v", err)
	}
}

package cluster

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/plan"
)

// Needs are what the host itself uses, and networks of the cluster must keep clear of.
type Needs struct {
	Links  []netip.Prefix // subnets on its links, its own addresses, its gateways
	Routes []netip.Prefix // that lead further, default routes aside
	Store  []netip.Addr   // of etcd
	Own    []netip.Addr   // its addresses
}

// DefaultSpace is where networks of the cluster may be when the node's configuration says nothing: addresses that are
// not reached over the Internet (RFC 1918, RFC 6598, RFC 2544, RFC 5737, RFC 4193, RFC 3849).
func DefaultSpace() []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"),
		netip.MustParsePrefix("192.168.0.0/16"), netip.MustParsePrefix("100.64.0.0/10"),
		netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("192.0.2.0/24"),
		netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("203.0.113.0/24"),
		netip.MustParsePrefix("fc00::/7"), netip.MustParsePrefix("2001:db8::/32"),
	}
}

// firstPort is the first that a tunnel may have.
const firstPort = 1024

// admit refuses a network whose subnets this host needs itself: etcd or another node may have written anything, and
// who made the network does not know this host. A network that this node has with these subnets stays: what came
// after it is the doctor's.
func (m networks) admit(ctx context.Context, n cnm.Network) error {
	if c := n.Cluster; c != nil && c.Port != 0 && c.Port < firstPort {
		return &cnm.Error{Kind: cnm.ErrForbidden, Field: "port", Value: strconv.Itoa(int(c.Port)),
			Reason: fmt.Sprintf("ports below %d are those of services, such as DNS: a tunnel would take it from "+
				"containers and the host", firstPort),
			Remedy: "make the network with another -o port, or none to have the usual one"}
	}
	subnets := subnetsOf(n)
	if have, err := m.ctrl.Network(ctx, n.ID); err == nil && have.ID == n.ID && !have.Left() &&
		covers(subnetsOf(have), subnets) {
		return nil
	}
	if err := m.portIsFree(ctx, n); err != nil {
		return err
	}
	var needs Needs
	if m.cfg.Needs != nil {
		var err error
		if needs, err = m.cfg.Needs(ctx); err != nil {
			return fmt.Errorf("look at what the host uses: %w", err)
		}
	}
	nodes := m.nodeAddrs()
	for _, s := range subnets {
		if reason, remedy := m.conflict(s, needs, nodes); reason != "" {
			if n.Cluster != nil { // what is in the way may be a flanneld's of the same network
				if err := m.unrivalled(n); err != nil {
					return err
				}
				if n.Cluster.Leases != "" {
					remedy += ", or remove there what a flanneld has left: `ip link del flannel.1`, " +
						"`ip route del SUBNET`"
				}
			}
			return &cnm.Error{Kind: cnm.ErrForbidden, Field: "subnet", Value: s.String(), Reason: reason,
				Remedy: remedy}
		}
	}
	return nil
}

// portIsFree refuses a network whose tunnel has a port that a container publishes: after netd's next start the tunnel
// could be first.
func (m networks) portIsFree(ctx context.Context, n cnm.Network) error {
	if n.Cluster == nil || n.Cluster.Port == 0 {
		return nil
	}
	endpoints, err := m.ctrl.Endpoints(ctx)
	if err != nil {
		return err
	}
	port := n.Cluster.Port
	for _, e := range endpoints {
		for _, p := range e.Ports {
			if p.Proto == plan.UDP && port >= p.HostPort && port-p.HostPort < p.Count {
				return &cnm.Error{Kind: cnm.ErrForbidden, Field: "port", Value: strconv.Itoa(int(port)),
					Reason: fmt.Sprintf("container %.64s publishes it on node %s", e.Name, m.cfg.Name),
					Remedy: "make the network with another -o port, or publish the container's on another"}
			}
		}
	}
	return nil
}

// subnetsOf are all that a network's record names.
func subnetsOf(n cnm.Network) []netip.Prefix {
	var out []netip.Prefix
	if n.Cluster != nil {
		out = slices.Clone(n.Cluster.Subnets)
	}
	for _, p := range n.Pools {
		out = append(out, p.Subnet)
	}
	return out
}

// covers reports whether each of some subnets is in one of have.
func covers(have, subnets []netip.Prefix) bool {
	return !slices.ContainsFunc(subnets, func(s netip.Prefix) bool { return !inside(s, have) })
}

// inside reports whether one of the prefixes holds all of p.
func inside(p netip.Prefix, prefixes []netip.Prefix) bool {
	return slices.ContainsFunc(prefixes, func(q netip.Prefix) bool { return q.Bits() <= p.Bits() && q.Overlaps(p) })
}

// conflict is why a subnet cannot be a network's on this host, and what helps; empty when it can.
func (m networks) conflict(s netip.Prefix, needs Needs, nodes map[netip.Addr]string) (reason, remedy string) {
	const elsewhere = "make the network with another --subnet"
	space, allowed := m.cfg.Space, join(m.cfg.Space)
	if len(space) == 0 {
		space, allowed = DefaultSpace(), "private addresses"
	}
	if !s.IsValid() || !inside(s, space) {
		return fmt.Sprintf("networks of the cluster may have %s on this node", allowed),
			elsewhere + ", or start every netd with --network-space " + s.String()
	}
	for _, p := range needs.Links {
		if s.Overlaps(p) {
			return fmt.Sprintf("node %s has %s on one of its own links", m.cfg.Name, p), elsewhere
		}
	}
	for _, a := range needs.Store {
		if s.Contains(a) {
			return fmt.Sprintf("etcd is at %s", a), elsewhere
		}
	}
	for a, name := range nodes {
		if s.Contains(a) {
			return fmt.Sprintf("node %.64s is at %s", name, a), elsewhere // another node chose its name
		}
	}
	for _, p := range needs.Routes {
		if s.Overlaps(p) && !(len(m.cfg.Space) > 0 && p.Bits() < s.Bits()) {
			return fmt.Sprintf("node %s has a route to %s", m.cfg.Name, p), elsewhere + ", or start that netd with " +
				"--network-space " + s.String() + " where this part of a larger route is meant for networks"
		}
	}
	return "", ""
}

func join(prefixes []netip.Prefix) string {
	texts := make([]string, len(prefixes))
	for i, p := range prefixes {
		texts[i] = p.String()
	}
	return strings.Join(texts, ", ")
}

// nodeAddrs are the names of the cluster's nodes by their addresses.
func (m *core) nodeAddrs() map[netip.Addr]string {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[netip.Addr]string{}
	for _, r := range m.rep.nodes {
		for _, a := range []netip.Addr{r.v.Addr4, r.v.Addr6} {
			if a.IsValid() {
				out[a] = r.v.Name
			}
		}
	}
	return out
}

package doctor

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// cluster examines a node as a member of its cluster.
func cluster(f Facts) []Finding {
	if f.Cluster == nil {
		return nil
	}
	var all []Finding
	for _, check := range []func(Facts, Cluster) []Finding{
		clusterStore, clusterLoss, clusterHold, clusterIdentity, clusterAddress, clusterPeers, clusterRecords,
		clusterMTU, clusterFeatures, clusterGone,
	} {
		all = append(all, check(f, *f.Cluster)...)
	}
	return all
}

func clusterStore(f Facts, c Cluster) []Finding {
	const check = "cluster store"
	if c.Store == "" {
		return nil
	}
	if c.Connected {
		return fine(check, "connected to "+c.Store)
	}
	found := "no connection to " + c.Store
	if !c.Since.IsZero() {
		found += " for " + f.Now.Sub(c.Since).Round(time.Second).String()
	}
	if c.Error != "" {
		found += " (" + c.Error + ")"
	}
	remedy := "see that etcd runs and that this host reaches it: etcdctl --endpoints " + c.Store +
		" endpoint health, with netd's certificates"
	if c.Store == "embedded" {
		remedy = "journalctl -u netd; see that there is room on the disk, then: systemctl restart netd"
	}
	return finding(check, Warning,
		found+": traffic and local networks go on; networks across hosts cannot be made or changed", remedy)
}

func clusterLoss(_ Facts, c Cluster) []Finding {
	if c.Loss == "" {
		return nil
	}
	return finding("cluster records lost", Warning, c.Loss,
		"find out who removed them from etcd, and let only nodes write below netd's --etcd-prefix; net network ls on "+
			"each node shows what there is")
}

// clusterHold looks at how long this node still has what it holds. A third of the time is when renewals have
// failed several times.
func clusterHold(f Facts, c Cluster) []Finding {
	const check = "cluster lease"
	if c.Expires.IsZero() {
		return nil
	}
	left := c.Expires.Sub(f.Now).Round(time.Second)
	remedy := "bring the connection back (see cluster store)"
	if c.Connected {
		remedy = "see the clock (timedatectl) and journalctl -u netd; then: systemctl restart netd"
	}
	switch {
	case left <= 0:
		return finding(check, Error, fmt.Sprintf("over since %s: other nodes may take this node's subnets, and no "+
			"new container gets an address of them", (-left).String()), remedy)
	case c.TTL > 0 && left < c.TTL/3:
		return finding(check, Warning,
			fmt.Sprintf("not renewed, and over in %s: then other nodes may take this node's subnets", left), remedy)
	}
	return fine(check, "renewed; good for "+left.String())
}

func clusterIdentity(_ Facts, c Cluster) []Finding {
	const check = "node identity"
	var out []Finding
	if c.Twin != "" {
		out = append(out, finding(check, Error,
			"two nodes have the same ID: "+c.Twin+" writes this node's records as well, as a copied disk does",
			"on the copy: systemctl stop netd; rm the file node-id in netd's state directory; systemctl start netd")...)
	}
	owners := map[netip.Addr][]string{}
	var shared []netip.Addr
	for _, n := range c.Nodes {
		for _, a := range n.Addrs {
			if owners[a] = append(owners[a], nodeName(n)); len(owners[a]) == 2 {
				shared = append(shared, a)
			}
		}
	}
	slices.SortFunc(shared, netip.Addr.Compare)
	for _, a := range shared {
		severity := Warning
		if slices.ContainsFunc(c.Nodes, func(n ClusterNode) bool { return n.Self && slices.Contains(n.Addrs, a) }) {
			severity = Error
		}
		out = append(out, finding(check, severity,
			fmt.Sprintf("nodes %s announce the same address %s: traffic for all of them goes to one",
				strings.Join(owners[a], ", "), a),
			"on the wrong one: netd --node-ip, or --iface, with an address of its own, and restart netd; a node "+
				"that is no more goes by itself")...)
	}
	if out == nil && len(c.Nodes) > 0 {
		return fine(check, fmt.Sprintf("%d nodes, each with an ID and addresses of its own", len(c.Nodes)))
	}
	return out
}

func nodeName(n ClusterNode) string {
	if n.Name != "" {
		return n.Name
	}
	return n.ID
}

// clusterAddress: an address that has left the link is one nobody reaches.
func clusterAddress(_ Facts, c Cluster) []Finding {
	const check = "node address"
	i := slices.IndexFunc(c.Nodes, func(n ClusterNode) bool { return n.Self })
	if i < 0 || c.Link == "" {
		return nil
	}
	self := c.Nodes[i]
	if len(self.Addrs) == 0 {
		return finding(check, Error, "this node announces none: no other node reaches it",
			"netd --iface with the link to the other nodes, or --node-ip, and restart netd")
	}
	var texts []string
	for _, a := range self.Addrs {
		if len(c.LinkAddrs) > 0 && !slices.Contains(c.LinkAddrs, a) {
			return finding(check, Error,
				fmt.Sprintf("this node announces %s, which link %s does not have: no other node reaches it", a, c.Link),
				"ip addr show "+c.Link+"; netd --iface or --node-ip with what is right, and restart netd")
		}
		texts = append(texts, a.String())
	}
	return fine(check, strings.Join(texts, ", ")+" on "+c.Link)
}

// shownPeers is how many paths that are not well are told one by one.
const shownPeers = 10

func clusterPeers(_ Facts, c Cluster) []Finding {
	var out []Finding
	more, well := 0, 0
	said := map[string]bool{} // a dead underlay is the cause of all its tunnels
	for _, w := range c.Paths {
		switch {
		case w.Cause == "":
			well++
			continue
		case said[w.Node+"\n"+w.Cause]:
			continue
		}
		said[w.Node+"\n"+w.Cause] = true
		if len(out) == shownPeers {
			more++
			continue
		}
		severity := Warning
		if w.Alive && !w.Reachable {
			severity = Error
		}
		out = append(out, finding("peer "+w.Node, severity, w.Path+": "+w.Cause, w.Remedy)...)
	}
	if more > 0 {
		out = append(out, finding("peers", Warning, fmt.Sprintf("%d more paths are not well", more),
			"net node ls; net node inspect NODE shows each way and its cause")...)
	}
	if out == nil && well > 0 {
		return fine("peers", fmt.Sprintf("%d paths to other nodes, all well", well))
	}
	return out
}

func clusterRecords(_ Facts, c Cluster) []Finding {
	if len(c.Malformed) == 0 {
		return nil
	}
	shown := c.Malformed[:min(3, len(c.Malformed))]
	found := fmt.Sprintf("%d cannot be used and are left out: %s", len(c.Malformed), strings.Join(shown, "; "))
	if len(c.Malformed) > len(shown) {
		found += "; …"
	}
	return finding("cluster records", Warning, found,
		"net lease ls shows them; repair or remove them with etcdctl, and find out which program wrote them")
}

func clusterMTU(_ Facts, c Cluster) []Finding {
	var out []Finding
	for _, n := range c.Networks {
		if need := n.MTU + n.Overhead; c.LinkMTU > 0 && n.MTU > 0 && need > c.LinkMTU {
			out = append(out, finding("network MTU", Warning,
				fmt.Sprintf("network %s sends packets of %d bytes, which are %d in its tunnel, and %s carries %d: "+
					"large packets are cut or lost", n.Name, n.MTU, need, c.Link, c.LinkMTU),
				fmt.Sprintf("make it again with -o mtu=%d, or none; or: ip link set %s mtu %d, on every node",
					c.LinkMTU-n.Overhead, c.Link, need))...)
		}
	}
	return out
}

// clusterFeatures tells of networks that this kernel cannot join; without such networks a missing
// feature is only a warning.
func clusterFeatures(f Facts, c Cluster) []Finding {
	need := map[string]string{"overlay": "vxlan", "vxlan": "vxlan", "udp": "tun"}
	var out []Finding
	for _, n := range c.Networks {
		i := slices.IndexFunc(f.Features, func(x Feature) bool { return x.Name == need[n.Driver] && x.Err != nil })
		if i < 0 {
			continue
		}
		feature := f.Features[i]
		out = append(out, finding("network "+n.Name, Error,
			fmt.Sprintf("needs %s, which this kernel does not have (%v): its containers here reach no other node",
				feature.Name, feature.Err),
			needs[feature.Name].remedy)...)
	}
	return out
}

func clusterGone(_ Facts, c Cluster) []Finding {
	var out []Finding
	for _, n := range c.Networks {
		if n.Left {
			out = append(out, finding("network "+n.Name, Info, "this node has left it: no container here can be on it",
				"net network join "+n.Name)...)
		}
		if n.Gone {
			out = append(out, finding("network "+n.Name, Warning,
				"was removed from the cluster while containers here are on it: they reach no other node",
				fmt.Sprintf("net network inspect %s shows them; take them off, and: net network rm %s", n.Name,
					n.Name))...)
		}
	}
	return out
}

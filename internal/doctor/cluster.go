package doctor

import (
	"net/netip"
	"time"
)

// Cluster is what a node knows of the cluster it is in. Zero values are not known, and
// checks are silent about those.
type Cluster struct {
	Store     string // "embedded", or the endpoints
	Connected bool
	Error     string        // why not
	Since     time.Time     // of the present state
	Expires   time.Time     // when what this node holds is over unless it is renewed; zero: it holds nothing
	TTL       time.Duration // of that, when it has just been renewed
	Loss      string        // that the store has lost records, in words; "": it has not
	Twin      string        // who else writes under this node's ID: a copy of its disk; "": nobody

	Link      string       // this node's link to the others
	LinkMTU   int          // bytes
	LinkAddrs []netip.Addr // that the link has
	Nodes     []ClusterNode
	Paths     []PeerPath
	Networks  []ClusterNetwork
	Malformed []string // records that cannot be used, each with why: "web: lease 10.5.3.0-24: …"
}

// ClusterNode is a node of the cluster.
type ClusterNode struct {
	ID, Name string
	Addrs    []netip.Addr // that it announces
	Self     bool
	Alive    bool
	LastSeen time.Time
}

// PeerPath is a path to another node, as its probes found it.
type PeerPath struct {
	Node      string // name
	Path      string // "underlay", "vxlan web"
	Alive     bool   // the node
	Reachable bool
	Cause     string // why it is not well; "": it is, or has not been probed
	Remedy    string
}

// ClusterNetwork is a network that reaches other nodes.
type ClusterNetwork struct {
	Name     string
	Driver   string // overlay, vxlan, udp, host-gw
	MTU      int    // bytes, of its links
	Overhead int    // bytes that its tunnel puts around a packet
	Gone     bool   // from the cluster, and still in use here
	Left     bool   // by this node, which has nothing of it
}

package view

import (
	apiv1 "github.com/vethloom/vethloom/api/v1"
)

// clusterView is what a network is beyond this node, and what of it is this node's.
type clusterView struct {
	Subnets     []string // of all nodes together
	VNI         uint32   `json:",omitempty"`
	Port        uint32   `json:",omitempty"`
	Lease       []string `json:",omitempty"` // this node's own subnets
	Blocks      []string `json:",omitempty"` // what this node gives out of the shared subnets
	LeasePrefix string   `json:",omitempty"` // where in etcd the leases are
	Gone        bool     // from the cluster, and still in use here
	Left        bool     // by this node, which has nothing of it
	Remedy      string   `json:",omitempty"` // of what keeps this node from taking part
}

func viewCluster(n *apiv1.Network) *clusterView {
	c := n.GetCluster()
	if c == nil {
		return nil
	}
	v := &clusterView{
		Subnets: append([]string{}, c.GetSubnets()...), VNI: c.GetVni(), Port: c.GetPort(), LeasePrefix: c.GetLeases(),
		Gone: c.GetGone(), Left: c.GetLeft(),
	}
	if v.Left {
		v.Remedy = "net network join " + n.GetName()
	}
	for _, p := range n.GetPools() {
		if c.GetLeases() != "" {
			v.Lease = append(v.Lease, p.GetSubnet())
		}
		v.Blocks = append(v.Blocks, p.GetBlocks()...)
	}
	return v
}

type nodeView struct {
	ID        string
	Name      string
	Addresses []string
	Version   string
	Drivers   []string
	Self      bool
	Status    string // ready, away
	LastSeen  Moment
	Subnets   map[string][]string // by network
	Blocks    map[string][]string
	Endpoints int32
	Health    []healthView
}

type healthView struct {
	Path        string
	Target      string
	Reachable   bool
	RTT         string // "0.42 ms"
	RTTMicros   int64  // microseconds
	MTU         int32
	PathMTU     int32
	Small       bool
	Large       bool
	LossPercent int
	Checked     Moment
	Cause       string `json:",omitempty"`
	Remedy      string `json:",omitempty"`
}

func NodeOf(n *apiv1.Node) nodeView {
	v := nodeView{
		ID: n.GetId(), Name: n.GetName(), Addresses: append([]string{}, n.GetAddresses()...), Version: n.GetVersion(),
		Drivers: append([]string{}, n.GetDrivers()...), Self: n.GetSelf(), Status: NodeStatus(n),
		LastSeen: Time(n.GetLastSeen()),
		Subnets:  byNetwork(n.GetSubnets()), Blocks: byNetwork(n.GetBlocks()), Endpoints: n.GetEndpoints(),
		Health: []healthView{},
	}
	for _, h := range n.GetHealth() {
		hv := healthView{
			Path: h.GetPath(), Target: h.GetTarget(), Reachable: h.GetReachable(), MTU: h.GetMtu(),
			PathMTU: h.GetPathMtu(),
			Small:   h.GetSmall(), Large: h.GetLarge(), LossPercent: int(h.GetLoss()*100 + 0.5),
			Checked: Time(h.GetChecked()),
			Cause:   h.GetCause(), Remedy: h.GetRemedy(),
		}
		if h.GetRtt() != nil {
			rtt := h.GetRtt().AsDuration()
			hv.RTT, hv.RTTMicros = RTT(rtt), rtt.Microseconds()
		}
		v.Health = append(v.Health, hv)
	}
	return v
}

func byNetwork(all []*apiv1.NodeSubnet) map[string][]string {
	out := map[string][]string{}
	for _, s := range all {
		out[s.GetNetwork()] = append(out[s.GetNetwork()], s.GetPrefixes()...)
	}
	return out
}

type ClusterStatus struct {
	Store     string
	Connected bool
	Error     string `json:",omitempty"`
	Since     Moment
	NodeID    string
	NodeName  string
	NodeIPs   []string
	Nodes     int32
	Alive     int32
	Expires   Moment // of what this node holds, unless it is renewed
	Problems  []string
}

func ClusterStatusOf(c *apiv1.ClusterStatus) *ClusterStatus {
	if c == nil {
		return nil
	}
	return &ClusterStatus{
		Store: c.GetStore(), Connected: c.GetConnected(), Error: c.GetError(), Since: Time(c.GetSince()),
		NodeID:   c.GetNodeId(),
		NodeName: c.GetNodeName(), NodeIPs: append([]string{}, c.GetNodeIps()...), Nodes: c.GetNodes(),
		Alive:   c.GetAlive(),
		Expires: Time(c.GetExpires()), Problems: append([]string{}, c.GetProblems()...),
	}
}

func NodeStatus(n *apiv1.Node) string {
	if n.GetAlive() {
		return "ready"
	}
	return "away"
}

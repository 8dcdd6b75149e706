package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/vethloom/vethloom/api/client"
	apiv1 "github.com/vethloom/vethloom/api/v1"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func (a *App) clusterNode() *cobra.Command {
	return group("node", "Look at the nodes of the cluster", groupCluster, a.nodeList(), a.nodeInspect())
}

func (a *App) clusterLease() *cobra.Command {
	return group("lease", "Look at the nodes' subnets", groupCluster, a.leaseList())
}

func (a *App) nodeList() *cobra.Command {
	l := &lister[*apiv1.Node]{id: (*apiv1.Node).GetName}
	l.columns = []column[*apiv1.Node]{
		{name: "Name", header: "NAME", value: (*apiv1.Node).GetName},
		{name: "Address", header: "ADDRESS", value: func(n *apiv1.Node) string { return shorten(n.GetAddresses(), l.noTrunc) }},
		{name: "Status", header: "STATUS", value: func(n *apiv1.Node) string {
			if n.GetSelf() {
				return nodeStatus(n) + " (self)"
			}
			return nodeStatus(n)
		}},
		{name: "Version", header: "VERSION", value: (*apiv1.Node).GetVersion},
		{name: "Subnets", header: "SUBNETS", value: func(n *apiv1.Node) string { return nodeSubnets(n, l.noTrunc) }},
		{name: "Health", header: "HEALTH", value: nodeHealth},
		{name: "LastSeen", header: "LAST SEEN", value: func(n *apiv1.Node) string { return a.ago(n.GetLastSeen()) }},
		{name: "ID", header: "NODE ID", hidden: true, value: (*apiv1.Node).GetId},
		{name: "Drivers", header: "DRIVERS", hidden: true, value: func(n *apiv1.Node) string { return strings.Join(n.GetDrivers(), ", ") }},
		{name: "Endpoints", header: "ENDPOINTS", hidden: true, value: func(n *apiv1.Node) string { return strconv.Itoa(int(n.GetEndpoints())) }},
		{name: "Self", header: "SELF", hidden: true, value: func(n *apiv1.Node) string { return strconv.FormatBool(n.GetSelf()) }},
	}
	var filters []string
	cmd := &cobra.Command{
		Use: "ls [flags]", Aliases: []string{"list"}, Short: "List the nodes of the cluster", Args: cobra.NoArgs,
		Long: `List the nodes of the cluster, as this node sees them. A node is away when it has not been heard of for some
seconds. HEALTH is that of the worst way to a node; 'net node inspect' shows each of them, and why.`,
		Example: "  net node ls --filter status=away --format '{{.Name}} {{.LastSeen}}'",
		RunE: a.withClient(func(ctx context.Context, c *client.Client, _ []string) error {
			resp, err := c.Nodes.List(ctx, &apiv1.ListNodesRequest{Filters: filters})
			if err != nil {
				return client.Explain(err)
			}
			all := resp.GetNodes()
			slices.SortFunc(all, func(x, y *apiv1.Node) int {
				return cmp.Or(strings.Compare(x.GetName(), y.GetName()), strings.Compare(x.GetId(), y.GetId()))
			})
			return l.show(a.Out, all)
		}),
	}
	l.flags(cmd)
	cmd.Flags().StringArrayVar(&filters, "filter", nil, "name=, id=, status=ready|away")
	must(cmd.RegisterFlagCompletionFunc("filter", fixed("status=ready", "status=away")))
	return cmd
}

func (a *App) nodeInspect() *cobra.Command {
	var i inspector
	cmd := &cobra.Command{
		Use: "inspect [flags] NODE...", Short: "Show nodes in full", Args: cobra.MinimumNArgs(1),
		Long: `Show nodes in full, by name or ID, with the health of each way to them: the underlay, and each network's tunnel.
A way is probed with small packets and with packets as large as its MTU.`,
		ValidArgsFunction: a.complete(nodeNames, anyNumber),
		Example:           "  net node inspect -f '{{range .Health}}{{println .Way .RTT .Cause}}{{end}}' n2",
		RunE: a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
			return i.show(a, args, func(name string) (any, error) {
				n, err := c.Nodes.Inspect(ctx, &apiv1.InspectNodeRequest{Node: name})
				if err != nil {
					return nil, about("node", name, err)
				}
				return viewNode(n), nil
			})
		}),
	}
	i.flags(cmd)
	return cmd
}

func nodeStatus(n *apiv1.Node) string {
	if n.GetAlive() {
		return "ready"
	}
	return "away"
}

func nodeSubnets(n *apiv1.Node, all bool) string {
	var parts []string
	for _, s := range slices.Concat(n.GetSubnets(), n.GetBlocks()) {
		for _, p := range s.GetPrefixes() {
			parts = append(parts, s.GetNetwork()+" "+p)
		}
	}
	return shorten(parts, all)
}

// shorten leaves of a list what a table has room for: the first, and how many more there are.
func shorten(parts []string, all bool) string {
	if len(parts) > 1 && !all {
		return fmt.Sprintf("%s, +%d", parts[0], len(parts)-1)
	}
	return strings.Join(parts, ", ")
}

// nodeHealth is how the worst way to a node is doing, in a few words.
func nodeHealth(n *apiv1.Node) string {
	if n.GetSelf() {
		return "-"
	}
	worst, words := 0, "unknown"
	for _, h := range n.GetHealth() {
		switch {
		case h.GetChecked() == nil:
		case !h.GetReachable() && worst < 4:
			worst, words = 4, "no way by "+h.GetWay()
		case h.GetReachable() && !h.GetSmall(): // pings are filtered, and its tunnels are well
		case h.GetReachable() && !h.GetLarge() && worst < 3:
			worst, words = 3, "large packets lost on "+h.GetWay()
			if h.GetPathMtu() > 0 {
				words = fmt.Sprintf("MTU only %d on %s", h.GetPathMtu(), h.GetWay())
			}
		case h.GetLoss() > 0 && worst < 2:
			worst, words = 2, fmt.Sprintf("%.0f%% lost on %s", h.GetLoss()*100, h.GetWay())
		case worst < 1:
			worst, words = 1, "ok"
			if h.GetRtt() != nil {
				words += ", " + humanRTT(h.GetRtt().AsDuration())
			}
		}
	}
	return words
}

func (a *App) leaseList() *cobra.Command {
	l := &lister[*apiv1.Lease]{id: func(l *apiv1.Lease) string { return strings.Join(l.GetPrefixes(), ",") }, columns: []column[*apiv1.Lease]{
		{name: "Network", header: "NETWORK", value: (*apiv1.Lease).GetNetwork},
		{name: "Subnet", header: "SUBNET", value: func(l *apiv1.Lease) string { return strings.Join(l.GetPrefixes(), ", ") }},
		{name: "Node", header: "NODE", value: leaseHolder},
		{name: "Address", header: "ADDRESS", value: func(l *apiv1.Lease) string { return strings.Join(l.GetPublicIps(), ", ") }},
		{name: "Backend", header: "BACKEND", value: (*apiv1.Lease).GetBackend},
		{name: "Expires", header: "EXPIRES", value: a.leaseEnd},
		{name: "Status", header: "STATUS", value: leaseStatus},
		{name: "Driver", header: "DRIVER", hidden: true, value: (*apiv1.Lease).GetDriver},
		{name: "NodeID", header: "NODE ID", hidden: true, value: (*apiv1.Lease).GetNodeId},
		{name: "Own", header: "OWN", hidden: true, value: func(l *apiv1.Lease) string { return strconv.FormatBool(l.GetOwn()) }},
	}}
	var filters []string
	cmd := &cobra.Command{
		Use: "ls [flags]", Aliases: []string{"list"}, Short: "List the subnets that nodes have", Args: cobra.NoArgs,
		Long: `List the subnets that nodes have of the networks that give each node its own (vxlan, udp, host-gw). A node that
is there renews its lease long before it expires; "never" is a reservation, "-" a flanneld's.`,
		Example: "  net lease ls --filter network=web",
		RunE: a.withClient(func(ctx context.Context, c *client.Client, _ []string) error {
			resp, err := c.Leases.List(ctx, &apiv1.ListLeasesRequest{Filters: filters})
			if err != nil {
				return client.Explain(err)
			}
			all := resp.GetLeases()
			slices.SortStableFunc(all, func(x, y *apiv1.Lease) int { return strings.Compare(x.GetNetwork(), y.GetNetwork()) })
			return l.show(a.Out, all)
		}),
	}
	l.flags(cmd)
	cmd.Flags().StringArrayVar(&filters, "filter", nil, "network=, node=, backend=")
	return cmd
}

// leaseHolder names who has a lease: a flannel node has no name.
func leaseHolder(l *apiv1.Lease) string {
	if l.GetNode() == "" && l.GetNodeId() == "" {
		return "(other)"
	}
	return cmp.Or(l.GetNode(), shortID(l.GetNodeId()))
}

func leaseStatus(l *apiv1.Lease) string {
	switch {
	case l.GetProblem() != "":
		return l.GetProblem()
	case l.GetOwn():
		return "ok (self)"
	}
	return "ok"
}

// leaseEnd is unknown of a flanneld's: nothing but a renewal once a day tells that it lives.
func (a *App) leaseEnd(l *apiv1.Lease) string {
	if l.GetNodeId() == "" && l.GetExpires() == nil {
		return "-"
	}
	return a.ahead(l.GetExpires())
}

// ahead says how far away a moment is; one that is none never comes.
func (a *App) ahead(t *timestamppb.Timestamp) string {
	if t == nil {
		return "never"
	}
	if left := t.AsTime().Sub(a.Now()); left > 0 {
		return "in " + lowerFirst(humanDuration(left))
	}
	return lowerFirst(a.ago(t))
}

// showCluster writes the lines of 'net status' about the cluster.
func (a *App) showCluster(c *apiv1.ClusterStatus, line func(key, format string, args ...any)) {
	line("Cluster", "%d nodes, %d ready", c.GetNodes(), c.GetAlive())
	store := a.paint("32", "connected") + " to " + c.GetStore()
	if !c.GetConnected() {
		store = a.paint("31", "no connection") + " to " + c.GetStore()
	}
	if c.GetSince() != nil {
		store += " for " + lowerFirst(strings.TrimSuffix(a.ago(c.GetSince()), " ago"))
	}
	if c.GetError() != "" {
		store += ": " + c.GetError()
	}
	line("Store", "%s", store)
	line("Node", "%s (%s), %s", c.GetNodeName(), c.GetNodeId(), strings.Join(c.GetNodeIps(), ", "))
	if !c.GetConnected() && c.GetExpires() != nil {
		line("Leases", "end %s unless they are renewed; traffic goes on", a.ahead(c.GetExpires()))
	}
}

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
	"github.com/vethloom/vethloom/internal/cli/show"
	"github.com/vethloom/vethloom/internal/cli/view"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func (a nodes) clusterNode() *cobra.Command {
	return group("node", "Look at the nodes of the cluster, and forget those that are gone", groupCluster,
		a.nodeList(), a.nodeInspect(), a.nodeRemove())
}

func (a nodes) clusterLease() *cobra.Command {
	return group("lease", "Look at the nodes' subnets", groupCluster, a.leaseList())
}

func (a nodes) nodeList() *cobra.Command {
	l := &show.Lister[*apiv1.Node]{ID: (*apiv1.Node).GetName}
	l.Columns = []show.Column[*apiv1.Node]{
		{Name: "Name", Header: "NAME", Value: (*apiv1.Node).GetName},
		{Name: "Address", Header: "ADDRESS",
			Value: func(n *apiv1.Node) string { return shorten(n.GetAddresses(), l.NoTrunc) }},
		{Name: "Status", Header: "STATUS", Value: func(n *apiv1.Node) string {
			if n.GetSelf() {
				return view.NodeStatus(n) + " (self)"
			}
			return view.NodeStatus(n)
		}},
		{Name: "Version", Header: "VERSION", Value: (*apiv1.Node).GetVersion},
		{Name: "Subnets", Header: "SUBNETS", Value: func(n *apiv1.Node) string { return nodeSubnets(n, l.NoTrunc) }},
		{Name: "Health", Header: "HEALTH", Value: nodeHealth},
		{Name: "LastSeen", Header: "LAST SEEN", Value: func(n *apiv1.Node) string { return a.ago(n.GetLastSeen()) }},
		{Name: "ID", Header: "NODE ID", Hidden: true, Value: (*apiv1.Node).GetId},
		{Name: "Drivers", Header: "DRIVERS", Hidden: true,
			Value: func(n *apiv1.Node) string { return strings.Join(n.GetDrivers(), ", ") }},
		{Name: "Endpoints", Header: "ENDPOINTS", Hidden: true,
			Value: func(n *apiv1.Node) string { return strconv.Itoa(int(n.GetEndpoints())) }},
		{Name: "Self", Header: "SELF", Hidden: true,
			Value: func(n *apiv1.Node) string { return strconv.FormatBool(n.GetSelf()) }},
	}
	var filters []string
	cmd := &cobra.Command{
		Use: "ls [flags]", Aliases: []string{"list"}, Short: "List the nodes of the cluster", Args: cobra.NoArgs,
		Long: `List the nodes of the cluster, as this node sees them. A node is away when it has not been heard of for
some seconds. HEALTH is that of the worst path to a node; 'net node inspect' shows each of them, and why.`,
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
			return l.Show(a.Out, all)
		}),
	}
	l.Flags(cmd)
	cmd.Flags().StringArrayVarP(&filters, "filter", "f", nil, "name=, id=, status=ready|away")
	show.Must(cmd.RegisterFlagCompletionFunc("filter", show.Fixed("status=ready", "status=away")))
	return cmd
}

func (a nodes) nodeInspect() *cobra.Command {
	var i show.Inspector
	cmd := &cobra.Command{
		Use: "inspect [flags] NODE...", Short: "Show nodes in full", Args: cobra.MinimumNArgs(1),
		Long: `Show nodes in full, by name or ID, with the health of each path to them: the underlay, and each
network's tunnel. A path is probed with small packets and with packets as large as its MTU.`,
		ValidArgsFunction: a.complete(nodeNames, anyNumber),
		Example:           "  net node inspect -f '{{range .Health}}{{println .Path .RTT .Cause}}{{end}}' n2",
		RunE: a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
			return a.show(&i, args, func(name string) (any, error) {
				n, err := c.Nodes.Inspect(ctx, &apiv1.InspectNodeRequest{Node: name})
				if err != nil {
					return nil, about("node", name, err)
				}
				return view.NodeOf(n), nil
			})
		}),
	}
	i.Flags(cmd)
	return cmd
}

func (a nodes) nodeRemove() *cobra.Command {
	return &cobra.Command{
		Use: "rm NODE...", Aliases: []string{"remove"}, Short: "Forget nodes that are gone for good",
		Args: cobra.MinimumNArgs(1),
		Long: `Forget nodes that are gone for good, by name or ID: their addresses, subnets and endpoints are free for
others at once, and not only when --lease-ttl is over. A node must be away. Be sure that it does not come back while
its containers run: others may have their addresses by then.`,
		ValidArgsFunction: a.complete(nodeNames, anyNumber),
		Example:           "  net node rm n3",
		RunE: a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
			return a.each(args, func(name string) (string, error) {
				_, err := c.Nodes.Remove(ctx, &apiv1.RemoveNodeRequest{Node: name})
				return name, about("node", name, err)
			})
		}),
	}
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

// nodeHealth is how the worst path to a node is doing, in a few words.
func nodeHealth(n *apiv1.Node) string {
	if n.GetSelf() {
		return "-"
	}
	worst, words := 0, "unknown"
	for _, h := range n.GetHealth() {
		switch {
		case h.GetChecked() == nil:
		case !h.GetReachable() && worst < 4:
			worst, words = 4, "no path by "+h.GetPath()
		case h.GetReachable() && !h.GetSmall(): // pings are filtered, and its tunnels are well
		case h.GetReachable() && !h.GetLarge() && worst < 3:
			worst, words = 3, "large packets lost on "+h.GetPath()
			if h.GetPathMtu() > 0 {
				words = fmt.Sprintf("MTU only %d on %s", h.GetPathMtu(), h.GetPath())
			}
		case h.GetLoss() > 0 && worst < 2:
			worst, words = 2, fmt.Sprintf("%.0f%% lost on %s", h.GetLoss()*100, h.GetPath())
		case worst < 1:
			worst, words = 1, "ok"
			if h.GetRtt() != nil {
				words += ", " + view.RTT(h.GetRtt().AsDuration())
			}
		}
	}
	return words
}

func (a nodes) leaseList() *cobra.Command {
	l := &show.Lister[*apiv1.Lease]{ID: func(l *apiv1.Lease) string { return strings.Join(l.GetPrefixes(), ",") },
		Columns: []show.Column[*apiv1.Lease]{
			{Name: "Network", Header: "NETWORK", Value: (*apiv1.Lease).GetNetwork},
			{Name: "Subnet", Header: "SUBNET",
				Value: func(l *apiv1.Lease) string { return strings.Join(l.GetPrefixes(), ", ") }},
			{Name: "Node", Header: "NODE", Value: leaseHolder},
			{Name: "Address", Header: "ADDRESS",
				Value: func(l *apiv1.Lease) string { return strings.Join(l.GetPublicIps(), ", ") }},
			{Name: "Backend", Header: "BACKEND", Value: (*apiv1.Lease).GetBackend},
			{Name: "Expires", Header: "EXPIRES", Value: a.leaseEnd},
			{Name: "Status", Header: "STATUS", Value: leaseStatus},
			{Name: "Driver", Header: "DRIVER", Hidden: true, Value: (*apiv1.Lease).GetDriver},
			{Name: "NodeID", Header: "NODE ID", Hidden: true, Value: (*apiv1.Lease).GetNodeId},
			{Name: "Own", Header: "OWN", Hidden: true,
				Value: func(l *apiv1.Lease) string { return strconv.FormatBool(l.GetOwn()) }},
		}}
	var filters []string
	cmd := &cobra.Command{
		Use: "ls [flags]", Aliases: []string{"list"}, Short: "List the subnets that nodes have", Args: cobra.NoArgs,
		Long: `List the subnets that nodes have of the networks that give each node its own (vxlan, udp, host-gw). A
node that is there renews its lease long before it expires; "never" is a reservation, "-" a flanneld's.`,
		Example: "  net lease ls --filter network=web",
		RunE: a.withClient(func(ctx context.Context, c *client.Client, _ []string) error {
			resp, err := c.Leases.List(ctx, &apiv1.ListLeasesRequest{Filters: filters})
			if err != nil {
				return client.Explain(err)
			}
			all := resp.GetLeases()
			slices.SortStableFunc(all,
				func(x, y *apiv1.Lease) int { return strings.Compare(x.GetNetwork(), y.GetNetwork()) })
			return l.Show(a.Out, all)
		}),
	}
	l.Flags(cmd)
	cmd.Flags().StringArrayVarP(&filters, "filter", "f", nil, "network=, node=, backend=")
	return cmd
}

// leaseHolder names who has a lease: a flannel node has no name.
func leaseHolder(l *apiv1.Lease) string {
	if l.GetNode() == "" && l.GetNodeId() == "" {
		return "(other)"
	}
	return cmp.Or(l.GetNode(), show.ShortID(l.GetNodeId()))
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
func (a nodes) leaseEnd(l *apiv1.Lease) string {
	if l.GetNodeId() == "" && l.GetExpires() == nil {
		return "-"
	}
	return a.ahead(l.GetExpires())
}

// ahead says how far away a moment is; one that is none never comes.
func (a nodes) ahead(t *timestamppb.Timestamp) string {
	if t == nil {
		return "never"
	}
	if left := t.AsTime().Sub(a.Now()); left > 0 {
		return "in " + view.LowerFirst(view.Duration(left))
	}
	return view.LowerFirst(a.ago(t))
}

// showCluster writes the lines of 'net status' about the cluster.
func (a nodes) showCluster(c *apiv1.ClusterStatus, line func(key, format string, args ...any)) {
	line("Cluster", "%d nodes, %d ready", c.GetNodes(), c.GetAlive())
	store := a.paint("32", "connected")
	if !c.GetConnected() {
		store = a.paint("31", "no connection")
	}
	rest := " to " + c.GetStore()
	if c.GetSince() != nil {
		rest += " for " + view.LowerFirst(strings.TrimSuffix(a.ago(c.GetSince()), " ago"))
	}
	if c.GetError() != "" {
		rest += ": " + c.GetError()
	}
	line("Store", "%s%s", store, rest)
	line("Node", "%s (%s), %s", c.GetNodeName(), c.GetNodeId(), strings.Join(c.GetNodeIps(), ", "))
	if !c.GetConnected() && c.GetExpires() != nil {
		line("Leases", "end %s unless they are renewed; traffic goes on", a.ahead(c.GetExpires()))
	}
}

package cli

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/vethloom/vethloom/api/client"
	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/internal/cli/flagspec"
)

func (a *App) networkCommand() *cobra.Command {
	return group("network", "Manage networks", groupThings,
		a.networkCreate(), a.networkList(), a.networkInspect(), a.networkRemove(),
		a.networkConnect(), a.networkDisconnect(), a.networkPrune())
}

type networkCreateFlags struct {
	driver          string
	subnets         []string
	gateways        []string
	ranges          []string
	aux             []string
	ipv4, ipv6      bool
	internal        bool
	options, labels []string
}

func (a *App) networkCreate() *cobra.Command {
	var o networkCreateFlags
	cmd := &cobra.Command{
		Use: "create [flags] NAME", Short: "Create a network", Args: cobra.ExactArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		Example: `  net network create web
  net network create --subnet 10.5.0.0/24 --gateway 10.5.0.1 db
  net network create --subnet /26 --ipv6 --internal backend
  net network create -d overlay app                              # one subnet on every host of the cluster
  net network create -d vxlan --subnet 10.20.0.0/16 lab          # a subnet of its own on each host`,
		RunE: a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
			r, err := o.request(args[0])
			if err != nil {
				return err
			}
			n, err := c.Networks.Create(ctx, r)
			if err != nil {
				return about("network", args[0], err)
			}
			fmt.Fprintln(a.Out, n.GetId())
			return nil
		}),
	}
	f := cmd.Flags()
	f.StringVarP(&o.driver, "driver", "d", "", "bridge (default); across hosts: overlay, vxlan, udp or host-gw")
	f.StringArrayVar(&o.subnets, "subnet", nil, "subnet, or only a length ('/24') to have a free one picked; one a family")
	f.StringArrayVar(&o.gateways, "gateway", nil, "gateway of the subnet that holds it")
	f.StringArrayVar(&o.ranges, "ip-range", nil, "part of a subnet to hand out addresses from")
	f.StringArrayVar(&o.aux, "aux-address", nil, "NAME=ADDRESS never handed out")
	f.BoolVar(&o.ipv4, "ipv4", true, "give endpoints IPv4 addresses")
	f.BoolVar(&o.ipv6, "ipv6", false, "give endpoints IPv6 addresses")
	f.BoolVar(&o.internal, "internal", false, "no way out of the network")
	f.StringArrayVarP(&o.options, "opt", "o", nil, "driver option KEY=VALUE")
	f.StringArrayVar(&o.labels, "label", nil, "label KEY=VALUE")
	must(cmd.RegisterFlagCompletionFunc("driver", fixed("bridge", "overlay", "vxlan", "udp", "host-gw")))
	return cmd
}

func (o *networkCreateFlags) request(name string) (*apiv1.CreateNetworkRequest, error) {
	r := &apiv1.CreateNetworkRequest{Name: name, Driver: o.driver, Internal: o.internal, Ipv6: o.ipv6, DisableIpv4: !o.ipv4}
	var err error
	if r.Options, err = flagspec.KeyValues("opt", o.options); err != nil {
		return nil, err
	}
	if r.Labels, err = flagspec.KeyValues("label", o.labels); err != nil {
		return nil, err
	}
	r.Pools, err = flagspec.Pools(o.subnets, o.gateways, o.ranges, o.aux)
	return r, err
}

func (a *App) networkList() *cobra.Command {
	l := &lister[*apiv1.Network]{id: (*apiv1.Network).GetId}
	yes := func(f func(*apiv1.Network) bool) func(*apiv1.Network) string {
		return func(n *apiv1.Network) string { return strconv.FormatBool(f(n)) }
	}
	l.columns = []column[*apiv1.Network]{
		{name: "ID", header: "NETWORK ID", value: func(n *apiv1.Network) string {
			if l.noTrunc {
				return n.GetId()
			}
			return shortID(n.GetId())
		}},
		{name: "Name", header: "NAME", value: (*apiv1.Network).GetName},
		{name: "Driver", header: "DRIVER", value: (*apiv1.Network).GetDriver},
		{name: "Scope", header: "SCOPE", value: (*apiv1.Network).GetScope},
		{name: "Subnets", header: "SUBNETS", value: func(n *apiv1.Network) string { return strings.Join(subnets(n), ", ") }},
		{name: "IPv4", header: "IPV4", hidden: true, value: yes((*apiv1.Network).GetIpv4)},
		{name: "IPv6", header: "IPV6", hidden: true, value: yes((*apiv1.Network).GetIpv6)},
		{name: "Internal", header: "INTERNAL", hidden: true, value: yes((*apiv1.Network).GetInternal)},
		{name: "Labels", header: "LABELS", hidden: true, value: func(n *apiv1.Network) string { return labelList(n.GetLabels()) }},
		{name: "Endpoints", header: "ENDPOINTS", hidden: true, value: func(n *apiv1.Network) string { return strconv.Itoa(len(n.GetEndpoints())) }},
		{name: "CreatedAt", header: "CREATED AT", hidden: true, value: func(n *apiv1.Network) string { return stamp(n.GetCreated()).String() }},
	}
	var filters []string
	cmd := &cobra.Command{
		Use: "ls [flags]", Aliases: []string{"list"}, Short: "List networks", Args: cobra.NoArgs,
		Example: "  net network ls --filter driver=bridge --format '{{.Name}} {{.Subnets}}'",
		RunE: a.withClient(func(ctx context.Context, c *client.Client, _ []string) error {
			resp, err := c.Networks.List(ctx, &apiv1.ListNetworksRequest{Filters: filters})
			if err != nil {
				return client.Explain(err)
			}
			all := resp.GetNetworks()
			slices.SortFunc(all, func(x, y *apiv1.Network) int { return strings.Compare(x.GetName(), y.GetName()) })
			if l.quiet && !l.noTrunc {
				l.id = func(n *apiv1.Network) string { return shortID(n.GetId()) }
			}
			return l.show(a.Out, all)
		}),
	}
	l.flags(cmd)
	cmd.Flags().StringArrayVar(&filters, "filter", nil, "driver=, name=, id=, label=KEY[=VALUE], scope=, type=custom|builtin")
	return cmd
}

// subnets are a network's; of a cluster's network those of all nodes together.
func subnets(n *apiv1.Network) []string {
	if c := n.GetCluster(); c != nil {
		return c.GetSubnets()
	}
	var out []string
	for _, p := range n.GetPools() {
		out = append(out, p.GetSubnet())
	}
	return out
}

func (a *App) networkInspect() *cobra.Command {
	var i inspector
	cmd := &cobra.Command{
		Use: "inspect [flags] NETWORK...", Short: "Show networks in full", Args: cobra.MinimumNArgs(1),
		ValidArgsFunction: a.complete(networkNames, anyNumber),
		Example:           "  net network inspect -f '{{range .IPAM.Config}}{{.Subnet}}{{end}}' web",
		RunE: a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
			return i.show(a, args, func(name string) (any, error) {
				n, err := c.Networks.Inspect(ctx, &apiv1.InspectNetworkRequest{Network: name})
				if err != nil {
					return nil, about("network", name, err)
				}
				return viewNetwork(n), nil
			})
		}),
	}
	i.flags(cmd)
	return cmd
}

func (a *App) networkRemove() *cobra.Command {
	return &cobra.Command{
		Use: "rm NETWORK...", Aliases: []string{"remove"}, Short: "Remove networks", Args: cobra.MinimumNArgs(1),
		ValidArgsFunction: a.complete(networkNames, anyNumber),
		Example:           "  net network rm web db",
		RunE: a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
			return a.each(args, func(name string) (string, error) {
				_, err := c.Networks.Remove(ctx, &apiv1.RemoveNetworkRequest{Network: name})
				return name, about("network", name, err)
			})
		}),
	}
}

func (a *App) networkConnect() *cobra.Command {
	var o endpointFlags
	cmd := &cobra.Command{
		Use: "connect [flags] NETWORK CONTAINER", Short: "Join a container to a further network", Args: cobra.ExactArgs(2),
		ValidArgsFunction: a.completeInOrder(networkNames, containerNames),
		Example:           "  net network connect --ip 10.5.0.9 --alias cache db web1",
		RunE: a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
			r := &apiv1.ConnectRequest{Network: args[0], Container: args[1]}
			if err := o.apply(r); err != nil {
				return err
			}
			_, err := c.Networks.Connect(ctx, r)
			return about("connect", args[1]+" to network "+args[0], err)
		}),
	}
	o.flags(cmd, "alias")
	return cmd
}

// endpointFlags are the wishes for one endpoint that are flags of their own.
type endpointFlags struct {
	ip, ip6, mac string
	aliases      []string
	priority     int
}

func (o *endpointFlags) flags(cmd *cobra.Command, alias string) {
	f := cmd.Flags()
	f.StringVar(&o.ip, "ip", "", "IPv4 address")
	f.StringVar(&o.ip6, "ip6", "", "IPv6 address")
	f.StringVar(&o.mac, "mac-address", "", "MAC address")
	f.StringArrayVar(&o.aliases, alias, nil, "further name on the network")
	f.IntVar(&o.priority, "gw-priority", 0, "-1000 to 1000; the highest network provides the default route")
}

// given tells whether any wish was expressed.
func (o *endpointFlags) given() bool {
	return o.ip != "" || o.ip6 != "" || o.mac != "" || len(o.aliases) > 0 || o.priority != 0
}

func (o *endpointFlags) apply(r *apiv1.ConnectRequest) error {
	if err := flagspec.Addresses(r, o.ip, o.ip6); err != nil {
		return err
	}
	if o.mac != "" {
		mac, err := flagspec.MAC(o.mac)
		if err != nil {
			return fmt.Errorf("--mac-address: %w", err)
		}
		r.MacAddress = mac
	}
	if o.priority != 0 {
		priority, err := flagspec.Priority(strconv.Itoa(o.priority))
		if err != nil {
			return fmt.Errorf("--gw-priority: %w", err)
		}
		r.GatewayPriority = priority
	}
	r.Aliases = append(r.Aliases, o.aliases...)
	return nil
}

func (a *App) networkDisconnect() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "disconnect [flags] NETWORK CONTAINER", Short: "Take a container off a network", Args: cobra.ExactArgs(2),
		ValidArgsFunction: a.completeInOrder(networkNames, containerNames),
		Example:           "  net network disconnect db web1",
		RunE: a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
			_, err := c.Networks.Disconnect(ctx, &apiv1.DisconnectRequest{Network: args[0], Container: args[1], Force: force})
			return about("disconnect", args[1]+" from network "+args[0], err)
		}),
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "also when the container is gone")
	return cmd
}

func (a *App) networkPrune() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "prune [flags]", Short: "Remove all networks nobody is on", Args: cobra.NoArgs,
		Example: "  net network prune -f",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.confirm(force, "This removes all networks that no container is on."); err != nil {
				return err
			}
			return a.withClient(func(ctx context.Context, c *client.Client, _ []string) error {
				resp, err := c.Networks.Prune(ctx, &apiv1.PruneNetworksRequest{})
				for _, n := range resp.GetNames() {
					fmt.Fprintln(a.Out, n)
				}
				return client.Explain(err)
			})(cmd, nil)
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "do not ask")
	return cmd
}

// confirm asks, unless force; without an answer of yes it is an error.
func (a *App) confirm(force bool, what string) error {
	if force {
		return nil
	}
	if _, ok := terminal(a.In); !ok {
		return fmt.Errorf("nobody to ask for confirmation (standard input is no terminal): give --force")
	}
	fmt.Fprintf(a.Err, "%s Continue? [y/N] ", what)
	var answer string
	if _, err := fmt.Fscanln(a.In, &answer); err != nil || !strings.EqualFold(answer, "y") && !strings.EqualFold(answer, "yes") {
		return fmt.Errorf("not confirmed: nothing was removed")
	}
	return nil
}

package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/vethloom/vethloom/api/client"
	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/internal/cli/flagspec"
	"github.com/vethloom/vethloom/internal/cli/session"
	"github.com/vethloom/vethloom/internal/cli/show"
	"github.com/vethloom/vethloom/internal/cli/view"
	"google.golang.org/grpc/codes"
)

func (a networks) networkCommand() *cobra.Command {
	return group("network", "Manage networks", groupThings,
		a.networkCreate(), a.networkList(), a.networkInspect(), a.networkUpdate(), a.networkRemove(),
		a.networkConnect(), a.networkDisconnect(), a.networkLeave(), a.networkJoin(),
		a.networkPrune())
}

type networkCreateFlags struct {
	driver          string
	ipam            string
	ipamOptions     []string
	subnets         []string
	gateways        []string
	ranges          []string
	aux             []string
	ipv4, ipv6      bool
	internal        bool
	options, labels []string
	routes          []string
	configOnly      bool
	configFrom      string
}

func (a networks) networkCreate() *cobra.Command {
	var o networkCreateFlags
	cmd := &cobra.Command{
		Use: "create [flags] NAME", Short: "Create a network", Args: cobra.ExactArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		Example: `  net network create web
  net network create --subnet 10.5.0.0/24 --gateway 10.5.0.1 db
  net network create --subnet /26 --ipv6 --internal backend
  net network create -d overlay app                              # one subnet on every host of the cluster
  net network create -d vxlan --subnet 10.20.0.0/16 lab          # a subnet of its own on each host`,
		RunE: withRequest(a.App, func(args []string) (*apiv1.CreateNetworkRequest, error) {
			return o.request(args[0])
		}, func(ctx context.Context, c *client.Client, r *apiv1.CreateNetworkRequest, args []string) error {
			n, err := c.Networks.Create(ctx, r)
			if err != nil {
				return about("network", args[0], err)
			}
			show.Println(a.Out, n.GetId())
			return nil
		}),
	}
	f := cmd.Flags()
	f.StringVarP(&o.driver, "driver", "d", "",
		"bridge (default), macvlan, ipvlan; across hosts: overlay, vxlan, udp or host-gw; or the name of a plugin")
	f.StringArrayVar(&o.subnets, "subnet", nil,
		"subnet, or only a length ('/24') to have a free one picked; on one host several a family")
	f.StringArrayVar(&o.gateways, "gateway", nil, "gateway of the subnet that holds it")
	f.StringArrayVar(&o.ranges, "ip-range", nil, "part of a subnet to give addresses from")
	f.StringArrayVar(&o.aux, "aux-address", nil, "NAME=ADDRESS never given")
	f.BoolVar(&o.ipv4, "ipv4", true, "give endpoints IPv4 addresses")
	f.BoolVar(&o.ipv6, "ipv6", false, "give endpoints IPv6 addresses")
	f.BoolVar(&o.internal, "internal", false, "no way out of the network")
	f.Bool("attachable", true, "taken as Docker's: containers may be on every network")
	f.StringVar(&o.ipam, "ipam-driver", "",
		"who gives subnets and addresses: dhcp (the LAN's server) or a plugin (default: netd itself)")
	f.StringArrayVar(&o.ipamOptions, "ipam-opt", nil, "option KEY=VALUE of the IPAM plugin")
	f.StringArrayVarP(&o.options, "opt", "o", nil, "driver option KEY=VALUE")
	f.StringArrayVar(&o.routes, "route", nil, "route of containers, SUBNET[,via=ADDRESS]; the same as -o routes=")
	f.StringArrayVar(&o.labels, "label", nil, "label KEY=VALUE")
	f.BoolVar(&o.configOnly, "config-only", false, "hold what other networks are made from, and be none")
	f.StringVar(&o.configFrom, "config-from", "", "network with --config-only to take subnets and options from")
	show.Must(cmd.RegisterFlagCompletionFunc("driver",
		show.Fixed("bridge", "macvlan", "overlay", "vxlan", "udp", "host-gw")))
	return cmd
}

func (o *networkCreateFlags) request(name string) (*apiv1.CreateNetworkRequest, error) {
	r := &apiv1.CreateNetworkRequest{Name: name, Driver: o.driver, Internal: o.internal, Ipv6: o.ipv6,
		DisableIpv4: !o.ipv4, ConfigOnly: o.configOnly, ConfigFrom: o.configFrom,
		IpamDriver: o.ipam}
	var err error
	options := o.options
	if len(o.routes) > 0 {
		if slices.ContainsFunc(options, func(s string) bool { return strings.HasPrefix(s, "routes=") }) {
			return nil, errors.New("--route and -o routes= are the same: give one of them")
		}
		options = append(options, "routes="+strings.Join(o.routes, " "))
	}
	if r.Options, err = flagspec.KeyValues("opt", options); err != nil {
		return nil, err
	}
	if r.IpamOptions, err = flagspec.KeyValues("ipam-opt", o.ipamOptions); err != nil {
		return nil, err
	}
	if r.Labels, err = flagspec.KeyValues("label", o.labels); err != nil {
		return nil, err
	}
	r.Pools, err = flagspec.Pools(o.subnets, o.gateways, o.ranges, o.aux)
	return r, err
}

func (a networks) networkList() *cobra.Command {
	l := networkLister()
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
			if l.Quiet && !l.NoTrunc {
				l.ID = func(n *apiv1.Network) string { return show.ShortID(n.GetId()) }
			}
			if err := l.Show(a.Out, all); err != nil || l.Format != "" || l.Quiet {
				return err
			}
			return a.remindLeft(all)
		}),
	}
	l.Flags(cmd)
	cmd.Flags().StringArrayVarP(&filters, "filter", "f", nil,
		"driver=, name=, id=, label=KEY[=VALUE], scope=local|cluster, type=custom|builtin, dangling=true|false")
	return cmd
}

// remindLeft says how networks that this node has left are joined again.
func (a networks) remindLeft(all []*apiv1.Network) error {
	for _, n := range all {
		if !n.GetCluster().GetLeft() {
			continue
		}
		_, err := show.Printf(a.Err, "this node has left network %s; net network join %[1]s\n", n.GetName())
		if err != nil {
			return err
		}
	}
	return nil
}

// networkLister has the columns of networks.
func networkLister() *show.Lister[*apiv1.Network] {
	l := &show.Lister[*apiv1.Network]{ID: (*apiv1.Network).GetId}
	yes := func(f func(*apiv1.Network) bool) func(*apiv1.Network) string {
		return func(n *apiv1.Network) string { return strconv.FormatBool(f(n)) }
	}
	l.Columns = []show.Column[*apiv1.Network]{
		{Name: "ID", Header: "NETWORK ID", Value: func(n *apiv1.Network) string {
			if l.NoTrunc {
				return n.GetId()
			}
			return show.ShortID(n.GetId())
		}},
		{Name: "Name", Header: "NAME", Value: (*apiv1.Network).GetName},
		{Name: "Driver", Header: "DRIVER", Value: (*apiv1.Network).GetDriver},
		{Name: "Scope", Header: "SCOPE", Value: reach},
		{Name: "Subnets", Header: "SUBNETS",
			Value: func(n *apiv1.Network) string { return strings.Join(subnets(n), ", ") }},
		{Name: "IPv4", Header: "IPV4", Hidden: true, Value: yes((*apiv1.Network).GetIpv4)},
		{Name: "IPv6", Header: "IPV6", Hidden: true, Value: yes((*apiv1.Network).GetIpv6)},
		{Name: "Internal", Header: "INTERNAL", Hidden: true, Value: yes((*apiv1.Network).GetInternal)},
		{Name: "Labels", Header: "LABELS", Hidden: true,
			Value: func(n *apiv1.Network) string { return view.LabelList(n.GetLabels()) }},
		{Name: "Endpoints", Header: "ENDPOINTS", Hidden: true,
			Value: func(n *apiv1.Network) string { return strconv.Itoa(len(n.GetEndpoints())) }},
		{Name: "Left", Header: "LEFT", Hidden: true,
			Value: yes(func(n *apiv1.Network) bool { return n.GetCluster().GetLeft() })},
		{Name: "CreatedAt", Header: "CREATED AT", Hidden: true,
			Value: func(n *apiv1.Network) string { return view.Time(n.GetCreated()).String() }},
	}
	return l
}

// reach is a network's scope, and whether this node has left it.
func reach(n *apiv1.Network) string {
	if n.GetCluster().GetLeft() {
		return n.GetScope() + " (left)"
	}
	return n.GetScope()
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

func (a networks) networkInspect() *cobra.Command {
	var i show.Inspector
	cmd := &cobra.Command{
		Use: "inspect [flags] NETWORK...", Short: "Show networks in full", Args: cobra.MinimumNArgs(1),
		ValidArgsFunction: a.complete(networkNames, anyNumber),
		Example:           "  net network inspect -f '{{range .IPAM.Config}}{{.Subnet}}{{end}}' web",
		RunE: a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
			return a.show(&i, args, func(name string) (any, error) {
				n, err := c.Networks.Inspect(ctx, &apiv1.InspectNetworkRequest{Network: name})
				if err != nil {
					return nil, about("network", name, err)
				}
				return view.Network(n), nil
			})
		}),
	}
	i.Flags(cmd)
	return cmd
}

type networkUpdateFlags struct {
	options, labels             []string
	removeOptions, removeLabels []string
	internal                    bool
}

func (a networks) networkUpdate() *cobra.Command {
	var o networkUpdateFlags
	cmd := &cobra.Command{
		Use: "update [flags] NETWORK", Short: "Change a network in place, with the containers on it",
		Long: "Change labels and options of a network while containers are on it; connections go on. A change that " +
			"does not agree with one of its containers is refused, and changes nothing. A network of the cluster is " +
			"changed on every node.",
		Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeInOrder(networkNames),
		Example: `  net network update -o mtu=1400 --label tier=front web
  net network update --opt-rm mtu --label-rm tier --internal=false web`,
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := o.request(args[0], cmd.Flags().Changed("internal"))
			if err != nil {
				return err
			}
			return a.withClient(func(ctx context.Context, c *client.Client, _ []string) error {
				_, err := c.Networks.Update(ctx, r)
				if err == nil {
					show.Println(a.Out, args[0])
				}
				return about("network", args[0], err)
			})(cmd, args)
		},
	}
	f := cmd.Flags()
	f.StringArrayVarP(&o.options, "opt", "o", nil, "driver option KEY=VALUE, set")
	f.StringArrayVar(&o.removeOptions, "opt-rm", nil, "driver option KEY, back to what it is when not given")
	f.StringArrayVar(&o.labels, "label", nil, "label KEY=VALUE, set")
	f.StringArrayVar(&o.removeLabels, "label-rm", nil, "label KEY, removed")
	f.BoolVar(&o.internal, "internal", false, "no way out of the network")
	return cmd
}

func (o *networkUpdateFlags) request(name string, internal bool) (*apiv1.UpdateNetworkRequest, error) {
	r := &apiv1.UpdateNetworkRequest{Network: name, RemoveOptions: o.removeOptions, RemoveLabels: o.removeLabels}
	var err error
	if r.Options, err = flagspec.KeyValues("opt", o.options); err != nil {
		return nil, err
	}
	if r.Labels, err = flagspec.KeyValues("label", o.labels); err != nil {
		return nil, err
	}
	if internal {
		r.Internal = &o.internal
	}
	if len(r.Options)+len(r.Labels)+len(r.RemoveOptions)+len(r.RemoveLabels) == 0 && !internal {
		return nil, fmt.Errorf("nothing to change: give --opt, --opt-rm, --label, --label-rm or --internal")
	}
	for _, key := range r.RemoveOptions {
		if _, ok := r.Options[key]; ok {
			return nil, fmt.Errorf("option %q is both set and removed: give one of --opt and --opt-rm", key)
		}
	}
	for _, key := range r.RemoveLabels {
		if _, ok := r.Labels[key]; ok {
			return nil, fmt.Errorf("label %q is both set and removed: give one of --label and --label-rm", key)
		}
	}
	return r, nil
}

func (a networks) networkRemove() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "rm [flags] NETWORK...", Aliases: []string{"remove"}, Short: "Remove networks",
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: a.complete(networkNames, anyNumber),
		Example:           "  net network rm web db",
		RunE: a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
			return a.each(args, func(name string) (string, error) {
				_, err := c.Networks.Remove(ctx, &apiv1.RemoveNetworkRequest{Network: name})
				if force && client.CodeOf(err) == codes.NotFound {
					return "", nil
				}
				return name, about("network", name, err)
			})
		}),
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "say nothing of networks that do not exist")
	return cmd
}

func (a networks) networkConnect() *cobra.Command {
	var o connectFlags
	cmd := &cobra.Command{
		Use: "connect [flags] NETWORK CONTAINER", Short: "Join a container to a further network",
		Args:              cobra.ExactArgs(2),
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
	f := cmd.Flags()
	f.StringVar(&o.ifname, "ifname", "", "name of the link in the container")
	f.StringArrayVar(&o.sysctls, "sysctl", nil, "sysctl of that link, as net.ipv4.conf.IFNAME.NAME=VALUE")
	f.StringArrayVar(&o.options, "driver-opt", nil, "the same by Docker's names, KEY=VALUE")
	f.StringVar(&o.rateIn, "rate-in", "", "bits a second to the container: 100mbit")
	f.StringVar(&o.rateOut, "rate-out", "", "bits a second from the container")
	f.StringArrayVar(&o.outbound, "outbound-ip", nil, "address of the host that what leaves it carries")
	return cmd
}

// connectFlags are those of connect.
type connectFlags struct {
	endpointFlags
	ifname, rateIn, rateOut    string
	sysctls, options, outbound []string
}

func (o *connectFlags) apply(r *apiv1.ConnectRequest) error {
	err := o.endpointFlags.apply(r)
	if err == nil && o.ifname != "" {
		err = flagspec.IfName(r, o.ifname)
	}
	for i := 0; err == nil && i < len(o.sysctls); i++ {
		err = flagspec.LinkSysctl(r, o.sysctls[i])
	}
	for i := 0; err == nil && i < len(o.options); i++ {
		err = flagspec.EndpointOption(r, o.options[i])
	}
	if err == nil {
		err = flagspec.Outbound(r, o.outbound)
	}
	if err == nil && o.rateIn != "" {
		r.RateIn, err = flagspec.Rate(o.rateIn)
	}
	if err == nil && o.rateOut != "" {
		r.RateOut, err = flagspec.Rate(o.rateOut)
	}
	return err
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

// given reports whether any wish was expressed.
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

func (a networks) networkDisconnect() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "disconnect [flags] NETWORK CONTAINER", Short: "Take a container off a network", Args: cobra.ExactArgs(2),
		ValidArgsFunction: a.completeInOrder(networkNames, containerNames),
		Example:           "  net network disconnect db web1",
		RunE: a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
			_, err := c.Networks.Disconnect(ctx, &apiv1.DisconnectRequest{Network: args[0], Container: args[1],
				Force: force})
			return about("disconnect", args[1]+" from network "+args[0], err)
		}),
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "also when the container is gone")
	return cmd
}

func (a networks) networkLeave() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "leave [flags] NETWORK...", Short: "Take part in networks of the cluster no more",
		Long: "Take down what this node has of networks of the cluster, until 'net network join'. The cluster and " +
			"the other nodes keep them. It works while etcd is away, and outlives a restart of netd.",
		Args: cobra.MinimumNArgs(1), ValidArgsFunction: a.complete(joinedNames, anyNumber),
		Example: "  net network leave app",
		RunE: a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
			return a.each(args, func(name string) (string, error) {
				_, err := c.Networks.Leave(ctx, &apiv1.LeaveNetworkRequest{Network: name, Force: force})
				return name, about("network", name, err)
			})
		}),
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "disconnect this node's containers from it first")
	return cmd
}

func (a networks) networkJoin() *cobra.Command {
	return &cobra.Command{
		Use: "join NETWORK...", Short: "Take part again in networks that this node has left",
		Args: cobra.MinimumNArgs(1), ValidArgsFunction: a.complete(leftNames, anyNumber),
		Example: "  net network join app",
		RunE: a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
			return a.each(args, func(name string) (string, error) {
				_, err := c.Networks.Join(ctx, &apiv1.JoinNetworkRequest{Network: name})
				return name, about("network", name, err)
			})
		}),
	}
}

func (a networks) networkPrune() *cobra.Command {
	var force bool
	var filters []string
	cmd := &cobra.Command{
		Use: "prune [flags]", Short: "Remove all networks nobody is on", Args: cobra.NoArgs,
		Example: `  net network prune -f
  net network prune --filter until=24h --filter label!=keep`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.confirm(force, "This removes all networks that no container is on."); err != nil {
				return err
			}
			return a.withClient(func(ctx context.Context, c *client.Client, _ []string) error {
				resp, err := c.Networks.Prune(ctx, &apiv1.PruneNetworksRequest{Filters: filters})
				for _, n := range resp.GetNames() {
					show.Println(a.Out, n)
				}
				return client.Explain(err)
			})(cmd, nil)
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "do not ask")
	cmd.Flags().StringArrayVar(&filters, "filter", nil,
		"until=TIME or how long ago (24h), label=KEY[=VALUE], label!=KEY[=VALUE]")
	return cmd
}

// confirm asks, unless force; without an answer of yes it is an error.
func (a *App) confirm(force bool, what string) error {
	if force {
		return nil
	}
	if _, ok := session.Terminal(a.In); !ok {
		return fmt.Errorf("nobody to ask for confirmation (standard input is no terminal): give --force")
	}
	show.Printf(a.Err, "%s Continue? [y/N] ", what)
	var answer string
	if _, err := fmt.Fscanln(a.In, &answer); err != nil || !strings.EqualFold(answer, "y") &&
		!strings.EqualFold(answer, "yes") {
		return fmt.Errorf("not confirmed: nothing was removed")
	}
	return nil
}

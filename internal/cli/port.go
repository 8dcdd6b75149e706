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
	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/cli/flagspec"
	"github.com/vethloom/vethloom/internal/cli/show"
	"github.com/vethloom/vethloom/internal/cli/view"
)

// publishUsage is what -p takes.
const publishUsage = "[IP:][HOST:]CONTAINER[/tcp|udp|sctp][,from=SUBNET]...[,mode=cluster], ranges too"

// containerPort shows ports as Docker does, and has the commands that change them.
func (a containers) containerPort() *cobra.Command {
	cmd := &cobra.Command{
		Use: "port CONTAINER [PORT[/PROTO]]", Short: "Show or change where a container's ports are published",
		GroupID: groupRun, Args: cobra.RangeArgs(1, 2), ValidArgsFunction: a.complete(runningNames, 1),
		Example: "  net port web 80\n  net port add web -p 8080:80\n  net port rm web 8080:80\n  net port ls",
		RunE: a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
			ct, err := c.Containers.Inspect(ctx, &apiv1.InspectContainerRequest{Container: args[0]})
			if err != nil {
				return about("container", args[0], err)
			}
			ports := view.NetworkSettingsOf(ct.GetSandbox()).Ports
			if len(args) == 1 {
				a.showPorts(ports, sortedPorts(ports))
				return nil
			}
			key := portKey(args[1])
			if len(ports[key]) == 0 {
				return fmt.Errorf("container %s: port %s is not published: see 'net port %s'", args[0], key, args[0])
			}
			for _, b := range ports[key] {
				show.Println(a.Out, b.String())
			}
			return nil
		}),
	}
	cmd.AddCommand(a.portAdd(), a.portRemove(), a.portList())
	return cmd
}

func (a containers) showPorts(ports map[string][]view.Binding, keys []string) {
	for _, key := range keys {
		for _, b := range ports[key] {
			show.Printf(a.Out, "%s -> %s\n", key, b.String())
		}
	}
}

func (a containers) portAdd() *cobra.Command {
	var publish []string
	cmd := &cobra.Command{
		Use: "add CONTAINER -p PORT...", Short: "Publish further ports of a container, whether it runs or not",
		Args: cobra.MinimumNArgs(1), ValidArgsFunction: a.complete(containerNames, 1),
		Example: "  net port add web -p 8080:80\n  net port add web -p 127.0.0.1:9000:90 -p 53:53/udp",
		RunE: withRequest(a.App, func(args []string) (*apiv1.ChangePortsRequest, error) {
			values := append(slices.Clone(publish), args[1:]...)
			if len(values) == 0 {
				return nil, fmt.Errorf("no port is named: use -p [IP:][HOST:]CONTAINER[/PROTO]")
			}
			ports, err := flagspec.Ports(values)
			return &apiv1.ChangePortsRequest{Container: args[0], Add: ports}, err
		}, func(ctx context.Context, c *client.Client, r *apiv1.ChangePortsRequest, args []string) error {
			if _, err := c.Containers.ChangePorts(ctx, r); err != nil {
				return about("container", args[0], err)
			}
			ct, err := c.Containers.Inspect(ctx, &apiv1.InspectContainerRequest{Container: args[0]})
			if err != nil {
				return about("container", args[0], err)
			}
			ports := view.NetworkSettingsOf(ct.GetSandbox()).Ports
			a.showPorts(ports, slices.DeleteFunc(sortedPorts(ports), func(key string) bool {
				return !slices.ContainsFunc(r.GetAdd(), func(m *apiv1.PortMapping) bool {
					return slices.Contains(keysOf(view.PortMapping(m)), key)
				})
			}))
			return nil
		}),
	}
	cmd.Flags().StringArrayVarP(&publish, "publish", "p", nil, publishUsage)
	return cmd
}

func (a containers) portRemove() *cobra.Command {
	return &cobra.Command{
		Use: "rm CONTAINER PORT...", Aliases: []string{"remove"},
		Short: "Publish ports of a container no more, whether it runs or not",
		Long: "Publish ports of a container no more, whether it runs or not. A port is named as -p has it, " +
			"8080:80, or by the container's ports alone, 80/udp, which means all that lead to them. Their flows end.",
		Args: cobra.MinimumNArgs(2), ValidArgsFunction: a.completePorts,
		Example: "  net port rm web 8080:80 53/udp",
		RunE: withRequest(a.App, func(args []string) (*apiv1.ChangePortsRequest, error) {
			ports, err := flagspec.PublishedPorts(args[1:])
			return &apiv1.ChangePortsRequest{Container: args[0], Remove: ports}, err
		}, func(ctx context.Context, c *client.Client, r *apiv1.ChangePortsRequest, args []string) error {
			_, err := c.Containers.ChangePorts(ctx, r)
			return about("container", args[0], err)
		}),
	}
}

// publishedPort is a line of the list of ports.
type publishedPort struct {
	container string // its name
	id        string
	status    string // of a container of ours
	network   string // that publishes it; empty while none does
	missing   bool   // the host does not have the address yet
	m         cnm.PortMapping
	address   string
}

func (a containers) portList() *cobra.Command {
	l := &show.Lister[publishedPort]{
		ID: func(p publishedPort) string { return p.address },
		Columns: []show.Column[publishedPort]{
			{Name: "Container", Header: "CONTAINER",
				Value: func(p publishedPort) string { return p.container }},
			{Name: "Port", Header: "PORT", Value: func(p publishedPort) string { return p.m.Target() }},
			{Name: "Address", Header: "ADDRESS", Value: func(p publishedPort) string { return p.address }},
			{Name: "Network", Header: "NETWORK", Value: func(p publishedPort) string { return p.network }},
			{Name: "From", Header: "FROM", Value: func(p publishedPort) string { return p.m.Sources() }},
			{Name: "Mode", Header: "MODE", Value: func(p publishedPort) string { return p.m.Mode() }},
			{Name: "State", Header: "STATE", Value: publishedPort.state},
			{Name: "ID", Header: "CONTAINER ID", Hidden: true,
				Value: func(p publishedPort) string { return p.id }},
		},
	}
	cmd := &cobra.Command{
		Use: "ls [flags] [CONTAINER]", Aliases: []string{"list"},
		Short: "List published ports, also of containers that do not run, and of other engines' on this node",
		Args:  cobra.MaximumNArgs(1), ValidArgsFunction: a.complete(containerNames, 1),
		Example: "  net port ls\n  net port ls web --format '{{.Address}}'",
		RunE: a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
			if len(args) > 0 {
				ct, err := c.Containers.Inspect(ctx, &apiv1.InspectContainerRequest{Container: args[0]})
				if err != nil {
					return about("container", args[0], err)
				}
				return l.Show(a.Out, portsOf(ct))
			}
			resp, err := c.Containers.List(ctx, &apiv1.ListContainersRequest{All: true})
			if err != nil {
				return client.Explain(err)
			}
			others, err := c.Networks.Endpoints(ctx, &apiv1.ListEndpointsRequest{})
			if err != nil {
				return client.Explain(err)
			}
			var ports []publishedPort
			for _, ct := range resp.GetContainers() {
				ports = append(ports, portsOf(ct)...)
			}
			for _, e := range others.GetEndpoints() {
				if e.GetEngine() != "" {
					of := publishedPort{container: e.GetContainer(), id: e.GetContainerId()}
					ports = append(ports, portsAt(of, e)...)
				}
			}
			slices.SortStableFunc(ports, func(x, y publishedPort) int {
				return cmp.Or(cmp.Compare(x.container, y.container), cmp.Compare(x.id, y.id), x.compare(y))
			})
			return l.Show(a.Out, ports)
		}),
	}
	l.Flags(cmd)
	return cmd
}

// portsOf are a container's ports where they are published, or while nothing publishes them, as they were asked for.
func portsOf(ct *apiv1.Container) []publishedPort {
	of := publishedPort{container: ct.GetSpec().GetName(), id: ct.GetId(), status: ct.GetStatus()}
	var out []publishedPort
	for _, e := range ct.GetSandbox().GetEndpoints() {
		out = append(out, portsAt(of, e)...)
	}
	if len(out) == 0 {
		out = of.each(view.PortMappings(ct.GetSpec().GetPorts()))
	}
	slices.SortStableFunc(out, publishedPort.compare)
	return out
}

// compare is the order of a container's ports: by those of the container. Other engines name them in any order, which
// is another at each start.
func (p publishedPort) compare(o publishedPort) int {
	return cmp.Or(cmp.Compare(p.m.Port, o.m.Port), cmp.Compare(p.m.Proto, o.m.Proto))
}

// portsAt are those that an endpoint publishes.
func portsAt(of publishedPort, e *apiv1.Endpoint) []publishedPort {
	of.network = e.GetNetwork()
	return of.each(view.EndpointPorts(e), e.GetMissingAddresses()...)
}

// each is a line for each address of each port. Some addresses the host may not have yet.
func (p publishedPort) each(ports []cnm.PortMapping, missing ...string) (out []publishedPort) {
	for _, m := range ports {
		p.m, p.missing = m, m.HostIP.IsValid() && slices.Contains(missing, m.HostIP.String())
		for _, p.address = range m.Addresses() {
			out = append(out, p)
		}
	}
	return out
}

func (p publishedPort) state() string {
	switch {
	case p.missing:
		return "waits for the address"
	case p.network != "":
		return "published"
	case p.status == "running" || p.status == "paused":
		return "waits for a network"
	}
	return "waits for the start"
}

// completePorts offers containers, then the ports that the first of the arguments publishes.
func (a containers) completePorts(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion,
	cobra.ShellCompDirective) {
	if len(args) == 0 {
		return a.complete(containerNames, 1)(cmd, args, prefix)
	}
	ports := func(ctx context.Context, c *client.Client) ([]string, error) {
		ct, err := c.Containers.Inspect(ctx, &apiv1.InspectContainerRequest{Container: args[0]})
		var out []string
		for _, m := range view.PortMappings(ct.GetSpec().GetPorts()) {
			out = append(out, m.String())
		}
		return out, err
	}
	return a.offer(cmd.Context(), ports, args[1:], prefix), cobra.ShellCompDirectiveNoFileComp
}

func sortedPorts(ports map[string][]view.Binding) []string {
	keys := make([]string, 0, len(ports))
	for k := range ports {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, comparePorts)
	return keys
}

// keysOf are the container's ports of a mapping, as [view.Binding]s are listed by.
func keysOf(m cnm.PortMapping) []string {
	var out []string
	for i := range m.Count {
		out = append(out, strconv.Itoa(int(m.Port+i))+"/"+string(m.Proto))
	}
	return out
}

// portKey completes PORT to PORT/tcp.
func portKey(s string) string {
	if !strings.Contains(s, "/") {
		return s + "/tcp"
	}
	return s
}

// comparePorts orders "80/tcp" before "443/tcp".
func comparePorts(x, y string) int {
	number := func(s string) int {
		n, _, _ := strings.Cut(s, "/")
		i, _ := strconv.Atoi(n) // keys are made by bindings, from numbers
		return i
	}
	return cmp.Or(cmp.Compare(number(x), number(y)), cmp.Compare(x, y))
}

package cli

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/vethloom/vethloom/api/client"
	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/internal/cli/show"
	"github.com/vethloom/vethloom/internal/cli/view"
)

// endpointCommand has the commands about who is on networks.
func (a networks) endpointCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "endpoint", Short: "Look at who is on networks", GroupID: groupThings, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.endpointList())
	return cmd
}

func (a networks) endpointList() *cobra.Command {
	l := a.endpointLister()
	cmd := &cobra.Command{
		Use: "ls [flags] [NETWORK]", Aliases: []string{"list"},
		Short: "List who is on networks: containers of every engine, on every node",
		Args:  cobra.MaximumNArgs(1), ValidArgsFunction: a.complete(networkNames, 1),
		Example: "  net endpoint ls\n  net endpoint ls web --format '{{.Name}} {{.Addresses}}'\n" +
			"  net endpoint ls --format '{{.Name}} {{.Path}} {{.PathReason}}'",
		RunE: a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
			resp, err := c.Networks.Endpoints(ctx, &apiv1.ListEndpointsRequest{Network: strings.Join(args, "")})
			if err != nil {
				return client.Explain(err)
			}
			all := resp.GetEndpoints()
			slices.SortFunc(all, func(x, y *apiv1.Endpoint) int {
				return cmp.Or(cmp.Compare(x.GetNetwork(), y.GetNetwork()), cmp.Compare(x.GetNode(), y.GetNode()),
					cmp.Compare(x.GetContainer(), y.GetContainer()), cmp.Compare(x.GetId(), y.GetId()))
			})
			return l.Show(a.Out, all)
		}),
	}
	l.Flags(cmd)
	return cmd
}

// ownEngine is what containers that net runs are shown as.
const ownEngine = "vethloom"

func (a networks) endpointLister() *show.Lister[*apiv1.Endpoint] {
	l := &show.Lister[*apiv1.Endpoint]{ID: (*apiv1.Endpoint).GetId}
	short := func(id string) string {
		if l.NoTrunc {
			return id
		}
		return show.ShortID(id)
	}
	l.Columns = []show.Column[*apiv1.Endpoint]{
		{Name: "Network", Header: "NETWORK", Value: (*apiv1.Endpoint).GetNetwork},
		{Name: "Name", Header: "NAME", Value: (*apiv1.Endpoint).GetContainer},
		{Name: "Engine", Header: "ENGINE",
			Value: func(e *apiv1.Endpoint) string { return cmp.Or(e.GetEngine(), ownEngine) }},
		{Name: "ContainerID", Header: "CONTAINER ID",
			Value: func(e *apiv1.Endpoint) string { return short(e.GetContainerId()) }},
		{Name: "Node", Header: "NODE", Value: (*apiv1.Endpoint).GetNode},
		{Name: "Addresses", Header: "ADDRESSES",
			Value: func(e *apiv1.Endpoint) string { return strings.Join(bare(e.GetAddresses()), ", ") }},
		{Name: "Path", Header: "PATH", Value: func(e *apiv1.Endpoint) string { path, _ := view.Path(e); return path }},
		{Name: "PathReason", Header: "WHY SLOW", Hidden: true,
			Value: func(e *apiv1.Endpoint) string { _, why := view.Path(e); return why }},
		{Name: "Since", Header: "CREATED", Value: func(e *apiv1.Endpoint) string { return a.ago(e.GetCreated()) }},
		{Name: "ID", Header: "ENDPOINT ID", Hidden: true,
			Value: func(e *apiv1.Endpoint) string { return short(e.GetId()) }},
		{Name: "MAC", Header: "MAC", Hidden: true, Value: (*apiv1.Endpoint).GetMacAddress},
		{Name: "Interface", Header: "INTERFACE", Hidden: true, Value: (*apiv1.Endpoint).GetInterface},
		{Name: "CreatedAt", Header: "CREATED AT", Hidden: true,
			Value: func(e *apiv1.Endpoint) string { return view.Time(e.GetCreated()).String() }},
	}
	return l
}

// bare are addresses without the lengths of their subnets.
func bare(prefixes []string) []string {
	out := make([]string, len(prefixes))
	for i, p := range prefixes {
		out[i], _, _ = strings.Cut(p, "/")
	}
	return out
}

package cli

import (
	"context"
	"strings"

	"github.com/spf13/cobra"
	"github.com/vethloom/vethloom/api/client"
	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/internal/cli/flagspec"
	"github.com/vethloom/vethloom/internal/cli/show"
	"github.com/vethloom/vethloom/internal/cli/view"
)

func (a volumes) volumeCommand() *cobra.Command {
	return group("volume", "Manage volumes", groupThings,
		a.volumeCreate(), a.volumeList(), a.volumeInspect(), a.volumeRemove(), a.volumePrune())
}

func (a volumes) volumeCreate() *cobra.Command {
	var labels, options []string
	r := &apiv1.CreateVolumeRequest{}
	cmd := &cobra.Command{
		Use: "create [flags] [NAME]", Short: "Create a volume", Args: cobra.MaximumNArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		Example: "  net volume create --label app=db data\n" +
			"  net volume create -o type=tmpfs -o device=tmpfs -o o=size=64m scratch",
		RunE: a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
			r.Name = strings.Join(args, "")
			var err error
			if r.Labels, err = flagspec.KeyValues("label", labels); err != nil {
				return err
			}
			if r.Options, err = flagspec.KeyValues("opt", options); err != nil {
				return err
			}
			v, err := c.Volumes.Create(ctx, r)
			if err != nil {
				return about("volume", r.GetName(), err)
			}
			show.Println(a.Out, v.GetName())
			return nil
		}),
	}
	f := cmd.Flags()
	f.StringArrayVar(&labels, "label", nil, "label KEY=VALUE")
	f.StringVarP(&r.Driver, "driver", "d", "", "driver (default local)")
	f.StringArrayVarP(&options, "opt", "o", nil, "option KEY=VALUE of the driver: type, device and o, as of mount(8)")
	return cmd
}

func (a volumes) volumeList() *cobra.Command {
	l := &show.Lister[*apiv1.Volume]{ID: (*apiv1.Volume).GetName, Columns: []show.Column[*apiv1.Volume]{
		{Name: "Driver", Header: "DRIVER",
			Value: func(v *apiv1.Volume) string { return view.Driver(v.GetDriver()) }},
		{Name: "Name", Header: "VOLUME NAME", Value: (*apiv1.Volume).GetName},
		{Name: "Mountpoint", Header: "MOUNTPOINT", Hidden: true, Value: (*apiv1.Volume).GetMountpoint},
		{Name: "Containers", Header: "CONTAINERS", Hidden: true,
			Value: func(v *apiv1.Volume) string { return strings.Join(v.GetContainers(), ",") }},
		{Name: "Labels", Header: "LABELS", Hidden: true,
			Value: func(v *apiv1.Volume) string { return view.LabelList(v.GetLabels()) }},
	}}
	var filters []string
	cmd := &cobra.Command{
		Use: "ls [flags]", Aliases: []string{"list"}, Short: "List volumes", Args: cobra.NoArgs,
		Example: "  net volume ls -q --filter dangling=true",
		RunE: a.withClient(func(ctx context.Context, c *client.Client, _ []string) error {
			resp, err := c.Volumes.List(ctx, &apiv1.ListVolumesRequest{Filters: filters})
			if err != nil {
				return client.Explain(err)
			}
			return l.Show(a.Out, resp.GetVolumes())
		}),
	}
	l.Flags(cmd)
	cmd.Flags().StringArrayVarP(&filters, "filter", "f", nil, "name=, label=, dangling=true|false")
	show.Must(cmd.RegisterFlagCompletionFunc("filter", show.Fixed("dangling=true", "dangling=false")))
	return cmd
}

func (a volumes) volumeInspect() *cobra.Command {
	var i show.Inspector
	cmd := &cobra.Command{
		Use: "inspect [flags] VOLUME...", Short: "Show volumes in full", Args: cobra.MinimumNArgs(1),
		ValidArgsFunction: a.complete(volumeNames, anyNumber),
		Example:           "  net volume inspect -f '{{.Mountpoint}}' data",
		RunE: a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
			return a.show(&i, args, func(name string) (any, error) { return lookUp(ctx, c, "volume", name) })
		}),
	}
	i.Flags(cmd)
	return cmd
}

func (a volumes) volumeRemove() *cobra.Command {
	return &cobra.Command{
		Use: "rm VOLUME...", Aliases: []string{"remove"}, Short: "Remove volumes and their data",
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: a.complete(volumeNames, anyNumber),
		Example:           "  net volume rm data",
		RunE: a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
			return a.each(args, func(name string) (string, error) {
				_, err := c.Volumes.Remove(ctx, &apiv1.RemoveVolumeRequest{Name: name})
				return name, about("volume", name, err)
			})
		}),
	}
}

func (a volumes) volumePrune() *cobra.Command {
	var force, all bool
	cmd := &cobra.Command{
		Use: "prune [flags]", Short: "Remove volumes no container uses", Args: cobra.NoArgs,
		Long: `Remove the volumes that were made for one container, without a name, and that no container uses. With
--all those with a name go too.`,
		Example: "  net volume prune -f",
		RunE: func(cmd *cobra.Command, _ []string) error {
			what := "This removes the volumes without a name of their own that no container uses, with their data."
			if all {
				what = "This removes all volumes that no container uses, with their data."
			}
			if err := a.confirm(force, what); err != nil {
				return err
			}
			return a.withClient(func(ctx context.Context, c *client.Client, _ []string) error {
				resp, err := c.Volumes.Prune(ctx, &apiv1.PruneVolumesRequest{All: all})
				for _, n := range resp.GetNames() {
					show.Println(a.Out, n)
				}
				return client.Explain(err)
			})(cmd, nil)
		},
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "also those with a name")
	cmd.Flags().BoolVarP(&force, "force", "f", false, "do not ask")
	return cmd
}

package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/vethloom/vethloom/api/client"
	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/internal/cli/flagspec"
)

func (a *App) volumeCommand() *cobra.Command {
	return group("volume", "Manage volumes", groupThings,
		a.volumeCreate(), a.volumeList(), a.volumeInspect(), a.volumeRemove(), a.volumePrune())
}

func (a *App) volumeCreate() *cobra.Command {
	var labels []string
	cmd := &cobra.Command{
		Use: "create [flags] [NAME]", Short: "Create a volume", Args: cobra.MaximumNArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		Example:           "  net volume create --label app=db data",
		RunE: a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
			r := &apiv1.CreateVolumeRequest{Name: strings.Join(args, "")}
			var err error
			if r.Labels, err = flagspec.KeyValues("label", labels); err != nil {
				return err
			}
			v, err := c.Volumes.Create(ctx, r)
			if err != nil {
				return about("volume", r.GetName(), err)
			}
			fmt.Fprintln(a.Out, v.GetName())
			return nil
		}),
	}
	cmd.Flags().StringArrayVar(&labels, "label", nil, "label KEY=VALUE")
	return cmd
}

func (a *App) volumeList() *cobra.Command {
	l := &lister[*apiv1.Volume]{id: (*apiv1.Volume).GetName, columns: []column[*apiv1.Volume]{
		{name: "Driver", header: "DRIVER", value: func(*apiv1.Volume) string { return "local" }},
		{name: "Name", header: "VOLUME NAME", value: (*apiv1.Volume).GetName},
		{name: "Mountpoint", header: "MOUNTPOINT", hidden: true, value: (*apiv1.Volume).GetMountpoint},
		{name: "Containers", header: "CONTAINERS", hidden: true, value: func(v *apiv1.Volume) string { return strings.Join(v.GetContainers(), ",") }},
		{name: "Labels", header: "LABELS", hidden: true, value: func(v *apiv1.Volume) string { return labelList(v.GetLabels()) }},
	}}
	cmd := &cobra.Command{
		Use: "ls [flags]", Aliases: []string{"list"}, Short: "List volumes", Args: cobra.NoArgs,
		Example: "  net volume ls -q",
		RunE: a.withClient(func(ctx context.Context, c *client.Client, _ []string) error {
			resp, err := c.Volumes.List(ctx, &apiv1.ListVolumesRequest{})
			if err != nil {
				return client.Explain(err)
			}
			return l.show(a.Out, resp.GetVolumes())
		}),
	}
	l.flags(cmd)
	return cmd
}

func (a *App) volumeInspect() *cobra.Command {
	var i inspector
	cmd := &cobra.Command{
		Use: "inspect [flags] VOLUME...", Short: "Show volumes in full", Args: cobra.MinimumNArgs(1),
		ValidArgsFunction: a.complete(volumeNames, anyNumber),
		Example:           "  net volume inspect -f '{{.Mountpoint}}' data",
		RunE: a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
			return i.show(a, args, func(name string) (any, error) { return lookUp(ctx, c, "volume", name) })
		}),
	}
	i.flags(cmd)
	return cmd
}

func (a *App) volumeRemove() *cobra.Command {
	return &cobra.Command{
		Use: "rm VOLUME...", Aliases: []string{"remove"}, Short: "Remove volumes and their data", Args: cobra.MinimumNArgs(1),
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

func (a *App) volumePrune() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "prune [flags]", Short: "Remove all volumes no container uses", Args: cobra.NoArgs,
		Example: "  net volume prune -f",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.confirm(force, "This removes all volumes that no container uses, with their data."); err != nil {
				return err
			}
			return a.withClient(func(ctx context.Context, c *client.Client, _ []string) error {
				resp, err := c.Volumes.Prune(ctx, &apiv1.PruneVolumesRequest{})
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

package cli

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/vethloom/vethloom/api/client"
	apiv1 "github.com/vethloom/vethloom/api/v1"
)

// anyNumber of arguments can be completed.
const anyNumber = -1

// completionTimeout bounds what pressing TAB may take.
const completionTimeout = time.Second

type completer = func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective)

// names lists what an argument can be.
type names func(context.Context, *client.Client) ([]string, error)

// complete offers names for the first most arguments, without those given already.
func (a *App) complete(source names, most int) completer {
	return func(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if most != anyNumber && len(args) >= most {
			return nil, cobra.ShellCompDirectiveDefault
		}
		return a.offer(cmd.Context(), source, args, prefix), cobra.ShellCompDirectiveNoFileComp
	}
}

// completeInOrder offers names of another source for each argument.
func (a *App) completeInOrder(sources ...names) completer {
	return func(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) >= len(sources) {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return a.offer(cmd.Context(), sources[len(args)], nil, prefix), cobra.ShellCompDirectiveNoFileComp
	}
}

func (a *App) offer(ctx context.Context, source names, given []string, prefix string) []cobra.Completion {
	ctx, cancel := context.WithTimeout(ctx, completionTimeout)
	defer cancel()
	c, err := a.dial(ctx)
	if err != nil {
		return nil // no daemon, no names; there is nowhere to say so
	}
	all, err := source(ctx, c)
	if err != nil {
		return nil
	}
	var out []cobra.Completion
	for _, n := range all {
		if n != "" && strings.HasPrefix(n, prefix) && !slices.Contains(given, n) {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out
}

func networkNames(ctx context.Context, c *client.Client) ([]string, error) {
	r, err := c.Networks.List(ctx, &apiv1.ListNetworksRequest{})
	return pick(r.GetNetworks(), (*apiv1.Network).GetName), err
}

// joinedNames are the networks of the cluster that this node takes part in.
func joinedNames(ctx context.Context, c *client.Client) ([]string, error) {
	return clusterNames(ctx, c, func(n *apiv1.ClusterNetwork) bool { return !n.GetLeft() })
}

// leftNames are the networks of the cluster that this node has left.
func leftNames(ctx context.Context, c *client.Client) ([]string, error) {
	return clusterNames(ctx, c, (*apiv1.ClusterNetwork).GetLeft)
}

func clusterNames(ctx context.Context, c *client.Client, want func(*apiv1.ClusterNetwork) bool) ([]string, error) {
	r, err := c.Networks.List(ctx, &apiv1.ListNetworksRequest{})
	fits := slices.DeleteFunc(r.GetNetworks(),
		func(n *apiv1.Network) bool { return n.GetCluster() == nil || !want(n.GetCluster()) })
	return pick(fits, (*apiv1.Network).GetName), err
}

func nodeNames(ctx context.Context, c *client.Client) ([]string, error) {
	r, err := c.Nodes.List(ctx, &apiv1.ListNodesRequest{})
	return pick(r.GetNodes(), (*apiv1.Node).GetName), err
}

func containerNames(ctx context.Context, c *client.Client) ([]string, error) {
	r, err := c.Containers.List(ctx, &apiv1.ListContainersRequest{All: true})
	return pick(r.GetContainers(), func(c *apiv1.Container) string { return c.GetSpec().GetName() }), err
}

func runningNames(ctx context.Context, c *client.Client) ([]string, error) {
	r, err := c.Containers.List(ctx, &apiv1.ListContainersRequest{})
	return pick(r.GetContainers(), func(c *apiv1.Container) string { return c.GetSpec().GetName() }), err
}

func imageNames(ctx context.Context, c *client.Client) ([]string, error) {
	r, err := c.Images.List(ctx, &apiv1.ListImagesRequest{})
	var out []string
	for _, i := range r.GetImages() {
		out = append(out, i.GetReferences()...)
	}
	return out, err
}

func volumeNames(ctx context.Context, c *client.Client) ([]string, error) {
	r, err := c.Volumes.List(ctx, &apiv1.ListVolumesRequest{})
	return pick(r.GetVolumes(), (*apiv1.Volume).GetName), err
}

func pick[T any](in []T, f func(T) string) []string {
	out := make([]string, 0, len(in))
	for _, t := range in {
		out = append(out, f(t))
	}
	return out
}

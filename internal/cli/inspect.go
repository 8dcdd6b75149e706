package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/vethloom/vethloom/api/client"
	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/internal/cli/session"
	"github.com/vethloom/vethloom/internal/cli/show"
	"github.com/vethloom/vethloom/internal/cli/view"
	"google.golang.org/grpc/codes"
)

// inspectable are the kinds of things inspect looks for, in this order.
var inspectable = []struct {
	kind string
	get  func(context.Context, *client.Client, string) (any, error)
}{
	{"container", func(ctx context.Context, c *client.Client, name string) (any, error) {
		ct, err := c.Containers.Inspect(ctx, &apiv1.InspectContainerRequest{Container: name})
		return view.Container(ct), err
	}},
	{"image", func(ctx context.Context, c *client.Client, name string) (any, error) {
		i, err := c.Images.Inspect(ctx, &apiv1.InspectImageRequest{Image: name})
		return view.Image(i), err
	}},
	{"network", func(ctx context.Context, c *client.Client, name string) (any, error) {
		n, err := c.Networks.Inspect(ctx, &apiv1.InspectNetworkRequest{Network: name})
		return view.Network(n), err
	}},
	{"volume", func(ctx context.Context, c *client.Client, name string) (any, error) {
		v, err := c.Volumes.Inspect(ctx, &apiv1.InspectVolumeRequest{Name: name})
		return view.Volume(v), err
	}},
}

func (a *App) inspect() *cobra.Command {
	var i show.Inspector
	var kind string
	cmd := &cobra.Command{
		Use: "inspect [flags] NAME...", Short: "Show containers, or other things, in full", GroupID: groupRun,
		Args: cobra.MinimumNArgs(1), ValidArgsFunction: a.complete(containerNames, anyNumber),
		Example: `  net inspect web
  net inspect -f '{{.State.Pid}} {{.NetworkSettings.Networks.front.IPAddress}}' web
  net inspect --type image busybox`,
		RunE: a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
			known := kind == ""
			for _, k := range inspectable {
				known = known || k.kind == kind
			}
			if !known {
				return fmt.Errorf("--type %q: use container, image, network or volume", kind)
			}
			return a.show(&i, args, func(name string) (any, error) { return lookUp(ctx, c, kind, name) })
		}),
	}
	i.Flags(cmd)
	cmd.Flags().StringVar(&kind, "type", "", "container, image, network or volume (default whatever has the name)")
	show.Must(cmd.RegisterFlagCompletionFunc("type", show.Fixed("container", "image", "network", "volume")))
	return cmd
}

func lookUp(ctx context.Context, c *client.Client, kind, name string) (any, error) {
	for _, k := range inspectable {
		if kind != "" && kind != k.kind {
			continue
		}
		v, err := k.get(ctx, c, name)
		if err == nil {
			return v, nil
		}
		if code := client.CodeOf(err); kind != "" || code != codes.NotFound && code != codes.Unimplemented &&
			code != codes.InvalidArgument {
			return nil, about(k.kind, name, err)
		}
	}
	return nil, fmt.Errorf("no container, image, network or volume is called %q: see 'net ps -a', 'net images', "+
		"'net network ls', 'net volume ls'", name)
}

// show writes what was found, and then says what was not.
func (a *App) show(i *show.Inspector, args []string, get func(string) (any, error)) error {
	errs, err := i.Show(a.Out, args, get)
	if err != nil {
		return err
	}
	for _, err := range errs {
		show.Printf(a.Err, "net: %v\n", err)
	}
	if len(errs) > 0 {
		return &session.ExitError{Code: exitFailure}
	}
	return nil
}

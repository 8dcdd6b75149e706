package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/vethloom/vethloom/api/client"
	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/internal/cli/session"
	"github.com/vethloom/vethloom/internal/cli/show"
	"github.com/vethloom/vethloom/internal/cli/view"
	"google.golang.org/grpc/codes"
)

// thing is what was found under a name.
type thing struct {
	view any
	id   string
	// names that it has; a kind without IDs has them alone
	names []string
}

// is reports whether a name, or a whole ID, means the thing, and no beginning of its ID.
func (t thing) is(ref string) bool {
	ref = strings.TrimPrefix(ref, "/") // as inspect shows names of containers
	whole := strings.TrimPrefix(t.id, "sha256:")
	return slices.Contains(t.names, ref) || !strings.HasPrefix(whole, strings.TrimPrefix(ref, "sha256:")) ||
		len(ref) >= len(whole)
}

// inspectable are the kinds of things inspect looks for, in this order.
var inspectable = []struct {
	kind string
	get  func(context.Context, *client.Client, string) (thing, error)
}{
	{"container", func(ctx context.Context, c *client.Client, name string) (thing, error) {
		ct, err := c.Containers.Inspect(ctx, &apiv1.InspectContainerRequest{Container: name})
		return thing{view.Container(ct), ct.GetId(), []string{ct.GetSpec().GetName()}}, err
	}},
	{"image", func(ctx context.Context, c *client.Client, name string) (thing, error) {
		i, err := c.Images.Inspect(ctx, &apiv1.InspectImageRequest{Image: name})
		names := slices.Clone(i.GetReferences())
		for _, ref := range i.GetReferences() {
			names = append(names, strings.TrimSuffix(ref, ":latest"))
		}
		return thing{view.Image(i), i.GetId(), names}, err
	}},
	{"network", func(ctx context.Context, c *client.Client, name string) (thing, error) {
		n, err := c.Networks.Inspect(ctx, &apiv1.InspectNetworkRequest{Network: name})
		return thing{view.Network(n), n.GetId(), []string{n.GetName()}}, err
	}},
	{"volume", func(ctx context.Context, c *client.Client, name string) (thing, error) {
		v, err := c.Volumes.Inspect(ctx, &apiv1.InspectVolumeRequest{Name: name})
		return thing{view.Volume(v), "", []string{v.GetName()}}, err
	}},
}

func (a *App) inspect() *cobra.Command {
	var i show.Inspector
	var kind string
	var size bool
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
			get := func(name string) (any, error) { return lookUp(ctx, c, kind, name) }
			if size {
				have, err := sizesOf(ctx, c)
				if err != nil {
					return err
				}
				get = have.added(get)
			}
			return a.show(&i, args, get)
		}),
	}
	i.Flags(cmd)
	cmd.Flags().BoolVarP(&size, "size", "s", false, "of containers, also how much they have written")
	cmd.Flags().StringVar(&kind, "type", "", "container, image, network or volume (default whatever has the name)")
	show.Must(cmd.RegisterFlagCompletionFunc("type", show.Fixed("container", "image", "network", "volume")))
	return cmd
}

// added adds sizes to the containers among what is looked up.
func (s sizes) added(get func(string) (any, error)) func(string) (any, error) {
	return func(name string) (any, error) {
		v, err := get(name)
		if ct, ok := v.(interface {
			WithSizes(func(container, image string) (written, whole int64)) any
		}); ok {
			v = ct.WithSizes(s.of)
		}
		return v, err
	}
}

// lookUp finds what has a name: of several kinds the first one that has it. The beginning of an ID counts only where
// nothing has the name, and is never a guess between kinds.
func lookUp(ctx context.Context, c *client.Client, kind, name string) (any, error) {
	var begins []string
	var found any
	for _, k := range inspectable {
		if kind != "" && kind != k.kind {
			continue
		}
		t, err := k.get(ctx, c, name)
		switch code := client.CodeOf(err); {
		case err == nil && (kind != "" || t.is(name)):
			return t.view, nil
		case err == nil:
			begins, found = append(begins, k.kind+" "+show.ShortID(t.id)), t.view
		case kind != "":
			return nil, about(k.kind, name, err)
		case code == codes.InvalidArgument && digits(name): // it would be right if it began one ID
			begins = append(begins, "several "+k.kind+"s")
		case code != codes.NotFound && code != codes.Unimplemented && code != codes.InvalidArgument:
			return nil, about(k.kind, name, err)
		}
	}
	switch {
	case len(begins) == 1 && found != nil:
		return found, nil
	case len(begins) > 0:
		return nil, fmt.Errorf("%q is the beginning of more than one ID, of %s: give more digits, a name, or the "+
			"kind with --type", name, strings.Join(begins, " and "))
	}
	return nil, fmt.Errorf("no container, image, network or volume is called %q: see 'net ps -a', 'net images', "+
		"'net network ls', 'net volume ls'", name)
}

// digits reports whether a text could be the beginning of an ID.
func digits(text string) bool {
	text = strings.TrimPrefix(text, "sha256:")
	return text != "" && strings.Trim(text, "0123456789abcdef") == ""
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

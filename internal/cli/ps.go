package cli

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/vethloom/vethloom/api/client"
	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/internal/cli/show"
	"github.com/vethloom/vethloom/internal/cli/view"
)

func (a containers) containerList() *cobra.Command {
	l := &show.Lister[*apiv1.Container]{}
	id := func(c *apiv1.Container) string {
		if l.NoTrunc {
			return c.GetId()
		}
		return show.ShortID(c.GetId())
	}
	l.ID = id
	l.Columns = a.containerColumns(l, id)
	var all, latest, size bool
	var last int
	var filters []string
	cmd := &cobra.Command{
		Use: "ps [flags]", Aliases: []string{"list"}, Short: "List containers", GroupID: groupRun, Args: cobra.NoArgs,
		Example: "  net ps -a --filter status=exited\n  net ps --format '{{.Names}}\\t{{.Networks}}'",
		RunE: a.withClient(func(ctx context.Context, c *client.Client, _ []string) error {
			if latest {
				last = 1
			}
			resp, err := c.Containers.List(ctx, &apiv1.ListContainersRequest{All: all || last > 0, Filters: filters})
			if err != nil {
				return client.Explain(err)
			}
			found := resp.GetContainers()
			slices.SortStableFunc(found, func(x, y *apiv1.Container) int {
				return y.GetCreated().AsTime().Compare(x.GetCreated().AsTime())
			})
			if last > 0 {
				found = found[:min(last, len(found))]
			}
			return a.showContainers(ctx, c, l, found, size)
		}),
	}
	l.Flags(cmd)
	f := cmd.Flags()
	f.BoolVarP(&all, "all", "a", false, "also those that do not run")
	f.BoolVarP(&latest, "latest", "l", false, "only the one created last")
	f.IntVarP(&last, "last", "n", 0, "only the last so many")
	f.StringArrayVarP(&filters, "filter", "f", nil,
		"name=, id=, status=, network=, ancestor=IMAGE, label=KEY[=VALUE], exited=CODE, health=, volume=, "+
			"before=CONTAINER, since=CONTAINER, publish=PORT, expose=PORT")
	f.BoolVarP(&size, "size", "s", false, "also how much each has written, and how much it has with its image")
	completeFilters(cmd)
	return cmd
}

func completeFilters(cmd *cobra.Command) {
	show.Must(cmd.RegisterFlagCompletionFunc("filter", show.Fixed("status=running", "status=exited", "status=paused",
		"health=healthy", "health=unhealthy", "health=starting", "health=none")))
}

// showContainers shows a list, with what containers have on the disk where that is asked for: it takes time.
func (a containers) showContainers(ctx context.Context, c *client.Client, l *show.Lister[*apiv1.Container],
	found []*apiv1.Container, size bool) error {
	if size || strings.Contains(l.Format, ".Size") {
		sizes, err := sizesOf(ctx, c)
		if err != nil {
			return err
		}
		l.Columns = append(l.Columns, sizes.column(!size))
	}
	return l.Show(a.Out, found)
}

func (a containers) containerColumns(l *show.Lister[*apiv1.Container],
	id func(*apiv1.Container) string) []show.Column[*apiv1.Container] {
	return []show.Column[*apiv1.Container]{
		{Name: "ID", Header: "CONTAINER ID", Value: id},
		{Name: "Image", Header: "IMAGE", Value: func(c *apiv1.Container) string { return c.GetSpec().GetImage() }},
		{Name: "Command", Header: "COMMAND", Value: func(c *apiv1.Container) string {
			s := strings.Join(c.GetArgs(), " ")
			if r := []rune(s); !l.NoTrunc && len(r) > 20 {
				s = string(r[:19]) + "…"
			}
			return strconv.Quote(s)
		}},
		{Name: "RunningFor", Header: "CREATED",
			Value: func(c *apiv1.Container) string { return a.ago(c.GetCreated()) }},
		{Name: "Status", Header: "STATUS", Value: a.statusText},
		{Name: "Ports", Header: "PORTS", Value: portsText},
		{Name: "Names", Header: "NAMES", Value: func(c *apiv1.Container) string { return c.GetSpec().GetName() }},
		{Name: "State", Header: "STATE", Hidden: true, Value: (*apiv1.Container).GetStatus},
		{Name: "CreatedAt", Header: "CREATED AT", Hidden: true,
			Value: func(c *apiv1.Container) string { return view.Time(c.GetCreated()).String() }},
		{Name: "Networks", Header: "NETWORKS", Hidden: true, Value: func(c *apiv1.Container) string {
			return strings.Join(pick(c.GetSandbox().GetEndpoints(), (*apiv1.Endpoint).GetNetwork), ",")
		}},
		{Name: "Addresses", Header: "ADDRESSES", Hidden: true, Value: func(c *apiv1.Container) string {
			var out []string
			for _, e := range c.GetSandbox().GetEndpoints() {
				out = append(out, e.GetAddresses()...)
			}
			return strings.Join(out, ",")
		}},
		{Name: "Labels", Header: "LABELS", Hidden: true,
			Value: func(c *apiv1.Container) string { return view.LabelList(c.GetSpec().GetLabels()) }},
		{Name: "Mounts", Header: "MOUNTS", Hidden: true,
			Value: func(c *apiv1.Container) string { return mountsText(c, l.NoTrunc) }},
		{Name: "LocalVolumes", Header: "LOCAL VOLUMES", Hidden: true, Value: volumesText},
		{Name: "Health", Header: "HEALTH", Hidden: true,
			Value: func(c *apiv1.Container) string { return c.GetHealth().GetStatus() }},
		{Name: "Platform", Header: "PLATFORM", Hidden: true,
			Value: func(c *apiv1.Container) string { return c.GetSpec().GetPlatform() }},
		{Name: "Pid", Header: "PID", Hidden: true,
			Value: func(c *apiv1.Container) string { return strconv.Itoa(int(c.GetPid())) }},
	}
}

// statusText is a container's state for people.
func (a containers) statusText(c *apiv1.Container) string {
	up := func() string {
		var d time.Duration
		if t := c.GetStarted(); t != nil {
			d = a.Now().Sub(t.AsTime())
		}
		return "Up " + view.Duration(d)
	}
	switch c.GetStatus() {
	case "created":
		return "Created"
	case "running":
		switch h := c.GetHealth().GetStatus(); h {
		case "":
			return up()
		case "starting":
			return up() + " (health: starting)"
		default:
			return up() + " (" + h + ")"
		}
	case "paused":
		return up() + " (Paused)"
	case "restarting":
		return fmt.Sprintf("Restarting (%d) %s", c.GetExitCode(), a.ago(c.GetFinished()))
	case "exited":
		return fmt.Sprintf("Exited (%d) %s", c.GetExitCode(), a.ago(c.GetFinished()))
	}
	return c.GetStatus()
}

// mountsText lists names of volumes and paths of the host.
func mountsText(c *apiv1.Container, whole bool) string {
	var out []string
	for _, m := range c.GetSpec().GetMounts() {
		name := m.GetSource()
		if name == "" {
			continue // a tmpfs
		}
		if r := []rune(name); !whole && len(r) > 15 {
			name = string(r[:14]) + "…"
		}
		out = append(out, name)
	}
	return strings.Join(out, ",")
}

// volumesText counts volumes.
func volumesText(c *apiv1.Container) string {
	n := 0
	for _, m := range c.GetSpec().GetMounts() {
		if m.GetVolume() {
			n++
		}
	}
	return strconv.Itoa(n)
}

// sizes are what containers have written, and what their images have, by ID.
type sizes struct{ written, images map[string]int64 }

func sizesOf(ctx context.Context, c *client.Client) (sizes, error) {
	u, err := c.System.DiskUsage(ctx, &apiv1.DiskUsageRequest{})
	if err != nil {
		return sizes{}, client.Explain(err)
	}
	s := sizes{map[string]int64{}, map[string]int64{}}
	for _, ct := range u.GetContainers() {
		s.written[ct.GetId()] = ct.GetSize()
	}
	for _, i := range u.GetImages() {
		s.images[i.GetImage().GetId()] = i.GetImage().GetSize()
	}
	return s, nil
}

// of are the sizes of a container: what it has written, and that with its image.
func (s sizes) of(id, image string) (written, whole int64) {
	written = s.written[id]
	return written, written + s.images[image]
}

func (s sizes) column(hidden bool) show.Column[*apiv1.Container] {
	return show.Column[*apiv1.Container]{Name: "Size", Header: "SIZE", Hidden: hidden,
		Value: func(c *apiv1.Container) string {
			written, whole := s.of(c.GetId(), c.GetImageId())
			return fmt.Sprintf("%s (virtual %s)", view.Size(written), view.Size(whole))
		}}
}

// portsText lists published ports; ranges stay ranges.
func portsText(c *apiv1.Container) string {
	var out []string
	for _, e := range c.GetSandbox().GetEndpoints() {
		for _, p := range view.EndpointPorts(e) {
			out = append(out, p.Published()...)
		}
	}
	return strings.Join(out, ", ")
}

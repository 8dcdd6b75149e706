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
	var all, latest bool
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
			return l.Show(a.Out, found)
		}),
	}
	l.Flags(cmd)
	f := cmd.Flags()
	f.BoolVarP(&all, "all", "a", false, "also those that do not run")
	f.BoolVarP(&latest, "latest", "l", false, "only the one created last")
	f.IntVarP(&last, "last", "n", 0, "only the last so many")
	f.StringArrayVarP(&filters, "filter", "f", nil,
		"name=, id=, status=, network=, ancestor=IMAGE, label=KEY[=VALUE], exited=CODE")
	return cmd
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
		{Name: "Mounts", Header: "MOUNTS", Hidden: true, Value: func(c *apiv1.Container) string {
			return strings.Join(pick(c.GetSpec().GetMounts(), (*apiv1.Mount).GetSource), ",")
		}},
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
		return up()
	case "paused":
		return up() + " (Paused)"
	case "exited":
		return fmt.Sprintf("Exited (%d) %s", c.GetExitCode(), a.ago(c.GetFinished()))
	}
	return c.GetStatus()
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

package cli

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/vethloom/vethloom/api/client"
	apiv1 "github.com/vethloom/vethloom/api/v1"
)

func (a *App) containerList() *cobra.Command {
	l := &lister[*apiv1.Container]{}
	id := func(c *apiv1.Container) string {
		if l.noTrunc {
			return c.GetId()
		}
		return shortID(c.GetId())
	}
	l.id = id
	l.columns = a.containerColumns(l, id)
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
			return l.show(a.Out, found)
		}),
	}
	l.flags(cmd)
	f := cmd.Flags()
	f.BoolVarP(&all, "all", "a", false, "also those that do not run")
	f.BoolVarP(&latest, "latest", "l", false, "only the one created last")
	f.IntVarP(&last, "last", "n", 0, "only the last so many")
	f.StringArrayVar(&filters, "filter", nil, "name=, id=, status=, network=, ancestor=IMAGE, label=KEY[=VALUE], exited=CODE")
	return cmd
}

func (a *App) containerColumns(l *lister[*apiv1.Container], id func(*apiv1.Container) string) []column[*apiv1.Container] {
	return []column[*apiv1.Container]{
		{name: "ID", header: "CONTAINER ID", value: id},
		{name: "Image", header: "IMAGE", value: func(c *apiv1.Container) string { return c.GetSpec().GetImage() }},
		{name: "Command", header: "COMMAND", value: func(c *apiv1.Container) string {
			s := strings.Join(c.GetArgs(), " ")
			if r := []rune(s); !l.noTrunc && len(r) > 20 {
				s = string(r[:19]) + "…"
			}
			return strconv.Quote(s)
		}},
		{name: "RunningFor", header: "CREATED", value: func(c *apiv1.Container) string { return a.ago(c.GetCreated()) }},
		{name: "Status", header: "STATUS", value: a.statusText},
		{name: "Ports", header: "PORTS", value: portsText},
		{name: "Names", header: "NAMES", value: func(c *apiv1.Container) string { return c.GetSpec().GetName() }},
		{name: "State", header: "STATE", hidden: true, value: (*apiv1.Container).GetStatus},
		{name: "CreatedAt", header: "CREATED AT", hidden: true, value: func(c *apiv1.Container) string { return stamp(c.GetCreated()).String() }},
		{name: "Networks", header: "NETWORKS", hidden: true, value: func(c *apiv1.Container) string {
			return strings.Join(pick(c.GetSandbox().GetEndpoints(), (*apiv1.Endpoint).GetNetwork), ",")
		}},
		{name: "Addresses", header: "ADDRESSES", hidden: true, value: func(c *apiv1.Container) string {
			var out []string
			for _, e := range c.GetSandbox().GetEndpoints() {
				out = append(out, e.GetAddresses()...)
			}
			return strings.Join(out, ",")
		}},
		{name: "Labels", header: "LABELS", hidden: true, value: func(c *apiv1.Container) string { return labelList(c.GetSpec().GetLabels()) }},
		{name: "Mounts", header: "MOUNTS", hidden: true, value: func(c *apiv1.Container) string {
			return strings.Join(pick(c.GetSpec().GetMounts(), (*apiv1.Mount).GetSource), ",")
		}},
		{name: "Pid", header: "PID", hidden: true, value: func(c *apiv1.Container) string { return strconv.Itoa(int(c.GetPid())) }},
	}
}

// statusText is a container's state for people.
func (a *App) statusText(c *apiv1.Container) string {
	up := func() string {
		var d time.Duration
		if t := c.GetStarted(); t != nil {
			d = a.Now().Sub(t.AsTime())
		}
		return "Up " + humanDuration(d)
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
		for _, p := range e.GetPorts() {
			ips := []string{p.GetHostIp()}
			if p.GetHostIp() == "" {
				ips = []string{"0.0.0.0", "::"}
			}
			for _, ip := range ips {
				out = append(out, net.JoinHostPort(ip, span(p.GetHostPort(), p.GetCount()))+"->"+span(p.GetContainerPort(), p.GetCount())+"/"+p.GetProto())
			}
		}
	}
	return strings.Join(out, ", ")
}

func span(first, count uint32) string {
	if count <= 1 {
		return strconv.Itoa(int(first))
	}
	return fmt.Sprintf("%d-%d", first, first+count-1)
}

// String is the address a port is published at.
func (b bindingView) String() string { return net.JoinHostPort(b.HostIP, b.HostPort) }

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

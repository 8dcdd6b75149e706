package cli

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vethloom/vethloom/api/client"
	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/internal/cli/session"
	"github.com/vethloom/vethloom/internal/cli/show"
	"github.com/vethloom/vethloom/internal/cli/view"
)

// statsView is a stats command under way.
type statsView struct {
	upkeep
	show.Lister[view.Stats]
	all, once, wide bool
	before          map[string]*apiv1.ContainerStats // the reading before, by ID
	drawn           int
}

func (a upkeep) containerStats() *cobra.Command {
	s := &statsView{upkeep: a}
	cmd := &cobra.Command{
		Use: "stats [flags] [CONTAINER...]", Short: "Show what containers use, as they go on", GroupID: groupRun,
		ValidArgsFunction: a.complete(runningNames, anyNumber),
		Long: `Show what containers use: those named, or all that run. CPU is in percent of one processor, memory is
without files that the kernel can drop at once, and the network is what the container received and sent. A terminal
shows it anew every second.`,
		Example: "  net stats\n  net stats --no-stream --format '{{.Name}} {{.CPUPerc}}' web db\n" +
			"  net stats --wide web",
		RunE: a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
			s.Columns = s.columns()
			return s.run(ctx, c, args)
		}),
	}
	f := cmd.Flags()
	f.BoolVarP(&s.all, "all", "a", false, "also those that do not run")
	f.BoolVar(&s.once, "no-stream", false, "show it once")
	f.BoolVar(&s.wide, "wide", false, "each network on its own")
	f.BoolVar(&s.NoTrunc, "no-trunc", false, "do not shorten values")
	f.StringVar(&s.Format, "format", "", "table, json, or a Go template for each line ('table TEMPLATE' adds a header)")
	show.Must(cmd.RegisterFlagCompletionFunc("format", show.Fixed("table", "json")))
	return cmd
}

func (s *statsView) columns() []show.Column[view.Stats] {
	type col = show.Column[view.Stats]
	// A container that does not run uses nothing that could be told.
	told := func(f func(view.Stats) string) func(view.Stats) string {
		return func(v view.Stats) string {
			if !v.Running {
				return "--"
			}
			return f(v)
		}
	}
	id := func(v view.Stats) string {
		if s.NoTrunc {
			return v.ID
		}
		return show.ShortID(v.ID)
	}
	return []col{
		{Name: "Container", Header: "CONTAINER", Hidden: true, Value: id},
		{Name: "ID", Header: "CONTAINER ID", Value: id},
		{Name: "Name", Header: "NAME", Value: func(v view.Stats) string { return v.Name }},
		{Name: "CPUPerc", Header: "CPU %", Value: told(func(v view.Stats) string { return view.Percent(v.CPU) })},
		{Name: "MemUsage", Header: "MEM USAGE / LIMIT", Value: told(func(v view.Stats) string {
			return view.Pair(view.BinarySize(v.Memory), view.BinarySize(v.Limit))
		})},
		{Name: "MemPerc", Header: "MEM %",
			Value: told(func(v view.Stats) string { return view.Percent(v.MemoryPercent) })},
		{Name: "NetIO", Header: "NET I/O", Hidden: s.wide, Value: told(func(v view.Stats) string {
			return view.Pair(view.Size(int64(v.Rx)), view.Size(int64(v.Tx)))
		})},
		{Name: "Networks", Header: "NETWORKS: NET I/O", Hidden: !s.wide,
			Value: told(func(v view.Stats) string { return strings.Join(v.Traffic(), ", ") })},
		{Name: "BlockIO", Header: "BLOCK I/O", Value: told(func(v view.Stats) string {
			return view.Pair(view.Size(int64(v.Read)), view.Size(int64(v.Written)))
		})},
		{Name: "PIDs", Header: "PIDS", Value: told(func(v view.Stats) string {
			return strconv.FormatUint(v.Pids, 10)
		})},
		{Name: "OOMKills", Header: "OOM KILLS", Hidden: true, Value: told(func(v view.Stats) string {
			return strconv.FormatUint(v.OOMKills, 10)
		})},
	}
}

func (s *statsView) run(ctx context.Context, c *client.Client, args []string) error {
	if s.all && len(args) == 0 {
		all, err := c.Containers.List(ctx, &apiv1.ListContainersRequest{All: true})
		if err != nil {
			return client.Explain(err)
		}
		args = pick(all.GetContainers(), (*apiv1.Container).GetId)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.Containers.Stats(ctx, &apiv1.StatsRequest{Containers: args})
	if err != nil {
		return client.Explain(err)
	}
	// What of the CPU is used takes two readings.
	for readings := 1; ; readings++ {
		resp, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return client.Explain(err)
		}
		rows := s.compare(resp)
		if s.once && readings < 2 && len(rows) > 0 {
			continue
		}
		if err := s.draw(rows); err != nil || s.once {
			return err
		}
	}
}

// compare takes a reading as the latest.
func (s *statsView) compare(resp *apiv1.StatsResponse) []view.Stats {
	rows := make([]view.Stats, 0, len(resp.GetStats()))
	latest := map[string]*apiv1.ContainerStats{}
	for _, now := range resp.GetStats() {
		rows = append(rows, view.StatsOf(now, s.before[now.GetId()]))
		latest[now.GetId()] = now
	}
	s.before = latest
	slices.SortStableFunc(rows, func(a, b view.Stats) int { return strings.Compare(a.Name, b.Name) })
	return rows
}

// draw shows a reading: on a terminal, where the one before was.
func (s *statsView) draw(rows []view.Stats) error {
	var b bytes.Buffer
	if err := s.Show(&b, rows); err != nil {
		return err
	}
	out := b.Bytes()
	if _, terminal := session.Terminal(s.Out); terminal && !s.once {
		const home, endOfLine, rest = "\x1b[H", "\x1b[K\n", "\x1b[J" // ECMA-48
		out = slices.Concat([]byte(home), bytes.ReplaceAll(out, []byte("\n"), []byte(endOfLine)), []byte(rest))
		if s.drawn == 0 {
			out = append([]byte("\x1b[2J"), out...)
		}
	}
	s.drawn++
	_, err := s.Out.Write(out)
	return err
}

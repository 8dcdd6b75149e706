package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/vethloom/vethloom/api/client"
	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/internal/cli/flagspec"
	"github.com/vethloom/vethloom/internal/cli/session"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func (a containers) containerLogs() *cobra.Command {
	var follow, timestamps, details bool
	var tail, since, until string
	cmd := &cobra.Command{
		Use: "logs [flags] CONTAINER", Short: "Show a container's output", GroupID: groupRun, Args: cobra.ExactArgs(1),
		ValidArgsFunction: a.complete(containerNames, 1),
		Example:           "  net logs -f --tail 20 web\n  net logs --since 10m -t web",
		RunE: withRequest(a.App, func(args []string) (*apiv1.LogsRequest, error) {
			return a.logsRequest(args[0], tail, since, until, follow)
		}, func(ctx context.Context, c *client.Client, r *apiv1.LogsRequest, _ []string) error {
			shown := &shownLog{a: a, timestamps: timestamps}
			if details {
				ct, err := c.Containers.Inspect(ctx, &apiv1.InspectContainerRequest{Container: r.GetContainer()})
				if err != nil {
					return about("logs of", r.GetContainer(), err)
				}
				shown.details = logDetails(ct.GetSpec())
			}
			return a.logs(ctx, c, r, shown)
		}),
	}
	f := cmd.Flags()
	f.BoolVarP(&follow, "follow", "f", false, "go on until the container exits")
	f.StringVarP(&tail, "tail", "n", "all", "lines from the end to begin with")
	f.StringVar(&since, "since", "", "from this time on: RFC 3339, or a duration back from now (10m)")
	f.StringVar(&until, "until", "", "up to this time")
	f.BoolVarP(&timestamps, "timestamps", "t", false, "put the time in front of each line")
	f.BoolVar(&details, "details", false, "put the labels and variables in front that --log-opt labels= and env= name")
	return cmd
}

func (a containers) logsRequest(name, tail, since, until string, follow bool) (*apiv1.LogsRequest, error) {
	r := &apiv1.LogsRequest{Container: name, Follow: follow, Tail: -1}
	if tail != "all" {
		n, err := strconv.ParseInt(tail, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("--tail %q: use a number of lines, or all", tail)
		}
		r.Tail = max(n, -1)
	}
	var err error
	r.Since, r.Until, err = a.between(since, until)
	return r, err
}

// between reads the values of --since and --until; nil where there is none.
func (a *App) between(since, until string) (from, to *timestamppb.Timestamp, err error) {
	for _, t := range []struct {
		flag, value string
		to          **timestamppb.Timestamp
	}{{"since", since, &from}, {"until", until, &to}} {
		if t.value == "" {
			continue
		}
		moment, err := flagspec.Time(t.value, a.Now())
		if err != nil {
			return nil, nil, fmt.Errorf("--%s: %w", t.flag, err)
		}
		*t.to = timestamppb.New(moment)
	}
	return from, to, nil
}

// logDetails are the labels and variables of a container that its log is to be told with: KEY=VALUE, by commas.
func logDetails(s *apiv1.ContainerSpec) string {
	env := map[string]string{}
	for _, v := range s.GetEnv() {
		key, value, _ := strings.Cut(v, "=")
		env[key] = value
	}
	var out []string
	for _, of := range []struct {
		option string
		have   map[string]string
	}{{"labels", s.GetLabels()}, {"env", env}} {
		for key := range strings.SplitSeq(s.GetLogOptions()[of.option], ",") {
			if value, ok := of.have[key]; ok {
				out = append(out, url.QueryEscape(key)+"="+url.QueryEscape(value))
			}
		}
	}
	slices.Sort(out)
	return strings.Join(out, ",")
}

// logs shows a log. One that is followed goes on where it was when netd went away and has come back.
func (a containers) logs(ctx context.Context, c *client.Client, r *apiv1.LogsRequest, shown *shownLog) error {
	name := r.GetContainer()
	if !r.GetFollow() {
		return about("logs of", name, shown.read(ctx, c, r))
	}
	ct, err := c.Containers.Inspect(ctx, &apiv1.InspectContainerRequest{Container: name})
	if err != nil {
		return about("logs of", name, err)
	}
	r.Container = ct.GetId()
	err = session.Patient(ctx, func(ctx context.Context) error { return shown.read(ctx, c, r) })
	return about("logs of", name, err)
}

// shownLog is what of a log was shown.
type shownLog struct {
	a          containers
	timestamps bool
	details    string    // in front of each line
	lines      int       // all that were shown
	last       time.Time // of the last of them
	same       int       // how many of them have its time
}

// read shows what was not shown yet.
func (s *shownLog) read(ctx context.Context, c *client.Client, r *apiv1.LogsRequest) error {
	skip := 0
	if s.lines > 0 {
		r = &apiv1.LogsRequest{Container: r.GetContainer(), Follow: r.GetFollow(), Tail: -1, Until: r.GetUntil(),
			Since: timestamppb.New(s.last)}
		skip = s.same
	}
	stream, err := c.Containers.Logs(ctx, r)
	if err != nil {
		return err
	}
	for {
		line, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		at := line.GetTime().AsTime()
		if skip > 0 && at.Equal(s.last) {
			skip--
			continue
		}
		if err := s.show(line); err != nil {
			return err
		}
		if !at.Equal(s.last) {
			s.last, s.same = at, 0
		}
		s.lines, s.same = s.lines+1, s.same+1
	}
}

func (s *shownLog) show(line *apiv1.LogsResponse) error {
	w := s.a.Out
	if line.GetStderr() {
		w = s.a.Err
	}
	text := line.GetLine()
	if s.details != "" {
		text = append([]byte(s.details+" "), text...)
	}
	if s.timestamps {
		text = append([]byte(line.GetTime().AsTime().Format(time.RFC3339Nano)+" "), text...)
	}
	if _, err := w.Write(text); err != nil {
		return fmt.Errorf("write the log: %w", err)
	}
	return nil
}

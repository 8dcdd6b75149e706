package cli

import (
	"context"
	"errors"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/vethloom/vethloom/api/client"
	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/internal/cli/flagspec"
	"github.com/vethloom/vethloom/internal/cli/show"
	"github.com/vethloom/vethloom/internal/cli/view"
)

// stopFlags say how to end containers.
type stopFlags struct {
	timeout int
	signal  string
}

func (o *stopFlags) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.IntVarP(&o.timeout, "time", "t", -1, "seconds until KILL (default the container's --stop-timeout)")
	f.IntVar(&o.timeout, "timeout", -1, "the same as --time")
	show.Must(f.MarkHidden("timeout"))
	f.StringVarP(&o.signal, "signal", "s", "", "signal that asks it to stop (default the container's --stop-signal)")
}

// after is the time until a container is killed; nil: its own.
func (o *stopFlags) after() *durationpb.Duration {
	if o.timeout < 0 {
		return nil
	}
	return durationpb.New(time.Duration(o.timeout) * time.Second)
}

func (a upkeep) containerRestart() *cobra.Command {
	var o stopFlags
	cmd := &cobra.Command{
		Use: "restart [flags] CONTAINER...", Short: "Stop containers, if they run, and start them", GroupID: groupRun,
		Args: cobra.MinimumNArgs(1), ValidArgsFunction: a.complete(containerNames, anyNumber),
		Example: "  net restart -t 2 web",
		RunE: a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
			return a.each(args, func(name string) (string, error) {
				_, err := c.Containers.Restart(ctx, &apiv1.RestartContainerRequest{Container: name, Signal: o.signal,
					Timeout: o.after()})
				return name, about("restart", name, err)
			})
		}),
	}
	o.flags(cmd)
	return cmd
}

func (a upkeep) containerPause() *cobra.Command {
	return &cobra.Command{
		Use: "pause CONTAINER...", Short: "Have containers stand still", GroupID: groupRun,
		Args: cobra.MinimumNArgs(1), ValidArgsFunction: a.complete(runningNames, anyNumber),
		Example: "  net pause web",
		RunE: a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
			return a.each(args, func(name string) (string, error) {
				_, err := c.Containers.Pause(ctx, &apiv1.PauseContainerRequest{Container: name})
				return name, about("pause", name, err)
			})
		}),
	}
}

func (a upkeep) containerUnpause() *cobra.Command {
	return &cobra.Command{
		Use: "unpause CONTAINER...", Short: "Have containers go on that stand still", GroupID: groupRun,
		Args: cobra.MinimumNArgs(1), ValidArgsFunction: a.complete(runningNames, anyNumber),
		Example: "  net unpause web",
		RunE: a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
			return a.each(args, func(name string) (string, error) {
				_, err := c.Containers.Unpause(ctx, &apiv1.UnpauseContainerRequest{Container: name})
				return name, about("unpause", name, err)
			})
		}),
	}
}

func (a upkeep) containerRename() *cobra.Command {
	return &cobra.Command{
		Use: "rename CONTAINER NAME", Short: "Give a container another name", GroupID: groupRun,
		Args: cobra.ExactArgs(2), ValidArgsFunction: a.complete(containerNames, 1),
		Example: "  net rename quiet_fox web",
		RunE: a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
			_, err := c.Containers.Rename(ctx, &apiv1.RenameContainerRequest{Container: args[0], Name: args[1]})
			return about("rename", args[0], err)
		}),
	}
}

func (a upkeep) containerUpdate() *cobra.Command {
	r := &apiv1.UpdateContainerRequest{Resources: &apiv1.Resources{}}
	cmd := &cobra.Command{
		Use: "update [flags] CONTAINER...", Short: "Change limits and the restart policy of containers",
		GroupID: groupRun, Args: cobra.MinimumNArgs(1), ValidArgsFunction: a.complete(containerNames, anyNumber),
		Long: `Change limits and the restart policy of containers, whether they run or not. What is not given stays as
it is.`,
		Example: "  net update --memory 128m --memory-swap -1 --restart on-failure:3 web",
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().NFlag() == 0 {
				return errors.New("there is nothing to change: say what, for example --memory 128m")
			}
			return a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
				return a.each(args, func(name string) (string, error) {
					r.Container = name
					resp, err := c.Containers.Update(ctx, r)
					for _, w := range resp.GetWarnings() {
						show.Printf(a.Err, "net: warning: %s\n", w)
					}
					return name, about("update", name, err)
				})
			})(cmd, args)
		},
	}
	limitFlags(cmd, r.Resources)
	one(cmd.Flags(), "restart", "", "string", "when to start it again: no, always, unless-stopped, "+
		"on-failure[:RETRIES]", &r.Restart, flagspec.Restart)
	return cmd
}

func (a upkeep) containerTop() *cobra.Command {
	cmd := &cobra.Command{
		Use: "top CONTAINER [PS OPTION...]", Short: "List the processes of a container", GroupID: groupRun,
		Args: cobra.MinimumNArgs(1), ValidArgsFunction: a.complete(runningNames, 1),
		Long: `List the processes of a container, as ps(1) of the host shows them. Its options may follow; without, they
are -ef.`,
		Example: "  net top web\n  net top web -o pid,rss,args",
		RunE: a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
			p, err := c.Containers.Top(ctx, &apiv1.TopRequest{Container: args[0], Arguments: args[1:]})
			if err != nil {
				return about("top of", args[0], err)
			}
			w := tabwriter.NewWriter(a.Out, 20, 1, 3, ' ', 0)
			show.Println(w, strings.Join(p.GetTitles(), "\t"))
			for _, row := range p.GetProcesses() {
				fields := make([]string, len(row.GetFields()))
				for i, f := range row.GetFields() {
					fields[i] = show.Plain(f)
				}
				show.Println(w, strings.Join(fields, "\t"))
			}
			return w.Flush()
		}),
	}
	cmd.Flags().SetInterspersed(false) // what follows is for ps
	return cmd
}

func (a upkeep) containerPrune() *cobra.Command {
	r := &apiv1.PruneContainersRequest{}
	var force bool
	cmd := &cobra.Command{
		Use: "prune [flags]", Short: "Remove containers that do not run", Args: cobra.NoArgs,
		Example: "  net container prune -f --filter until=24h",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.confirm(force, "This removes all containers that do not run."); err != nil {
				return err
			}
			return a.withClient(func(ctx context.Context, c *client.Client, _ []string) error {
				resp, err := c.Containers.Prune(ctx, r)
				if err != nil {
					return client.Explain(err)
				}
				if len(resp.GetIds()) > 0 {
					show.Println(a.Out, "Deleted Containers:\n"+strings.Join(resp.GetIds(), "\n")+"\n")
				}
				return show.Println(a.Out, "Total reclaimed space: "+view.Size(resp.GetReclaimed()))
			})(cmd, nil)
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "do not ask")
	cmd.Flags().StringArrayVar(&r.Filters, "filter", nil, pruneFilterUsage)
	return cmd
}

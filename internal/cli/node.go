package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/vethloom/vethloom/api/client"
	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/internal/cli/session"
	"github.com/vethloom/vethloom/internal/cli/show"
	"github.com/vethloom/vethloom/internal/cli/view"
)

func (a nodes) nodeCommands() []*cobra.Command {
	return []*cobra.Command{a.status(), a.doctor(), a.firewall(), a.diff(), a.events(), a.version(), a.completion()}
}

func (a nodes) status() *cobra.Command {
	var i show.Inspector
	cmd := &cobra.Command{
		Use: "status [flags]", Short: "Show how netd is doing", GroupID: groupNode, Args: cobra.NoArgs,
		Example: "  net status\n  net status -f '{{.Converged}}'",
		RunE: a.withClient(func(ctx context.Context, c *client.Client, _ []string) error {
			s, err := c.System.Status(ctx, &apiv1.StatusRequest{})
			if err != nil {
				return client.Explain(err)
			}
			if i.Format != "" {
				return i.Write(a.Out, []any{viewStatus(s)})
			}
			return a.showStatus(s)
		}),
	}
	i.Flags(cmd)
	return cmd
}

type statusView struct {
	Version                                             string
	Started                                             view.Moment
	Root, Run, Firewall                                 string
	MTU                                                 int32
	Networks, Endpoints, Sandboxes, Containers, Running int32
	Converged                                           bool
	Passes, Drifts                                      uint64
	Errors                                              []ownerErrorView
	Notices                                             []string
	Cluster                                             *view.ClusterStatus `json:",omitempty"`
	FastPath                                            fastPathView
}

type ownerErrorView struct {
	Owner, Error string
	Since, Retry view.Moment
}

func viewStatus(s *apiv1.StatusResponse) statusView {
	v := statusView{
		Version: s.GetVersion(), Started: view.Time(s.GetStarted()), Root: s.GetRoot(), Run: s.GetRun(),
		Firewall: s.GetFirewall(),
		MTU:      s.GetMtu(), Networks: s.GetNetworks(), Endpoints: s.GetEndpoints(), Sandboxes: s.GetSandboxes(),
		Containers: s.GetContainers(), Running: s.GetRunning(), Converged: s.GetConverged(),
		Passes: s.GetPasses(), Drifts: s.GetDrifts(), Errors: []ownerErrorView{},
		Notices: append([]string{}, s.GetNotices()...),
		Cluster: view.ClusterStatusOf(s.GetCluster()), FastPath: viewFastPath(s.GetFastPath()),
	}
	for _, e := range s.GetErrors() {
		v.Errors = append(v.Errors, ownerErrorView{e.GetOwner(), e.GetError(), view.Time(e.GetSince()),
			view.Time(e.GetRetry())})
	}
	return v
}

func (a nodes) showStatus(s *apiv1.StatusResponse) error {
	tw := tabwriter.NewWriter(a.Out, 0, 1, 2, ' ', 0)
	line := func(key, format string, args ...any) { _, _ = show.Printf(tw, key+":\t"+format+"\n", args...) }
	kernel := a.paint("32", "as recorded")
	if !s.GetConverged() {
		kernel = a.paint("31", "differs from the records") + show.Painted(" (see 'net diff')")
	}
	line("netd", "%s, up %s", s.GetVersion(), strings.TrimSuffix(a.ago(s.GetStarted()), " ago"))
	line("Kernel", "%s", kernel)
	line("Networks", "%d, with %d endpoints in %d sandboxes", s.GetNetworks(), s.GetEndpoints(), s.GetSandboxes())
	line("Containers", "%d, %d running", s.GetContainers(), s.GetRunning())
	line("Firewall", "%s", s.GetFirewall())
	line("MTU", "%d", s.GetMtu())
	line("Fast path", "%s", s.GetFastPath().GetState())
	line("Passes", "%d, %d of them repaired what others had changed", s.GetPasses(), s.GetDrifts())
	if c := s.GetCluster(); c != nil {
		a.showCluster(c, line)
	}
	line("State", "%s", s.GetRoot())
	line("Runtime", "%s", s.GetRun())
	if err := tw.Flush(); err != nil {
		return err
	}
	a.showPaths(s.GetFastPath())
	for _, p := range s.GetCluster().GetProblems() {
		show.Printf(a.Out, "\n%s %s\n", a.paint("33", "Cluster:"), p)
	}
	for _, n := range s.GetNotices() {
		show.Printf(a.Out, "\n%s %s\n", a.paint("33", "Notice:"), n)
	}
	for _, e := range s.GetErrors() {
		show.Printf(a.Out, "\n%s %s: %s\n", a.paint("31", "Error:"), e.GetOwner(), e.GetError())
		show.Printf(a.Out, "  since %s", a.ago(e.GetSince()))
		if t := e.GetRetry(); t != nil {
			show.Printf(a.Out, ", next try in %s", max(t.AsTime().Sub(a.Now()), 0).Round(time.Second))
		}
		fmt.Fprintln(a.Out)
	}
	return nil
}

func (a nodes) doctor() *cobra.Command {
	l := &show.Lister[*apiv1.Finding]{ID: (*apiv1.Finding).GetCheck, Columns: []show.Column[*apiv1.Finding]{
		{Name: "Severity", Header: "RESULT", Value: (*apiv1.Finding).GetSeverity},
		{Name: "Check", Header: "CHECK", Value: (*apiv1.Finding).GetCheck},
		{Name: "Found", Header: "FOUND", Value: (*apiv1.Finding).GetFound},
		{Name: "Remedy", Header: "REMEDY", Hidden: true, Value: (*apiv1.Finding).GetRemedy},
	}}
	cmd := &cobra.Command{
		Use: "doctor [flags]", Short: "Examine this host and its cluster: kernel, forwarding, firewall, conflicts, " +
			"peers", GroupID: groupNode, Args: cobra.NoArgs,
		Long: `Examine this host: kernel, modules, forwarding, firewall, conflicts; in a cluster also the store, this
node's lease and address, and the paths to other nodes, with the likely cause where one is not well. Each finding has
a remedy. The exit code is 1 when there is an error.`,
		Example: "  net doctor",
		RunE: a.withClient(func(ctx context.Context, c *client.Client, _ []string) error {
			resp, err := c.System.Doctor(ctx, &apiv1.DoctorRequest{})
			if err != nil {
				return client.Explain(err)
			}
			if l.Format != "" || l.Quiet {
				err = l.Show(a.Out, resp.GetFindings())
			} else {
				err = a.showFindings(resp.GetFindings())
			}
			for _, f := range resp.GetFindings() {
				if err == nil && f.GetSeverity() == "error" {
					return &session.ExitError{Code: exitFailure}
				}
			}
			return err
		}),
	}
	l.Flags(cmd)
	return cmd
}

// showFindings writes a table, each remedy below its finding. On a terminal what was found is broken into lines; a
// remedy is not, as it is there to be copied: one that is too long begins further to the left.
func (a nodes) showFindings(all []*apiv1.Finding) error {
	const result, arrow = 9, "-> "
	colours := map[string]string{"ok": "32", "info": "36", "warning": "33", "error": "31"}
	check := len("CHECK")
	for _, f := range all {
		check = max(check, utf8.RuneCountInString(show.PlainLines(f.GetCheck())))
	}
	indent := result + check + 2
	columns := session.Columns(a.Out)
	var b strings.Builder
	fmt.Fprintf(&b, "%-*s%-*s%s\n", result, "RESULT", check+2, "CHECK", "FOUND")
	for _, f := range all {
		word := f.GetSeverity()
		show.Printf(&b, "%s%*s%-*s", a.paint(colours[word], word), max(result-len(word), 1), "", check+2, f.GetCheck())
		for i, line := range show.Wrap(f.GetFound(), columns-indent) {
			show.Printf(&b, "%*s%s\n", min(i, 1)*indent, "", line)
		}
		if remedy := f.GetRemedy(); remedy != "" {
			left := indent
			if columns > 0 && indent+len(arrow)+utf8.RuneCountInString(remedy) > columns {
				left = result
			}
			show.Printf(&b, "%*s%s%s\n", left, "", arrow, remedy)
		}
	}
	_, err := io.WriteString(a.Out, b.String())
	return err
}

func (a nodes) diff() *cobra.Command {
	l := &show.Lister[*apiv1.Op]{ID: (*apiv1.Op).GetObject, Columns: []show.Column[*apiv1.Op]{
		{Name: "Verb", Header: "VERB", Value: (*apiv1.Op).GetVerb},
		{Name: "Kind", Header: "KIND", Value: (*apiv1.Op).GetKind},
		{Name: "Owner", Header: "OWNER", Value: (*apiv1.Op).GetOwner},
		{Name: "NetNS", Header: "NETNS", Value: (*apiv1.Op).GetNetns},
		{Name: "Object", Header: "OBJECT", Value: (*apiv1.Op).GetObject},
		{Name: "Old", Header: "OLD", Hidden: true, Value: (*apiv1.Op).GetOld},
	}}
	cmd := &cobra.Command{
		Use: "diff [flags]", Short: "Show what differs between the records and the kernel", GroupID: groupNode,
		Args:        cobra.NoArgs,
		Annotations: map[string]string{"runs": "a comparison"},
		Long: `Show what netd would change to make the kernel agree with the records:
+ is missing, - is too much, ~ is different. The exit code is 0 when nothing
differs, 1 when something does, 125 when that is not known.`,
		Example: "  net diff && echo converged",
		RunE: a.withClient(func(ctx context.Context, c *client.Client, _ []string) error {
			resp, err := c.System.Diff(ctx, &apiv1.DiffRequest{})
			if err != nil {
				return client.Explain(err)
			}
			if l.Format != "" || l.Quiet {
				err = l.Show(a.Out, resp.GetOps())
			} else {
				err = a.showDiff(resp.GetOps())
			}
			if err == nil && len(resp.GetOps()) > 0 {
				return &session.ExitError{Code: exitFailure}
			}
			return err
		}),
	}
	l.Flags(cmd)
	return cmd
}

func (a nodes) showDiff(ops []*apiv1.Op) error {
	marks := map[string][2]string{"create": {"+", "32"}, "delete": {"-", "31"}, "modify": {"~", "33"},
		"purge": {"-", "31"}}
	for _, op := range ops {
		mark, ok := marks[op.GetVerb()]
		if !ok {
			mark = [2]string{"?", "0"}
		}
		line := mark[0] + " " + op.GetObject()
		if op.GetNetns() != "" && !strings.Contains(op.GetObject(), op.GetNetns()) {
			line += "  in " + op.GetNetns()
		}
		if op.GetOwner() != "" && !strings.Contains(op.GetObject(), op.GetOwner()) {
			line += "  (" + op.GetOwner() + ")"
		}
		if _, err := fmt.Fprintln(a.Out, string(a.paint(mark[1], line))); err != nil {
			return err
		}
		if op.GetOld() != "" {
			fmt.Fprintln(a.Out, string(a.paint("2", "    now: "+op.GetOld())))
		}
	}
	return nil
}

func (a nodes) events() *cobra.Command {
	var filters []string
	var format, since, until string
	cmd := &cobra.Command{
		Use: "events [flags]", Short: "Show what happens, as it happens", GroupID: groupNode, Args: cobra.NoArgs,
		Example: "  net events --filter type=container --format '{{.Action}} {{.ID}}'\n" +
			"  net events --since 10m --until 0s",
		RunE: withRequest(a.App, func([]string) (*apiv1.EventsRequest, error) {
			from, to, err := a.between(since, until)
			return &apiv1.EventsRequest{Filters: filters, Since: from, Until: to}, err
		}, func(ctx context.Context, c *client.Client, r *apiv1.EventsRequest, _ []string) error {
			write, err := a.eventWriter(format)
			if err != nil {
				return err
			}
			stream, err := c.System.Events(ctx, r)
			if err != nil {
				return client.Explain(err)
			}
			for {
				ev, err := stream.Recv()
				if errors.Is(err, io.EOF) {
					return nil
				}
				if err != nil {
					return client.Explain(err)
				}
				if err := write(ev); err != nil {
					return err
				}
			}
		}),
	}
	cmd.Flags().StringVar(&since, "since", "", "from this time on: RFC 3339, or a duration back from now (10m)")
	cmd.Flags().StringVar(&until, "until", "", "up to this time")
	cmd.Flags().StringArrayVarP(&filters, "filter", "f", nil, "type=, event=, id=, container=, network=")
	cmd.Flags().StringVar(&format, "format", "", "json, or a Go template for each event")
	show.Must(cmd.RegisterFlagCompletionFunc("format", show.Fixed("json")))
	show.Must(cmd.RegisterFlagCompletionFunc("filter", show.Fixed("type=container", "type=network", "type=endpoint",
		"type=image", "type=volume", "type=kernel")))
	return cmd
}

type eventView struct {
	Time       view.Moment
	Type       string
	Action     string
	ID         string
	Attributes map[string]string
}

func (a nodes) eventWriter(format string) (func(*apiv1.Event) error, error) {
	if format == "" {
		return func(ev *apiv1.Event) error {
			attributes := view.LabelList(ev.GetAttributes())
			if attributes != "" {
				attributes = " (" + attributes + ")"
			}
			// A line is an event: a label or a command with a line end in it is not to look like another.
			_, err := show.Printf(a.Out, "%s %s %s %s%s\n", ev.GetTime().AsTime().Format(time.RFC3339Nano),
				ev.GetType(), show.Plain(ev.GetAction()), show.Plain(ev.GetId()), show.Plain(attributes))
			return err
		}, nil
	}
	if format == "json" {
		format = "{{json .}}"
	}
	t, err := show.Template(format)
	if err != nil {
		return nil, err
	}
	return func(ev *apiv1.Event) error {
		v := eventView{view.Time(ev.GetTime()), ev.GetType(), ev.GetAction(), ev.GetId(),
			view.OrEmpty(ev.GetAttributes())}
		var b strings.Builder
		if err := t.Execute(&b, v); err != nil {
			return fmt.Errorf("--format: %w", err)
		}
		return show.Println(a.Out, b.String())
	}, nil
}

type versionView struct {
	Client versionInfo
	Server *versionInfo `json:",omitempty"`
}

type versionInfo struct {
	Version, Commit, Go string
	Kernel              string `json:",omitempty"`
}

func (a nodes) version() *cobra.Command {
	var i show.Inspector
	var clientOnly bool
	cmd := &cobra.Command{
		Use: "version [flags]", Short: "Show the versions of net and netd", GroupID: groupNode, Args: cobra.NoArgs,
		Example: "  net version --client",
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := versionView{Client: versionInfo{Version: a.Version, Commit: a.Commit, Go: runtime.Version()}}
			var dialErr error
			if !clientOnly {
				v.Server, dialErr = a.serverVersion(cmd.Context())
			}
			if i.Format == "json" {
				i.Format = "{{json .}}"
			}
			if i.Format != "" {
				return errors.Join(i.Write(a.Out, []any{v}), dialErr)
			}
			tw := tabwriter.NewWriter(a.Out, 0, 1, 2, ' ', 0)
			fmt.Fprintf(tw, "net:\t%s\tcommit %s\t%s\n", v.Client.Version, v.Client.Commit, v.Client.Go)
			if v.Server != nil {
				fmt.Fprintf(tw, "netd:\t%s\tcommit %s\t%s\tLinux %s\n", v.Server.Version, v.Server.Commit, v.Server.Go,
					v.Server.Kernel)
			}
			return errors.Join(tw.Flush(), dialErr)
		},
	}
	i.Flags(cmd)
	cmd.Flags().BoolVar(&clientOnly, "client", false, "do not ask netd")
	return cmd
}

func (a nodes) serverVersion(ctx context.Context) (*versionInfo, error) {
	c, err := a.dial(ctx)
	if err != nil {
		return nil, err
	}
	v, err := c.System.Version(ctx, &apiv1.VersionRequest{})
	if err != nil {
		return nil, client.Explain(err)
	}
	return &versionInfo{v.GetVersion(), v.GetCommit(), v.GetGo(), v.GetKernel()}, nil
}

func (a nodes) completion() *cobra.Command {
	return &cobra.Command{
		Use: "completion bash|zsh|fish", Short: "Print the completion script of a shell", GroupID: groupNode,
		Args: cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs), ValidArgs: []cobra.Completion{"bash", "zsh",
			"fish"},
		Example: "  source <(net completion bash)",
		RunE: func(cmd *cobra.Command, args []string) error {
			switch args[0] {
			case "bash":
				return cmd.Root().GenBashCompletionV2(a.Out, true)
			case "zsh":
				return cmd.Root().GenZshCompletion(a.Out)
			default:
				return cmd.Root().GenFishCompletion(a.Out, true)
			}
		},
	}
}

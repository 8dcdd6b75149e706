package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/vethloom/vethloom/api/client"
	"github.com/vethloom/vethloom/internal/cli/session"
	"github.com/vethloom/vethloom/internal/cli/show"
	"github.com/vethloom/vethloom/internal/cli/view"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Exit codes besides those of the commands that are run.
const (
	exitOK      = 0
	exitFailure = 1
	exitDaemon  = 125 // a run that did not come to run anything
)

// App is one invocation of net. Everything it touches of its surroundings is
// here, so that tests can give it others.
type App struct {
	In      io.Reader
	Out     io.Writer
	Err     io.Writer
	Env     func(string) (string, bool)
	Now     func() time.Time
	Dir     string // working directory; empty: the process's
	Version string
	Commit  string
	Timeout time.Duration // of the connection set-up; 0: the client's default

	host   string
	client *client.Client
}

// New makes the App of this process.
func New(version, commit string) *App {
	return &App{
		In: os.Stdin, Out: os.Stdout, Err: os.Stderr,
		Env: os.LookupEnv, Now: time.Now, Version: version, Commit: commit,
	}
}

// Run runs one command line (without the program's name) and returns the exit code.
func (a *App) Run(ctx context.Context, args []string) int {
	root := a.Root()
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if a.client != nil {
		err = errors.Join(err, a.client.Close())
		a.client = nil
	}
	if err == nil {
		return exitOK
	}
	code := exitFailure
	if runs(cmd) {
		code = exitDaemon
	}
	var exit *session.ExitError
	if errors.As(err, &exit) {
		code = exit.Code
		if exit.Err == nil {
			return code
		}
	}
	show.Printf(a.Err, "net: %v\n", err)
	return code
}

// runs reports whether a command's exit code is that of what it runs, so that
// its own failures need one of their own.
func runs(cmd *cobra.Command) bool { return cmd != nil && cmd.Annotations["runs"] != "" }

// Root is the tree of commands, for those who document or complete it.
func (a *App) Root() *cobra.Command {
	root := &cobra.Command{
		Use:   "net",
		Short: "Networks for containers, and containers on them",
		Long: "net talks to netd, the daemon that gives containers their networks. " +
			"Its grammar is Docker's.",
		SilenceErrors:     true,
		SilenceUsage:      true,
		Args:              cobra.NoArgs,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetIn(a.In)
	root.SetOut(a.Out)
	root.SetErr(a.Err)
	root.PersistentFlags().StringVarP(&a.host, "host", "H", "",
		"netd's socket (default $"+client.HostVariable+", else "+client.DefaultHost+")")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		if cmd.HasSubCommands() { // a flag of a command that does not exist is not what is wrong
			if unknown := cmd.ValidateArgs(cmd.Flags().Args()); unknown != nil {
				return unknown
			}
		}
		if cmd == root {
			return fmt.Errorf("%w: see 'net --help'", err)
		}
		return fmt.Errorf("%s: %w: see '%s --help'", cmd.Name(), err, cmd.CommandPath())
	})
	root.AddGroup(&cobra.Group{ID: groupRun, Title: "Containers:"},
		&cobra.Group{ID: groupThings, Title: "Networks, images, volumes:"},
		&cobra.Group{ID: groupCluster, Title: "The cluster:"}, &cobra.Group{ID: groupNode, Title: "This node:"})
	root.SetHelpCommandGroupID(groupNode)
	root.SetCompletionCommandGroupID(groupNode)
	root.AddCommand(containers{a}.containerCommands()...)
	root.AddCommand(networks{a}.networkCommand(), volumes{a}.volumeCommand(), images{a}.imageCommand())
	root.AddCommand(images{a}.imageShortcuts()...)
	root.AddCommand(disk{a}.systemCommand())
	root.AddCommand(lookups{a}.dnsCommand(), networks{a}.endpointCommand())
	root.AddCommand(nodes{a}.clusterNode(), nodes{a}.clusterLease())
	root.AddCommand(nodes{a}.nodeCommands()...)
	for _, c := range root.Commands() {
		teach(c)
	}
	return root
}

// The groups of the help text.
const (
	groupRun     = "run"
	groupThings  = "things"
	groupCluster = "cluster"
	groupNode    = "node"
)

// dial connects to netd, once an invocation.
func (a *App) dial(ctx context.Context) (*client.Client, error) {
	if a.client != nil {
		return a.client, nil
	}
	host := a.host
	if host == "" {
		host, _ = a.Env(client.HostVariable)
	}
	if host == "" {
		host = client.DefaultHost
	}
	c, err := client.Dial(ctx, host, client.Options{Timeout: a.Timeout})
	if err != nil {
		var d *client.DialError
		if errors.As(err, &d) {
			return nil, &session.ExitError{Code: exitDaemon, Err: err}
		}
		return nil, err
	}
	a.client = c
	return c, nil
}

// withClient makes a command's action out of a function that needs netd.
func (a *App) withClient(f func(ctx context.Context, c *client.Client, args []string) error) func(*cobra.Command,
	[]string) error {
	return func(cmd *cobra.Command, args []string) error {
		c, err := a.dial(cmd.Context())
		if err != nil {
			return err
		}
		return f(cmd.Context(), c, args)
	}
}

// withRequest is [App.withClient] for a command whose flags can be wrong: they are read before netd is asked.
func withRequest[T any](a *App, read func(args []string) (T, error),
	f func(ctx context.Context, c *client.Client, r T, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		r, err := read(args)
		if err != nil {
			return err
		}
		return a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
			return f(ctx, c, r, args)
		})(cmd, args)
	}
}

// teach has a wrong number of arguments told with the command and where its usage is.
func teach(cmd *cobra.Command) {
	for _, c := range cmd.Commands() {
		teach(c)
	}
	check := cmd.Args
	if check == nil {
		return
	}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return fmt.Errorf("%s: %w: see '%s --help'", cmd.Name(), err, cmd.CommandPath())
		}
		return nil
	}
}

// each calls f for every argument, prints what it returns, reports errors as
// they come, and fails when one did.
func (a *App) each(args []string, f func(string) (string, error)) error {
	failed := false
	for _, arg := range args {
		out, err := f(arg)
		if err != nil {
			show.Printf(a.Err, "net: %v\n", err)
			failed = true
			continue
		}
		if out != "" {
			show.Println(a.Out, out)
		}
	}
	if failed {
		return &session.ExitError{Code: exitFailure}
	}
	return nil
}

// about puts what was asked in front of what the daemon answered, unless the
// answer says it.
func about(kind, name string, err error) error {
	if err == nil {
		return nil
	}
	err = client.Explain(err)
	if mentions(err.Error(), name) {
		return err
	}
	return fmt.Errorf("%s %s: %w", kind, name, err)
}

// mentions reports whether a text has a name as a word of its own.
func mentions(text, name string) bool {
	isWord := func(c byte) bool {
		return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' || c == '-'
	}
	for at := 0; name != ""; at++ {
		i := strings.Index(text[at:], name)
		if i < 0 {
			return false
		}
		at += i
		end := at + len(name)
		if (at == 0 || !isWord(text[at-1])) && (end == len(text) || !isWord(text[end])) {
			return true
		}
	}
	return false
}

// group makes a command that only holds others.
func group(use, short, id string, subs ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, GroupID: id, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(subs...)
	return cmd
}

// colours reports whether output may have them: on a terminal, unless NO_COLOR
// (no-color.org) is set.
func (a *App) colours() bool {
	if v, ok := a.Env("NO_COLOR"); ok && v != "" {
		return false
	}
	if v, _ := a.Env("TERM"); v == "dumb" {
		return false
	}
	_, ok := session.Terminal(a.Out)
	return ok
}

// paint wraps text in an SGR sequence (ECMA-48), where colours are wanted.
func (a *App) paint(sgr, text string) show.Painted {
	text = show.PlainLines(text)
	if a.colours() && text != "" {
		text = "\x1b[" + sgr + "m" + text + "\x1b[0m"
	}
	return show.Painted(text)
}

// ago says how far back a moment lies; empty for none.
func (a *App) ago(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return view.Duration(a.Now().Sub(t.AsTime())) + " ago"
}

// streams are those that sessions connect.
func (a *App) streams() session.Streams { return session.Streams{In: a.In, Out: a.Out, Err: a.Err} }

// The commands, by what they are about.
type (
	containers struct{ *App }
	upkeep     struct{ *App } // of containers
	images     struct{ *App }
	disk       struct{ *App }
	networks   struct{ *App }
	volumes    struct{ *App }
	nodes      struct{ *App }
)

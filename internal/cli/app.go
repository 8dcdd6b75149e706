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
	"golang.org/x/term"
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

// exitError ends net with a code; a nil err was reported already, or is none.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

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
	var exit *exitError
	if errors.As(err, &exit) {
		code = exit.code
		if exit.err == nil {
			return code
		}
	}
	fmt.Fprintf(a.Err, "net: %v\n", err)
	return code
}

// runs tells whether a command's exit code is that of what it runs, so that
// its own failures need one of their own.
func runs(cmd *cobra.Command) bool { return cmd != nil && cmd.Annotations["runs"] != "" }

// Root is the tree of commands, for those who document or complete it.
func (a *App) Root() *cobra.Command {
	root := &cobra.Command{
		Use:               "net",
		Short:             "Networks for containers, and containers on them",
		Long:              "net talks to netd, the daemon that gives containers their networks. Its grammar is Docker's.",
		SilenceErrors:     true,
		SilenceUsage:      true,
		Args:              cobra.NoArgs,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cmd.Help()
		},
	}
	root.SetIn(a.In)
	root.SetOut(a.Out)
	root.SetErr(a.Err)
	root.PersistentFlags().StringVarP(&a.host, "host", "H", "", "netd's socket (default $"+client.HostVariable+", else "+client.DefaultHost+")")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fmt.Errorf("%s: %w: see '%s --help'", cmd.Name(), err, cmd.CommandPath())
	})
	root.AddGroup(&cobra.Group{ID: groupRun, Title: "Containers:"}, &cobra.Group{ID: groupThings, Title: "Networks, images, volumes:"},
		&cobra.Group{ID: groupCluster, Title: "The cluster:"}, &cobra.Group{ID: groupNode, Title: "This node:"})
	root.SetHelpCommandGroupID(groupNode)
	root.SetCompletionCommandGroupID(groupNode)
	root.AddCommand(a.containerCommands()...)
	root.AddCommand(a.networkCommand(), a.volumeCommand(), a.imageCommand())
	root.AddCommand(a.imageShortcuts()...)
	root.AddCommand(a.clusterNode(), a.clusterLease())
	root.AddCommand(a.nodeCommands()...)
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
			return nil, &exitError{exitDaemon, err}
		}
		return nil, err
	}
	a.client = c
	return c, nil
}

// withClient makes a command's action out of a function that needs netd.
func (a *App) withClient(f func(ctx context.Context, c *client.Client, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		c, err := a.dial(cmd.Context())
		if err != nil {
			return err
		}
		return f(cmd.Context(), c, args)
	}
}

// each calls f for every argument, prints what it returns, reports errors as
// they come, and fails when one did.
func (a *App) each(args []string, f func(string) (string, error)) error {
	failed := false
	for _, arg := range args {
		out, err := f(arg)
		if err != nil {
			fmt.Fprintf(a.Err, "net: %v\n", err)
			failed = true
			continue
		}
		if out != "" {
			fmt.Fprintln(a.Out, out)
		}
	}
	if failed {
		return &exitError{code: exitFailure}
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

// mentions tells whether a text has a name as a word of its own.
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

// terminal is the file descriptor of a terminal, or false.
func terminal(f any) (int, bool) {
	file, ok := f.(*os.File)
	if !ok {
		return 0, false
	}
	fd := int(file.Fd())
	return fd, term.IsTerminal(fd)
}

// colours tells whether output may have them: on a terminal, unless NO_COLOR
// (no-color.org) is set.
func (a *App) colours() bool {
	if v, ok := a.Env("NO_COLOR"); ok && v != "" {
		return false
	}
	if v, _ := a.Env("TERM"); v == "dumb" {
		return false
	}
	_, ok := terminal(a.Out)
	return ok
}

// paint wraps text in an SGR sequence (ECMA-48), where colours are wanted.
func (a *App) paint(sgr, text string) string {
	if !a.colours() || text == "" {
		return text
	}
	return "\x1b[" + sgr + "m" + text + "\x1b[0m"
}

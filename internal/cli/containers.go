package cli

import (
	"context"
	"errors"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/vethloom/vethloom/api/client"
	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/internal/cli/session"
	"github.com/vethloom/vethloom/internal/cli/show"
	"google.golang.org/grpc/codes"
)

func (a containers) containerCommands() []*cobra.Command {
	return append(a.everyContainerCommand(), a.containerGroup())
}

// everyContainerCommand makes the commands that are there with and without "container" before them.
func (a containers) everyContainerCommand() []*cobra.Command {
	files, up := a.fileCommands(""), upkeep(a)
	for _, c := range files {
		c.GroupID = groupRun
	}
	return append(files,
		a.containerRun(), a.containerCreate(), a.containerStart(), a.containerStop(), a.containerKill(),
		up.containerRestart(), up.containerPause(), up.containerUnpause(), up.containerRename(), up.containerUpdate(),
		a.containerRemove(), a.containerList(), a.containerLogs(), a.containerExec(), a.containerAttach(), a.inspect(),
		a.containerWait(), a.containerPort(), up.containerTop(), up.containerStats(), up.containerCopy(),
	)
}

// TwinOf annotates a command that is another one under a further name.
const TwinOf = "twin"

// containerGroup has the commands under "container", as Docker does, and what is there alone.
func (a containers) containerGroup() *cobra.Command {
	cmds := []*cobra.Command{upkeep(a).containerPrune()}
	for _, c := range a.everyContainerCommand() {
		name := c.Name()
		switch name {
		case "ps":
			c.Use, c.Aliases = "ls [flags]", []string{"ps", "list"}
		case "inspect": // of containers alone
			show.Must(c.Flags().Set("type", "container"))
			show.Must(c.Flags().MarkHidden("type"))
		}
		twin(c, "net "+name, "net container "+c.Name())
		c.GroupID = ""
		cmds = append(cmds, c)
	}
	return group("container", "Manage containers", groupRun, cmds...)
}

// twin makes a command one under a further path.
func twin(c *cobra.Command, of, path string) {
	if c.Annotations == nil {
		c.Annotations = map[string]string{}
	}
	c.Annotations[TwinOf] = of
	c.Example = strings.ReplaceAll(c.Example, of, path)
	for _, sub := range c.Commands() {
		twin(sub, of+" "+sub.Name(), path+" "+sub.Name())
	}
}

func (a containers) containerStart() *cobra.Command {
	var attach, interactive bool
	var flags session.SessionFlags
	cmd := &cobra.Command{
		Use: "start [flags] CONTAINER...", Short: "Start containers", GroupID: groupRun, Args: cobra.MinimumNArgs(1),
		ValidArgsFunction: a.complete(containerNames, anyNumber),
		Example:           "  net start web\n  net start -a job",
		RunE: a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
			if attach || interactive {
				if len(args) != 1 {
					return errors.New("--attach and --interactive take one container only")
				}
				return a.attachTo(ctx, c, args[0], true, interactive, flags)
			}
			return a.each(args, func(name string) (string, error) {
				_, err := c.Containers.Start(ctx, &apiv1.StartContainerRequest{Container: name})
				return name, about("start", name, err)
			})
		}),
	}
	cmd.Flags().BoolVarP(&attach, "attach", "a", false, "show the output and end with the exit code")
	cmd.Flags().BoolVarP(&interactive, "interactive", "i", false, "also pass standard input on")
	flags.Flags(cmd)
	return cmd
}

func (a containers) containerAttach() *cobra.Command {
	var noStdin bool
	var flags session.SessionFlags
	cmd := &cobra.Command{
		Use: "attach [flags] CONTAINER", Short: "Connect to a running container's input and output", GroupID: groupRun,
		Args: cobra.ExactArgs(1), ValidArgsFunction: a.complete(runningNames, 1),
		Example: "  net attach web    # leave with ctrl-p ctrl-q when it has a terminal",
		RunE: a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
			return a.attachTo(ctx, c, args[0], false, !noStdin, flags)
		}),
	}
	cmd.Flags().BoolVar(&noStdin, "no-stdin", false, "do not pass standard input on")
	flags.Flags(cmd)
	return cmd
}

// attachTo attaches to a container that exists, started first with start.
func (a containers) attachTo(ctx context.Context, c *client.Client, name string, start, stdin bool,
	flags session.SessionFlags) error {
	keys, err := flags.Keys()
	if err != nil {
		return err
	}
	ct, err := c.Containers.Inspect(ctx, &apiv1.InspectContainerRequest{Container: name})
	if err != nil {
		return about("attach to", name, err)
	}
	s := &session.Session{
		Streams: a.streams(), Client: c, Container: ct.GetId(), TTY: ct.GetSpec().GetTty(),
		Stdin: stdin && ct.GetSpec().GetOpenStdin(), Proxy: flags.Proxy, Keys: keys,
	}
	s.Open = func(ctx context.Context, size *apiv1.WindowSize, back *session.Back) (session.Conversation, error) {
		return session.OpenAttach(ctx, c, &apiv1.AttachOptions{Container: ct.GetId(), Stdin: s.Stdin,
			Start: start && back == nil, Size: size}, back != nil)
	}
	exit, err := s.Run(ctx)
	if err != nil {
		return about("attach to", name, err)
	}
	return exitWith(exit)
}

func (a containers) containerStop() *cobra.Command {
	var o stopFlags
	cmd := &cobra.Command{
		Use: "stop [flags] CONTAINER...", Short: "Stop containers: ask, then kill", GroupID: groupRun,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: a.complete(runningNames, anyNumber),
		Example:           "  net stop -t 2 web",
		RunE: a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
			return a.each(args, func(name string) (string, error) {
				_, err := c.Containers.Stop(ctx, &apiv1.StopContainerRequest{Container: name, Signal: o.signal,
					Timeout: o.after()})
				return name, about("stop", name, err)
			})
		}),
	}
	o.flags(cmd)
	return cmd
}

func (a containers) containerKill() *cobra.Command {
	var signal string
	cmd := &cobra.Command{
		Use: "kill [flags] CONTAINER...", Short: "Send containers a signal", GroupID: groupRun,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: a.complete(runningNames, anyNumber),
		Example:           "  net kill -s HUP web",
		RunE: a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
			return a.each(args, func(name string) (string, error) {
				_, err := c.Containers.Kill(ctx, &apiv1.KillContainerRequest{Container: name, Signal: signal})
				return name, about("kill", name, err)
			})
		}),
	}
	cmd.Flags().StringVarP(&signal, "signal", "s", "KILL", "signal, by name or number")
	show.Must(cmd.RegisterFlagCompletionFunc("signal", show.Fixed("HUP", "INT", "KILL", "QUIT", "TERM", "USR1",
		"USR2")))
	return cmd
}

func (a containers) containerRemove() *cobra.Command {
	var force, volumes bool
	cmd := &cobra.Command{
		Use: "rm [flags] CONTAINER...", Aliases: []string{"remove"}, Short: "Remove containers", GroupID: groupRun,
		Args: cobra.MinimumNArgs(1), ValidArgsFunction: a.complete(containerNames, anyNumber),
		Example: "  net rm -f web",
		RunE: a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
			return a.each(args, func(name string) (string, error) {
				_, err := c.Containers.Remove(ctx, &apiv1.RemoveContainerRequest{Container: name, Force: force,
					Volumes: volumes})
				return name, about("remove", name, err)
			})
		}),
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "kill it first when it runs")
	cmd.Flags().BoolVarP(&volumes, "volumes", "v", false, "also remove its anonymous volumes")
	return cmd
}

func (a containers) containerWait() *cobra.Command {
	return &cobra.Command{
		Use: "wait CONTAINER...", Short: "Wait for containers to exit and print their exit codes", GroupID: groupRun,
		Args: cobra.MinimumNArgs(1), ValidArgsFunction: a.complete(containerNames, anyNumber),
		Example: "  code=$(net wait job)",
		RunE: a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
			return a.each(args, func(name string) (string, error) {
				exit, err := a.waitFor(ctx, c, name)
				return strconv.Itoa(int(exit.GetCode())), about("wait for", name, err)
			})
		}),
	}
}

// waitFor waits for a container's exit, by its ID: it may remove itself, or change its name, while netd is away.
func (a containers) waitFor(ctx context.Context, c *client.Client, name string) (exit *apiv1.ExitStatus, err error) {
	id := name
	ct, err := c.Containers.Inspect(ctx, &apiv1.InspectContainerRequest{Container: name})
	switch {
	case err == nil:
		id = ct.GetId()
	case client.CodeOf(err) != codes.NotFound: // one that removed itself is known for a while
		return nil, err
	}
	err = session.Patient(ctx, func(ctx context.Context) (err error) {
		exit, err = c.Containers.Wait(ctx, &apiv1.WaitContainerRequest{Container: id})
		return err
	})
	return exit, err
}

func (a containers) containerExec() *cobra.Command {
	o := &apiv1.ExecOptions{}
	var envs, envFiles []string
	var keys string
	cmd := &cobra.Command{
		Use: "exec [flags] CONTAINER COMMAND [ARG...]", Short: "Run a further command in a running container",
		GroupID: groupRun,
		Args:    cobra.MinimumNArgs(2), ValidArgsFunction: a.complete(runningNames, 1),
		Example: "  net exec -it web sh\n  net exec -e DEBUG=1 -w /tmp web env",
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Container, o.Command = args[0], args[1:]
			var err error
			if o.Env, err = a.environment(envs, envFiles); err != nil {
				return err
			}
			detachKeys, err := session.ParseDetachKeys(keys)
			if err != nil {
				return err
			}
			if err := session.CheckTTY(a.In, o.Tty && o.Stdin && !o.Detach); err != nil {
				return err
			}
			if o.Detach {
				o.Stdin = false
			}
			return a.withClient(func(ctx context.Context, c *client.Client, _ []string) error {
				return a.exec(ctx, c, o, detachKeys)
			})(cmd, nil)
		},
	}
	f := cmd.Flags()
	f.SetInterspersed(false)
	f.BoolVarP(&o.Detach, "detach", "d", false, "run it in the background")
	f.BoolVarP(&o.Stdin, "interactive", "i", false, "pass standard input on")
	f.BoolVarP(&o.Tty, "tty", "t", false, "give it a terminal")
	f.StringArrayVarP(&envs, "env", "e", nil, "KEY=VALUE, or KEY to pass on this environment's")
	f.StringArrayVar(&envFiles, "env-file", nil, "file with lines as --env takes them")
	f.StringVarP(&o.WorkDir, "workdir", "w", "", "working directory in the container")
	f.StringVarP(&o.User, "user", "u", "", "user, as name or ID, with an optional :group")
	f.BoolVar(&o.Privileged, "privileged", false, "all capabilities")
	f.StringVar(&keys, "detach-keys", "ctrl-p,ctrl-q", "keys that leave the command running; empty: none")
	return cmd
}

func (a containers) exec(ctx context.Context, c *client.Client, o *apiv1.ExecOptions, keys session.DetachKeys) error {
	s := &session.Session{Streams: a.streams(), Client: c, TTY: o.GetTty() && !o.GetDetach(), Stdin: o.GetStdin(),
		Keys: keys}
	s.Open = func(ctx context.Context, size *apiv1.WindowSize, back *session.Back) (session.Conversation, error) {
		o.Size = size
		return session.OpenExec(ctx, c, o, back)
	}
	exit, err := s.Run(ctx)
	if err != nil {
		err = about("exec in", o.GetContainer(), err)
		var call *client.CallError
		if errors.As(err, &call) && call.Exit != 0 {
			return &session.ExitError{Code: call.Exit, Err: err}
		}
		return err
	}
	if o.GetDetach() {
		return nil
	}
	return exitWith(exit)
}

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/spf13/cobra"
	"github.com/vethloom/vethloom/api/client"
	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/internal/cli/session"
	"github.com/vethloom/vethloom/internal/cli/show"
	"google.golang.org/grpc/codes"
)

func (a containers) containerRun() *cobra.Command {
	var o runFlags
	var detach bool
	var s session.SessionFlags
	cmd := &cobra.Command{
		Use: "run [flags] IMAGE [COMMAND [ARG...]]", Short: "Run a command in a new container", GroupID: groupRun,
		Args: cobra.MinimumNArgs(1), Annotations: map[string]string{"runs": "its command"},
		ValidArgsFunction: a.complete(imageNames, 1),
		Long: `Run a command in a new container, and end with its exit code.

The exit code is 125 when the container could not be made, 126 when the command
cannot be executed, 127 when it does not exist.`,
		Example: `  net run --rm busybox echo hello
  net run -d --name web --network front -p 8080:80 busybox httpd -f
  net run -it --rm --memory 64m --cpus 0.5 -v ./src:/src:ro busybox sh`,
		RunE: func(cmd *cobra.Command, args []string) error {
			spec, err := o.request(cmd, a.App, args)
			if err != nil {
				return err
			}
			keys, err := s.Keys()
			if err != nil {
				return err
			}
			if err := a.checkStreams(cmd, spec, detach); err != nil {
				return err
			}
			return a.withClient(func(ctx context.Context, c *client.Client, _ []string) error {
				id, err := a.create(ctx, c, spec, o.pull)
				if err != nil {
					return err
				}
				if detach {
					return a.startDetached(ctx, c, id, spec.GetRemove())
				}
				return a.runForeground(ctx, c, id, spec, keys, s.Proxy)
			})(cmd, nil)
		},
	}
	o.flags(cmd)
	cmd.Flags().BoolVarP(&detach, "detach", "d", false, "run in the background and print the container's ID")
	s.Flags(cmd)
	a.completeRunFlags(cmd)
	return cmd
}

// checkStreams refuses streams that the container, or this process, cannot have.
func (a containers) checkStreams(cmd *cobra.Command, spec *apiv1.ContainerSpec, detach bool) error {
	if !detach {
		return session.CheckTTY(a.In, spec.GetTty() && spec.GetOpenStdin())
	}
	if cmd.Flags().Changed("attach") {
		return errors.New("--attach and --detach: a container in the background is not attached to")
	}
	spec.AttachStdin, spec.AttachStdout, spec.AttachStderr = false, false, false
	return nil
}

func (a containers) containerCreate() *cobra.Command {
	var o runFlags
	cmd := &cobra.Command{
		Use: "create [flags] IMAGE [COMMAND [ARG...]]", Short: "Create a container without starting it",
		GroupID: groupRun,
		Args:    cobra.MinimumNArgs(1), ValidArgsFunction: a.complete(imageNames, 1),
		Example: "  net create --name job --network db busybox sh -c 'date > /tmp/now'",
		RunE: func(cmd *cobra.Command, args []string) error {
			spec, err := o.request(cmd, a.App, args)
			if err != nil {
				return err
			}
			return a.withClient(func(ctx context.Context, c *client.Client, _ []string) error {
				id, err := a.create(ctx, c, spec, o.pull)
				if err == nil {
					show.Println(a.Out, id)
				}
				return err
			})(cmd, nil)
		},
	}
	o.flags(cmd)
	a.completeRunFlags(cmd)
	return cmd
}

func (a containers) completeRunFlags(cmd *cobra.Command) {
	show.Must(cmd.RegisterFlagCompletionFunc("network", a.complete(networkNames, anyNumber)))
}

// create makes a container, and tells its ID to the file that the user asks for.
func (a containers) create(ctx context.Context, c *client.Client, spec *apiv1.ContainerSpec, pull pullFlags) (
	id string, err error) {
	if spec.GetCidfile() == "" {
		return a.createContainer(ctx, c, spec, pull)
	}
	path, err := a.path(spec.GetCidfile())
	if err != nil {
		return "", couldNotRun(err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return "", couldNotRun(fmt.Errorf("--cidfile %s: it exists: another container may have written it: remove it, "+
			"or name another", spec.GetCidfile()))
	}
	if err != nil {
		return "", couldNotRun(fmt.Errorf("--cidfile: %w", err))
	}
	if id, err = a.createContainer(ctx, c, spec, pull); err != nil {
		return "", errors.Join(err, f.Close(), os.Remove(path))
	}
	_, err = f.WriteString(id)
	return id, errors.Join(err, f.Close())
}

// createContainer makes a container. An image that is not here is pulled first, unless the flags say otherwise.
func (a containers) createContainer(ctx context.Context, c *client.Client, spec *apiv1.ContainerSpec, pull pullFlags) (
	string, error) {
	im := images(a)
	if err := im.ensureImage(ctx, c, spec.GetImage(), pull); err != nil {
		return "", couldNotRun(err)
	}
	resp, err := c.Containers.Create(ctx, &apiv1.CreateContainerRequest{Spec: spec})
	if pull.policy == pullMissing && client.CodeOf(err) == codes.NotFound {
		// It may be something else that is not there.
		_, imageErr := c.Images.Inspect(ctx, &apiv1.InspectImageRequest{Image: spec.GetImage()})
		if client.CodeOf(imageErr) == codes.NotFound {
			if !pull.quiet {
				show.Printf(a.Err, "net: image %s is not here: it is pulled\n", spec.GetImage())
			}
			if err := im.pullFor(ctx, c, spec.GetImage(), pull); err != nil {
				return "", couldNotRun(err)
			}
			resp, err = c.Containers.Create(ctx, &apiv1.CreateContainerRequest{Spec: spec})
		}
	}
	if err != nil {
		return "", couldNotRun(client.Explain(err))
	}
	for _, w := range resp.GetWarnings() {
		show.Printf(a.Err, "net: warning: %s\n", w)
	}
	return resp.GetId(), nil
}

func (a containers) startDetached(ctx context.Context, c *client.Client, id string, remove bool) error {
	if _, err := c.Containers.Start(ctx, &apiv1.StartContainerRequest{Container: id}); err != nil {
		return errors.Join(couldNotRun(client.Explain(err)), a.discard(ctx, c, id, remove))
	}
	show.Println(a.Out, id)
	return nil
}

func (a containers) runForeground(ctx context.Context, c *client.Client, id string, spec *apiv1.ContainerSpec,
	keys session.DetachKeys, proxy bool) error {
	s := &session.Session{
		Streams: a.streams(), Client: c, Container: id, TTY: spec.GetTty(), Proxy: proxy,
		Stdin: spec.GetOpenStdin() && spec.GetAttachStdin(), Keys: keys, Fresh: true,
	}
	if !spec.GetAttachStdout() {
		s.Streams.Out = io.Discard
	}
	if !spec.GetAttachStderr() {
		s.Streams.Err = io.Discard
	}
	s.Open = func(ctx context.Context, size *apiv1.WindowSize, back *session.Back) (session.Conversation, error) {
		return session.OpenAttach(ctx, c, &apiv1.AttachOptions{Container: id, Stdin: s.Stdin, Start: back == nil,
			Size: size}, back != nil)
	}
	exit, err := s.Run(ctx)
	if err != nil && !s.Running() {
		return errors.Join(couldNotRun(err), a.discard(ctx, c, id, spec.GetRemove()))
	}
	if spec.GetRemove() && client.CodeOf(err) == codes.NotFound {
		// It ended and went while the connection was lost; netd knows its end for a while.
		exit, err = c.Containers.Wait(ctx, &apiv1.WaitContainerRequest{Container: id})
	}
	if err != nil {
		return couldNotRun(err)
	}
	return exitWith(exit)
}

// discard removes a container that --rm was given for and that never started.
func (a containers) discard(ctx context.Context, c *client.Client, id string, remove bool) error {
	if !remove {
		return nil
	}
	_, err := c.Containers.Remove(context.WithoutCancel(ctx), &apiv1.RemoveContainerRequest{Container: id, Force: true,
		Volumes: true})
	if err == nil || client.CodeOf(err) == codes.NotFound {
		return nil
	}
	return fmt.Errorf("remove the container that did not start: %w", client.Explain(err))
}

// couldNotRun gives an error the exit code netd attached to it, else 125.
func couldNotRun(err error) error {
	var exit *session.ExitError
	if errors.As(err, &exit) {
		return err
	}
	var call *client.CallError
	if errors.As(err, &call) && call.Exit != 0 {
		return &session.ExitError{Code: call.Exit, Err: err}
	}
	return &session.ExitError{Code: exitDaemon, Err: err}
}

// exitWith ends net as the command ended.
func exitWith(exit *apiv1.ExitStatus) error {
	if exit == nil || exit.GetCode() == 0 && exit.GetError() == "" {
		return nil
	}
	if exit.GetError() != "" {
		return &session.ExitError{Code: int(exit.GetCode()), Err: errors.New(exit.GetError())}
	}
	return &session.ExitError{Code: int(exit.GetCode())}
}

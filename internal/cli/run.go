package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/vethloom/vethloom/api/client"
	apiv1 "github.com/vethloom/vethloom/api/v1"
	"google.golang.org/grpc/codes"
)

func (a *App) containerRun() *cobra.Command {
	var o runFlags
	var detach bool
	var s sessionFlags
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
			spec, err := o.request(cmd, a, args)
			if err != nil {
				return err
			}
			keys, err := s.keys()
			if err != nil {
				return err
			}
			if err := a.checkTTY(spec.GetTty() && spec.GetOpenStdin() && !detach); err != nil {
				return err
			}
			return a.withClient(func(ctx context.Context, c *client.Client, _ []string) error {
				id, err := a.create(ctx, c, spec)
				if err != nil {
					return err
				}
				if detach {
					return a.startDetached(ctx, c, id, spec.GetRemove())
				}
				return a.runForeground(ctx, c, id, spec, keys, s.proxy)
			})(cmd, nil)
		},
	}
	o.flags(cmd)
	cmd.Flags().BoolVarP(&detach, "detach", "d", false, "run in the background and print the container's ID")
	s.flags(cmd)
	a.completeRunFlags(cmd)
	return cmd
}

func (a *App) containerCreate() *cobra.Command {
	var o runFlags
	cmd := &cobra.Command{
		Use: "create [flags] IMAGE [COMMAND [ARG...]]", Short: "Create a container without starting it", GroupID: groupRun,
		Args: cobra.MinimumNArgs(1), ValidArgsFunction: a.complete(imageNames, 1),
		Example: "  net create --name job --network db busybox sh -c 'date > /tmp/now'",
		RunE: func(cmd *cobra.Command, args []string) error {
			spec, err := o.request(cmd, a, args)
			if err != nil {
				return err
			}
			return a.withClient(func(ctx context.Context, c *client.Client, _ []string) error {
				id, err := a.create(ctx, c, spec)
				if err == nil {
					fmt.Fprintln(a.Out, id)
				}
				return err
			})(cmd, nil)
		},
	}
	o.flags(cmd)
	a.completeRunFlags(cmd)
	return cmd
}

func (a *App) completeRunFlags(cmd *cobra.Command) {
	must(cmd.RegisterFlagCompletionFunc("network", a.complete(networkNames, anyNumber)))
}

func (a *App) create(ctx context.Context, c *client.Client, spec *apiv1.ContainerSpec) (string, error) {
	resp, err := c.Containers.Create(ctx, &apiv1.CreateContainerRequest{Spec: spec})
	if err != nil {
		return "", couldNotRun(client.Explain(err))
	}
	for _, w := range resp.GetWarnings() {
		fmt.Fprintf(a.Err, "net: warning: %s\n", w)
	}
	return resp.GetId(), nil
}

func (a *App) startDetached(ctx context.Context, c *client.Client, id string, remove bool) error {
	if _, err := c.Containers.Start(ctx, &apiv1.StartContainerRequest{Container: id}); err != nil {
		return errors.Join(couldNotRun(client.Explain(err)), a.discard(ctx, c, id, remove))
	}
	fmt.Fprintln(a.Out, id)
	return nil
}

func (a *App) runForeground(ctx context.Context, c *client.Client, id string, spec *apiv1.ContainerSpec, keys detachKeys, proxy bool) error {
	s := &session{
		app: a, client: c, container: id, tty: spec.GetTty(), stdin: spec.GetOpenStdin(), proxy: proxy, keys: keys, fresh: true,
	}
	s.open = func(ctx context.Context, size *apiv1.WindowSize, resume bool) (conversation, error) {
		return openAttach(ctx, c, &apiv1.AttachOptions{Container: id, Stdin: s.stdin, Start: !resume, Size: size}, resume)
	}
	exit, err := s.run(ctx)
	if err != nil && !s.running() {
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
func (a *App) discard(ctx context.Context, c *client.Client, id string, remove bool) error {
	if !remove {
		return nil
	}
	_, err := c.Containers.Remove(context.WithoutCancel(ctx), &apiv1.RemoveContainerRequest{Container: id, Force: true, Volumes: true})
	if err == nil || client.CodeOf(err) == codes.NotFound {
		return nil
	}
	return fmt.Errorf("remove the container that did not start: %w", client.Explain(err))
}

// couldNotRun gives an error the exit code netd attached to it, else 125.
func couldNotRun(err error) error {
	var exit *exitError
	if errors.As(err, &exit) {
		return err
	}
	var call *client.CallError
	if errors.As(err, &call) && call.Exit != 0 {
		return &exitError{call.Exit, err}
	}
	return &exitError{exitDaemon, err}
}

// exitWith ends net as the command ended.
func exitWith(exit *apiv1.ExitStatus) error {
	if exit == nil || exit.GetCode() == 0 && exit.GetError() == "" {
		return nil
	}
	if exit.GetError() != "" {
		return &exitError{int(exit.GetCode()), errors.New(exit.GetError())}
	}
	return &exitError{code: int(exit.GetCode())}
}

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/vethloom/vethloom/api/client"
	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/internal/cli/credential"
	"github.com/vethloom/vethloom/internal/cli/progress"
	"github.com/vethloom/vethloom/internal/cli/session"
	"github.com/vethloom/vethloom/internal/cli/show"
	"google.golang.org/grpc"
)

// transferFlags are those of pull and push.
type transferFlags struct {
	quiet    bool
	progress string
	platform string
}

func (o *transferFlags) flags(cmd *cobra.Command, quiet string) {
	cmd.Flags().BoolVarP(&o.quiet, "quiet", "q", false, quiet)
	cmd.Flags().StringVar(&o.progress, "progress", progress.Auto,
		"how to show it: auto (bars on a terminal, else plain), plain (a line for each change), json (an object a "+
			"line)")
	show.Must(cmd.RegisterFlagCompletionFunc("progress", show.Fixed(progress.Auto, progress.Plain, progress.JSON)))
}

func (o *transferFlags) platformFlag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.platform, "platform", "",
		"take the image for OS/ARCHITECTURE[/VARIANT], such as linux/arm64 (default this host's)")
}

func (o *transferFlags) check(cmd *cobra.Command) error {
	if o.quiet && cmd.Flags().Changed("progress") {
		return errors.New("--quiet shows no progress: leave out --progress")
	}
	return progress.CheckMode(o.progress)
}

// display shows reports as the flags say.
func (a *App) display(o transferFlags) progress.Display {
	mode := o.progress
	if o.quiet {
		mode = progress.Quiet
	}
	term, _ := a.Env("TERM")
	_, terminal := session.Terminal(a.Err)
	return progress.New(progress.Config{Mode: mode, Terminal: terminal && term != "dumb", Err: a.Err, Out: a.Out,
		Now: a.Now})
}

func (a images) imagePull(path string) *cobra.Command {
	var o transferFlags
	cmd := &cobra.Command{
		Use: "pull [flags] NAME[:TAG|@DIGEST]...", Short: "Bring images in from registries",
		Args: cobra.MinimumNArgs(1), ValidArgsFunction: a.complete(imageNames, anyNumber),
		Long: `Bring images in from registries.

A name without a registry is Docker Hub's. Credentials are those of 'net login', of Docker and of Podman. A pull that
broke off goes on where it was.`,
		Example: "  net " + path + " busybox\n  net " + path + " example.org:5000/team/app:1.2\n  net " +
			path + " --platform linux/arm64 alpine@sha256:…",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.check(cmd); err != nil {
				return err
			}
			return a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
				return a.each(args, func(name string) (string, error) {
					return "", a.pullAndTell(ctx, c, name, o, a.Out)
				})
			})(cmd, args)
		},
	}
	o.flags(cmd, "print the image's ID only")
	o.platformFlag(cmd)
	return cmd
}

// pullAndTell pulls an image and writes what has come of it.
func (a images) pullAndTell(ctx context.Context, c *client.Client, name string, o transferFlags, w io.Writer) error {
	pulled, err := a.pull(ctx, c, name, o)
	if err != nil {
		return about("pull", name, err)
	}
	switch {
	case o.quiet:
		return show.Println(w, pulled.GetId())
	case o.progress == progress.JSON:
		return show.JSON(w, map[string]any{"id": pulled.GetId(), "reference": pulled.GetReference(),
			"digest": pulled.GetDigest(), "newer": pulled.GetNewer()})
	}
	status := "Image is up to date for "
	if pulled.GetNewer() {
		status = "Downloaded newer image for "
	}
	_, err = show.Printf(w, "Digest: %s\nStatus: %s\n", pulled.GetDigest(), status+pulled.GetReference())
	return err
}

func (a images) pull(ctx context.Context, c *client.Client, name string, o transferFlags) (*apiv1.PulledImage, error) {
	creds, err := a.credentials(ctx, c, name, false)
	if err != nil {
		return nil, err
	}
	// A stream that is left before its end is given up.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.Images.Pull(ctx, &apiv1.PullRequest{Reference: name, Platform: o.platform, Credentials: creds})
	if err != nil {
		return nil, err
	}
	m, err := follow(a.App, o, stream, func(m *apiv1.PullResponse) bool { return m.GetPulled() != nil })
	return m.GetPulled(), err
}

// follow shows the reports of a transfer, and returns the message that is its last.
func follow[T any, M interface {
	*T
	GetProgress() *apiv1.TransferProgress
}](a *App, o transferFlags, stream grpc.ServerStreamingClient[T], last func(*T) bool) (*T, error) {
	d := a.display(o)
	defer d.Close()
	for {
		m, err := stream.Recv()
		if err != nil {
			return nil, unfinished(err)
		}
		if last(m) {
			return m, nil
		}
		d.Add(M(m).GetProgress())
	}
}

// unfinished is the error of a stream that has not told how it ended.
func unfinished(err error) error {
	if errors.Is(err, io.EOF) {
		return errors.New("netd ended the call without saying how it went: see its log")
	}
	return err
}

func (a images) imagePush(path string) *cobra.Command {
	var o transferFlags
	cmd := &cobra.Command{
		Use: "push [flags] NAME[:TAG]...", Short: "Give images to registries", Args: cobra.MinimumNArgs(1),
		ValidArgsFunction: a.complete(imageNames, anyNumber),
		Example: "  net tag app:1 example.org:5000/team/app:1\n  net " + path +
			" example.org:5000/team/app:1",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.check(cmd); err != nil {
				return err
			}
			return a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
				return a.each(args, func(name string) (string, error) {
					return "", about("push", name, a.push(ctx, c, name, o))
				})
			})(cmd, args)
		},
	}
	o.flags(cmd, "print the manifest's digest only")
	return cmd
}

func (a images) push(ctx context.Context, c *client.Client, name string, o transferFlags) error {
	creds, err := a.credentials(ctx, c, name, true)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.Images.Push(ctx, &apiv1.PushRequest{Reference: name, Credentials: creds})
	if err != nil {
		return err
	}
	m, err := follow(a.App, o, stream, func(m *apiv1.PushResponse) bool { return m.GetPushed() != nil })
	pushed := m.GetPushed()
	switch {
	case err != nil:
		return err
	case o.quiet:
		return show.Println(a.Out, pushed.GetDigest())
	case o.progress == progress.JSON:
		return show.JSON(a.Out, map[string]any{"reference": pushed.GetReference(), "digest": pushed.GetDigest(),
			"size": pushed.GetSize()})
	}
	_, err = show.Printf(a.Out, "%s: digest: %s size: %d\n", pushed.GetReference(), pushed.GetDigest(),
		pushed.GetSize())
	return err
}

// credentials are what the user has for the hosts that netd will ask for an image, and for no others.
func (a images) credentials(ctx context.Context, c *client.Client, name string, push bool) (
	[]*apiv1.RegistryCredential, error) {
	resp, err := c.Images.Hosts(ctx, &apiv1.RegistryHostsRequest{Reference: name, Push: push})
	if err != nil {
		return nil, err
	}
	var out []*apiv1.RegistryCredential
	for _, h := range resp.GetHosts() {
		of := ""
		if strings.HasPrefix(name, h.GetHost()+"/") {
			of = name
		}
		have, found, err := a.keyring().Find(ctx, h.GetHost(), of)
		if err != nil { // the image may be one that anybody can have
			show.Printf(a.Err, "net: warning: credentials for %s: %v\n", h.GetHost(), err)
		}
		if found {
			out = append(out, &apiv1.RegistryCredential{Host: h.GetHost(), Username: have.Username,
				Password: have.Password, IdentityToken: have.IdentityToken, RegistryToken: have.RegistryToken})
		}
	}
	return out, nil
}

// keyring is where this user's credentials are.
func (a *App) keyring() credential.Files { return credential.Files{Env: a.Env, UID: os.Getuid()} }

// pullFlags say when run and create pull.
type pullFlags struct {
	policy string
	transferFlags
}

// When a container's image is pulled.
const (
	pullAlways  = "always"
	pullMissing = "missing"
	pullNever   = "never"
)

func (o *pullFlags) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.policy, "pull", pullMissing, "when to pull the image: always, missing, never")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "do not show how a pull goes on")
	o.platformFlag(cmd)
	o.progress = progress.Auto
	show.Must(cmd.RegisterFlagCompletionFunc("pull", show.Fixed(pullAlways, pullMissing, pullNever)))
}

func (o *pullFlags) check() error {
	switch o.policy {
	case pullAlways, pullMissing, pullNever:
		return nil
	}
	return fmt.Errorf("--pull %q: use %s, %s or %s", o.policy, pullAlways, pullMissing, pullNever)
}

// ensureImage sees to it that a container's image is there, where its flags ask for it before netd finds it missing.
func (a images) ensureImage(ctx context.Context, c *client.Client, name string, o pullFlags) error {
	if o.policy == pullAlways {
		return a.pullFor(ctx, c, name, o)
	}
	if o.platform == "" {
		return nil
	}
	i, err := c.Images.Inspect(ctx, &apiv1.InspectImageRequest{Image: name})
	switch {
	case err == nil && onPlatform(i, o.platform):
		return nil
	case err == nil && o.policy == pullNever:
		return fmt.Errorf("image %s is here for %s, and --platform wants %s: pull that with 'net pull --platform %s "+
			"%s'", name, platformOf(i), o.platform, o.platform, name)
	case o.policy == pullNever:
		return client.Explain(err)
	}
	return a.pullFor(ctx, c, name, o)
}

// pullFor pulls on behalf of a container: standard output is its own.
func (a images) pullFor(ctx context.Context, c *client.Client, name string, o pullFlags) error {
	if o.quiet {
		_, err := a.pull(ctx, c, name, o.transferFlags)
		return about("pull", name, err)
	}
	return a.pullAndTell(ctx, c, name, o.transferFlags, a.Err)
}

func platformOf(i *apiv1.Image) string {
	return strings.TrimSuffix(strings.Join([]string{i.GetOs(), i.GetArchitecture(), i.GetVariant()}, "/"), "/")
}

// onPlatform reports whether an image is for a platform. Without a variant, any does.
func onPlatform(i *apiv1.Image, platform string) bool {
	have := platformOf(i)
	return have == platform || strings.HasPrefix(have, platform+"/")
}

// Command net-build is 'net build': it has BuildKit build images for netd. See docs/build.md.
package main

import (
	"context"
	"errors"
	"os"
	"os/signal"

	"github.com/containerd/log"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/api/client"
	"github.com/vethloom/vethloom/internal/build"
	"github.com/vethloom/vethloom/internal/build/builder"
	"github.com/vethloom/vethloom/internal/cli/show"
)

// Set by the linker.
var (
	version = "devel"
	commit  = "unknown"
)

// exitInterrupted is what shells make of SIGINT.
const exitInterrupted = 128 + int(unix.SIGINT)

func main() {
	called, err := builder.Called(os.Args[0])
	if !called {
		err = run()
	}
	switch {
	case errors.Is(err, context.Canceled):
		show.Printf(os.Stderr, "net: build: interrupted; nothing of it was loaded\n")
		os.Exit(exitInterrupted)
	case err != nil:
		show.Printf(os.Stderr, "net: build: %v\n", err)
		os.Exit(1)
	}
}

func run() error {
	// What libraries warn of is not about the build: what is, comes as an error.
	if err := log.SetLevel(log.ErrorLevel.String()); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer stop()
	context.AfterFunc(ctx, stop) // a second one ends this process at once
	return command().ExecuteContext(ctx)
}

func command() *cobra.Command {
	c := &build.Config{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Env: os.LookupEnv}
	cmd := &cobra.Command{
		Use: "net-build [flags] CONTEXT", Short: "Build an image by BuildKit, and load it into netd",
		Args: cobra.ExactArgs(1), Version: version + " (" + commit + ")", SilenceErrors: true, SilenceUsage: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			c.Context, c.Host = args[0], client.Host(c.Host)
			return build.Run(cmd.Context(), c)
		},
	}
	cmd.Flags().StringVarP(&c.Host, "host", "H", "", "netd's socket")
	c.Flags(cmd.Flags())
	return cmd
}

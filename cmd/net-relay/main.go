// net-relay answers dockerd in netd's name, also while that does not. netd starts it; it is not for people.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/vethloom/vethloom/internal/rootsocket"
	"github.com/vethloom/vethloom/plugin/docker/relay"
)

// listener is the descriptor of the socket.
const listener = 3

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "net-relay:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	flags := flag.NewFlagSet("net-relay", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	path := flags.String("path", "", "the socket that dockerd asks at")
	at := flags.String("place", "", "which file that is")
	netd := flags.String("netd", "", "the socket that netd answers at")
	if err := flags.Parse(args); err != nil {
		return fmt.Errorf("%w: it is started by netd", err)
	}
	place, err := relay.ParsePlace(*at)
	if err != nil {
		return fmt.Errorf("--place %q: %w: it is started by netd", *at, err)
	}
	l, err := net.FileListener(os.NewFile(listener, "dockerd's socket"))
	if err != nil {
		return fmt.Errorf("take the socket over: %w: it is started by netd", err)
	}
	u, ok := l.(*net.UnixListener)
	if !ok {
		return errors.New("the socket is none of Unix's: it is started by netd")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	ctx, let := relay.Hold(ctx, *path, place)
	defer let()
	return relay.Serve(ctx, rootsocket.Only(u), relay.New(*netd), slog.New(slog.DiscardHandler))
}

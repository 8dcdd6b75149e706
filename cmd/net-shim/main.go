// Two threads are enough, whatever the cgroup says: not looking saves time in
// the supervisor and in the container's first process.
//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0

// net-shim supervises one container, or holds what netd has open of tunnels. netd starts it; it is not for people.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime"

	"github.com/opencontainers/runc/libcontainer"
	_ "github.com/opencontainers/runc/libcontainer/nsenter" // joins namespaces before the Go runtime starts
	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/engine/shim"
	"github.com/vethloom/vethloom/engine/shim/server"
	"github.com/vethloom/vethloom/internal/handover"
)

func main() {
	command := ""
	if len(os.Args) > 1 {
		command = os.Args[1]
	}
	var err error
	switch command {
	case "init": // libcontainer runs this binary again as a container's first process
		if err = dieWithParent(); err == nil {
			libcontainer.Init()
		}
	case "run":
		err = run()
	case "hold":
		err = hold(os.Args[2:])
	default:
		err = fmt.Errorf("net-shim is started by netd: run 'net run' instead")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "net-shim:", err)
		os.Exit(1)
	}
}

// dieWithParent makes a container's first process end with its supervisor, and
// with it everything in its PID namespace: nothing lives on unseen. libcontainer's
// own setting is lost in the clones that enter the namespaces; this one it keeps
// up to the exec. Further commands need none, and their parent is any thread.
func dieWithParent() error {
	if os.Getenv("_LIBCONTAINER_INITTYPE") != "standard" {
		return nil
	}
	return unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0)
}

func run() error {
	// The parent that a death signal is about is a thread. This one makes the
	// container and lives as long as the process.
	runtime.LockOSThread()
	control, err := inherited(shim.ControlFD, net.FileConn)
	if err != nil {
		return err
	}
	listener, err := inherited(shim.ListenerFD, net.FileListener)
	if err != nil {
		return err
	}
	return server.New(slog.New(slog.NewTextHandler(os.Stderr, nil))).Run(control, listener)
}

// hold holds open files over the end of netd.
func hold(args []string) error {
	if len(args) != 1 {
		return errors.New("net-shim hold PATH is started by netd")
	}
	conn, err := inherited(handover.ControlFD, net.FileConn)
	if err != nil {
		return err
	}
	netd, ok := conn.(*net.UnixConn)
	if !ok {
		return errors.New("the connection to netd is none of Unix's")
	}
	signal.Ignore(unix.SIGHUP, unix.SIGINT, unix.SIGPIPE) // it goes on when netd's terminal goes
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	return handover.Run(ctx, netd, args[0], handover.Patience)
}

func inherited[T any](fd uintptr, use func(*os.File) (T, error)) (T, error) {
	f := os.NewFile(fd, "inherited")
	defer f.Close()
	v, err := use(f)
	if err != nil {
		return v, fmt.Errorf("use inherited descriptor %d: %w", fd, err)
	}
	return v, nil
}

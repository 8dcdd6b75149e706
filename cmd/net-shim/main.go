// net-shim supervises one container. netd starts it; it is not for people.
package main

import (
	"fmt"
	"log/slog"
	"net"
	"os"

	"github.com/opencontainers/runc/libcontainer"
	_ "github.com/opencontainers/runc/libcontainer/nsenter" // joins namespaces before the Go runtime starts

	"github.com/vethloom/vethloom/engine/shim"
	"github.com/vethloom/vethloom/engine/shim/server"
)

func main() {
	command := ""
	if len(os.Args) > 1 {
		command = os.Args[1]
	}
	var err error
	switch command {
	case "init": // libcontainer runs this binary again as a container's first process
		libcontainer.Init()
	case "run":
		err = run()
	default:
		err = fmt.Errorf("net-shim is started by netd: run 'net run' instead")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "net-shim:", err)
		os.Exit(1)
	}
}

func run() error {
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

func inherited[T any](fd uintptr, use func(*os.File) (T, error)) (T, error) {
	f := os.NewFile(fd, "inherited")
	defer f.Close()
	v, err := use(f)
	if err != nil {
		return v, fmt.Errorf("use inherited descriptor %d: %w", fd, err)
	}
	return v, nil
}

// net-copy reads or writes files of one container. netd starts it; it is not for people.
package main

import (
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/vethloom/vethloom/engine/copying"
	"github.com/vethloom/vethloom/engine/copying/worker"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "net-copy:", err)
		os.Exit(1)
	}
}

func run() error {
	f := os.NewFile(copying.ControlFD, "control")
	control, err := net.FileConn(f)
	if err != nil {
		return errors.New("net-copy is started by netd: run 'net cp' instead")
	}
	f.Close()
	return worker.Run(control, os.NewFile(copying.TargetFD, "container"), os.Stdin, os.Stdout)
}

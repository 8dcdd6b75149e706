package kerntest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// What marks the process that has a namespace of its own.
const (
	inMountNamespace = "VETHLOOM_TEST_MOUNT_NAMESPACE"
	inNetNamespace   = "VETHLOOM_TEST_NET_NAMESPACE"
)

// MountMain is the TestMain of a package whose tests mount: they run in a mount namespace of their own, so that what
// they mount is gone with them. run runs them there.
func MountMain(m *testing.M, run func(*testing.M)) {
	apart(m, inMountNamespace, &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}, run)
}

// NetMain is the TestMain of a package whose tests talk to servers of theirs from any goroutine: they run in a network
// namespace of their own, whose loopback link is up and has the given prefixes too. run runs them there.
func NetMain(m *testing.M, run func(*testing.M), prefixes ...string) {
	attr := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	apart(m, inNetNamespace, attr, func(m *testing.M) {
		commands := [][]string{{"link", "set", "lo", "up"}}
		for _, p := range prefixes {
			commands = append(commands, []string{"addr", "add", p, "dev", "lo"})
		}
		for _, c := range commands {
			// A worker of a fuzz test is in the namespace of its parent, which has done this.
			out, err := exec.Command("ip", c...).CombinedOutput()
			if err != nil && os.Getenv(inNetNamespace+"_READY") == "" {
				fmt.Fprintf(os.Stderr, "ip %v: %v: %s", c, err, out)
				os.Exit(1)
			}
		}
		os.Setenv(inNetNamespace+"_READY", "1")
		run(m)
	})
}

// apart runs the tests in a process with namespaces of its own.
func apart(m *testing.M, mark string, attr *syscall.SysProcAttr, run func(*testing.M)) {
	if os.Getenv(mark) != "" {
		run(m)
		return
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), mark+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = attr
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		os.Exit(exit.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "run the tests in namespaces of their own (they need root):", err)
		os.Exit(1)
	}
}

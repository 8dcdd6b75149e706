package kerntest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

const inNamespace = "VETHLOOM_TEST_MOUNT_NAMESPACE"

// MountMain is the TestMain of a package whose tests mount: they run in a mount namespace of their own, so that what
// they mount is gone with them. run runs them there.
func MountMain(m *testing.M, run func(*testing.M)) {
	if os.Getenv(inNamespace) != "" {
		run(m)
		return
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inNamespace+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		os.Exit(exit.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "run the tests in a mount namespace (they need root):", err)
		os.Exit(1)
	}
}

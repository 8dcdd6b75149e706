package kerntest

import (
	"errors"
	"fmt"
	"os/exec"
	"testing"
)

// Namespace makes another network namespace, for the rest of the test, and returns its path.
func (e *Env) Namespace(t *testing.T) string {
	t.Helper()
	return "/proc/" + namespace(t) + "/ns/net"
}

// namespace starts a process in a namespace of its own and returns its number.
func namespace(t *testing.T) string {
	t.Helper()
	cmd := exec.Command("unshare", "--net", "sh", "-c", "echo; exec cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(in.Close(), cmd.Wait()); err != nil {
			t.Error(err)
		}
	})
	if _, err := out.Read(make([]byte, 1)); err != nil { // the namespace is there
		t.Fatal(err)
	}
	return fmt.Sprint(cmd.Process.Pid)
}

package kern_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/vethloom/vethloom/internal/kern/kerntest"
)

// TestFlanneld looks for programs of that name with the flags that flanneld has.
func TestFlanneld(t *testing.T) {
	env := kerntest.New(t)
	k := open(t, env)
	program := filepath.Join(t.TempDir(), "flanneld")
	if err := os.WriteFile(program, []byte("#!/bin/sh\necho runs\nread end\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	const dir = "/test/flanneld" // no other flanneld of the machine has it
	for _, c := range []struct {
		args, env []string
		runs      bool
	}{
		{args: []string{"-etcd-prefix=" + dir}, runs: true},
		{args: []string{"--etcd-prefix", dir + "/", "-iface=eth0"}, runs: true},
		{env: []string{"FLANNELD_ETCD_PREFIX=" + dir}, runs: true},
		{args: []string{"-etcd-prefix=/test/other"}, env: []string{"FLANNELD_ETCD_PREFIX=" + dir}},
		{args: []string{"-etcd-prefix=" + dir, "-kube-subnet-mgr"}},
		{args: []string{"-iface=eth0"}},
	} {
		cmd := exec.Command(program, c.args...)
		cmd.Env = append(os.Environ(), c.env...)
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := env.Do("", cmd.Start); err != nil {
			t.Fatal(err)
		}
		// Start returns before the kernel has put the arguments into place.
		if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil {
			t.Fatalf("the program does not run: %q, %v", line, err)
		}
		want := ""
		if c.runs {
			want = fmt.Sprintf("flanneld (pid %d)", cmd.Process.Pid)
		}
		if got := k.Flanneld(dir); got != want {
			t.Errorf("with %q and %q: %q, not %q", c.args, c.env, got, want)
		}
		stdin.Close()
		cmd.Wait() //nolint:errcheck // it ends with what read says
	}
	if got := k.Flanneld(dir); got != "" {
		t.Errorf("when all have ended: %q", got)
	}
}

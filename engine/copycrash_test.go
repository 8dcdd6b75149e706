package engine_test

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine"
	"github.com/vethloom/vethloom/engine/shim/shimtest"
	"github.com/vethloom/vethloom/internal/await"
)

// victimCopies has the victim copy into containers without an end.
const victimCopies = "VETHLOOM_TEST_VICTIM_COPIES"

func copyForEver(e *engine.Engine) error {
	ctx := context.Background()
	none := []cnm.AttachRequest{{Network: "host"}}
	running, _, err := e.Create(ctx, engine.Spec{Name: "long", Image: "busybox", Networks: none,
		Command: []string{"sleep", "1000"}})
	if err == nil {
		err = e.Start(ctx, running.ID)
	}
	if err != nil {
		return err
	}
	stopped, _, err := e.Create(ctx, engine.Spec{Name: "new", Image: "busybox", Networks: none, Command: sh("true")})
	if err != nil {
		return err
	}
	var never chan error
	for _, c := range []engine.Container{running, stopped} {
		r, w := io.Pipe()
		go func() { fmt.Fprintln(os.Stderr, e.CopyIn(ctx, c.ID, "/tmp", engine.CopyInOptions{}, r)) }()
		if err := tar.NewWriter(w).WriteHeader(&tar.Header{Name: "large", Size: 1 << 30}); err != nil {
			return err
		}
	}
	return <-never
}

// copiersOf lists the processes that a netd has for copying and that are in their containers.
func copiersOf(pid int) []string {
	var out []string
	all, _ := filepath.Glob("/proc/[0-9]*/status")
	for _, path := range all {
		b, _ := os.ReadFile(path)
		if text := string(b); strings.HasPrefix(text, "Name:\tnet-copy\n") && (pid == 0 ||
			strings.Contains(text, fmt.Sprintf("\nPPid:\t%d\n", pid))) {
			proc := filepath.Dir(path)
			if root, err := os.Readlink(proc + "/root"); err == nil && root != "/" {
				out = append(out, proc)
			}
		}
	}
	return out
}

// A netd that is killed while it copies leaves no process, and with none no mount.
func TestKilledWhileItCopies(t *testing.T) {
	copier := shimtest.Copier(t)
	dir := newVictimDir(t)
	if err := os.Link(copier, filepath.Join(dir, "net-copy")); err != nil {
		t.Fatal(err)
	}
	cmd := victimCommand(dir, 0)
	cmd.Env = append(cmd.Env, victimCopies+"=1")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var copiers []string
	both := await.Holds(func() bool { copiers = copiersOf(cmd.Process.Pid); return len(copiers) == 2 })
	if err := cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	if err, ok := cmd.Wait().(*exec.ExitError); !ok {
		t.Errorf("the victim ended with %v", err)
	}
	if !both {
		t.Errorf("it never copied: %v", copiers)
	}
	for _, proc := range copiers {
		await.True(t, "the end of "+proc, func() bool { _, err := os.Stat(proc + "/root/tmp"); return err != nil })
	}
	converges(t, dir, "killed while it copied")
}

package shim_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vethloom/vethloom/engine/shim"
	"github.com/vethloom/vethloom/internal/await"
)

// What one supervisor may keep in memory, in KiB: as it was started, and once it has run further commands. They leave
// threads, and for a while the end of their output.
const (
	maxResident  = 10 << 10
	maxAfterExec = 12 << 10
)

// TestSupervisorStaysSmall waits for the supervisor to give back what only the
// start needed.
func TestSupervisorStaysSmall(t *testing.T) {
	b := newBench(t, "sleep", "1000")
	child, err := b.launcher.Launch(b.dir, filepath.Join(b.dir, "shim.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer child.Release()
	if err := child.Create(t.Context(), b.bundle); err != nil {
		t.Fatal(err)
	}
	if _, err := child.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	smallAgain(t, "after the start", child.Pid(), maxResident)
	client := shim.Client{Dir: b.dir}
	for range 10 { // as many commands as are remembered, and more
		stream, err := client.Exec(t.Context(), rand.Text(), shim.Process{
			Args: []string{"dd", "if=/dev/zero", "bs=65536", "count=100"}}, false)
		if err != nil {
			t.Fatal(err)
		}
		if got := collect(t, stream); len(got.out) != 100<<16 {
			t.Errorf("%d bytes of output", len(got.out))
		}
		stream.Close()
	}
	smallAgain(t, "after commands with much output", child.Pid(), maxAfterExec)
	if err := client.Kill(t.Context(), "", 9); err != nil {
		t.Fatal(err)
	}
	if exit, err := child.Exit(); err != nil || exit.Code != 137 || exit.Signal != 9 {
		t.Errorf("exit %+v, %v", exit, err)
	}
	if err := child.Reap(context.WithoutCancel(t.Context())); err != nil {
		t.Error(err)
	}
}

// smallAgain waits until the supervisor is small.
func smallAgain(t *testing.T, when string, pid, most int) {
	t.Helper()
	resident := 0
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(await.Patience)
	for resident == 0 || resident > most {
		select {
		case <-ticker.C:
			resident = residentKiB(t, pid)
		case <-deadline:
			t.Fatalf("%s the supervisor has %d KiB resident, want at most %d", when, resident, most)
		}
	}
	t.Logf("resident %s: %d KiB", when, resident)
}

func residentKiB(t *testing.T, pid int) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		var kib int
		if n, _ := fmt.Sscanf(line, "VmRSS: %d kB", &kib); n == 1 {
			return kib
		}
	}
	t.Fatal("no VmRSS")
	return 0
}

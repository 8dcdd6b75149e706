package shim_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vethloom/vethloom/engine/shim"
	"github.com/vethloom/vethloom/internal/await"
)

// maxResident is what one supervisor may keep in memory, in KiB.
const maxResident = 10 << 10

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
	resident := 0
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(await.Patience)
	for resident == 0 || resident > maxResident {
		select {
		case <-ticker.C:
			resident = residentKiB(t, child.Pid())
		case <-deadline:
			t.Fatalf("the supervisor has %d KiB resident, want at most %d", resident, maxResident)
		}
	}
	t.Logf("resident: %d KiB", resident)
	client := shim.Client{Dir: b.dir}
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

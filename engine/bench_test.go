package engine_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/vethloom/vethloom/engine"
	"github.com/vethloom/vethloom/engine/shim/shimtest"
)

// BenchmarkRun runs true in a container, from the request to the settled exit,
// and removes it.
func BenchmarkRun(b *testing.B) {
	w := newWorld(b)
	for b.Loop() {
		w.mustRun(engine.Spec{Command: []string{"true"}, Remove: true}, "")
	}
}

// BenchmarkRunc is the yardstick: the same with runc alone, its process included.
func BenchmarkRunc(b *testing.B) {
	dir := b.TempDir()
	if err := os.Rename(shimtest.Rootfs(b), filepath.Join(dir, "rootfs")); err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command("runc", "spec")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	config := filepath.Join(dir, "config.json")
	text, err := os.ReadFile(config)
	if err != nil {
		b.Fatal(err)
	}
	text = bytes.Replace(text, []byte(`"terminal": true`), []byte(`"terminal": false`), 1)
	text = bytes.Replace(text, []byte(`"sh"`), []byte(`"true"`), 1)
	if err := os.WriteFile(config, text, 0o600); err != nil {
		b.Fatal(err)
	}
	for i := 0; b.Loop(); i++ {
		cmd := exec.Command("runc", "run", fmt.Sprintf("bench-%d-%d", os.Getpid(), i))
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("%v: %s", err, out)
		}
	}
}

package daemon

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/vethloom/vethloom/engine/registry"
)

// Credentials of a build do not outlive the netd that was killed during it.
func TestCredentialsOfAKilledBuildAreRemoved(t *testing.T) {
	run := t.TempDir()
	left, err := os.MkdirTemp(run, buildPrefix)
	if err != nil {
		t.Fatal(err)
	}
	if err := writeCredentials(left, []registry.Credential{{Host: "docker.io", Password: "secret"}}); err != nil {
		t.Fatal(err)
	}
	for _, kept := range []string{"containers", buildPrefix + "file"} {
		if err := os.WriteFile(filepath.Join(run, kept), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	listeners, err := listenDocker(t.Context(), Config{Run: run})
	if err != nil || len(listeners) > 0 {
		t.Fatalf("listen nowhere: %v, %v", listeners, err)
	}
	all, err := os.ReadDir(run)
	if err != nil || len(all) != 2 || all[0].Name() != buildPrefix+"file" || all[1].Name() != "containers" {
		t.Errorf("left are %v, %v", all, err)
	}
}

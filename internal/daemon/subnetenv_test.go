package daemon_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/internal/await"
)

// What subnet.env a node writes is its own setting, by the network's name.
func TestSubnetEnv(t *testing.T) {
	w := newWorld(t)
	file := filepath.Join(t.TempDir(), "run", "subnet.env")
	w.cfg.SubnetEnv = "vxlan=" + file
	w.join()
	w.shared("vxlan", pool("10.92.0.0/16"))
	w.shared("host-gw", pool("10.93.0.0/16"))
	await.True(t, "subnet.env is written", func() bool { _, err := os.Stat(file); return err == nil })
	text, err := os.ReadFile(file)
	if err != nil || !strings.Contains(string(text), "FLANNEL_NETWORK=10.92.0.0/16\nFLANNEL_SUBNET=10.92.") ||
		!strings.Contains(string(text), ".1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n") {
		t.Errorf("subnet.env, %v:\n%s", err, text)
	}
	if files, err := os.ReadDir(filepath.Dir(file)); err != nil || len(files) != 1 {
		t.Errorf("%v, %v: one file was asked for", files, err)
	}
	w.removeNetwork("vxlan")
	w.removeNetwork("host-gw")
	for _, flag := range []string{"pods", "=/x", "pods=relative", "pods=/a,pods=/b", "a/b=/x", ","} {
		w.cfg.SubnetEnv = flag
		if err := w.cfg.Config.Check(); err == nil || !strings.Contains(err.Error(), "--subnet-env") {
			t.Errorf("--subnet-env %q: %v", flag, err)
		}
	}
}

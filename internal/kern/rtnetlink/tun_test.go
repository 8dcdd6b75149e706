package rtnetlink

import (
	"errors"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/plan"
	"golang.org/x/sys/unix"
)

// TestTUNMissing looks for what is said on a host without the device.
func TestTUNMissing(t *testing.T) {
	_, err := MakeTUN(t.TempDir()+"/tun", "vlt-1")
	if !errors.Is(err, plan.ErrUnsupported) || !strings.Contains(err.Error(), "load the kernel module tun") {
		t.Errorf("no device: %v", err)
	}
	if err := tunError(TUNDevice, unix.EPERM); !errors.Is(err, unix.EPERM) ||
		!strings.Contains(err.Error(), "devices cgroup") {
		t.Errorf("a device that is forbidden: %v", err)
	}
}

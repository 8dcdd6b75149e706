package engine_test

import (
	"os"
	"os/exec"
	"testing"
)

// TestUnifiedHierarchy lives through a container's life with cgroups v2 alone,
// as most hosts have it: in a mount namespace where that is what is mounted.
// (Controllers that the host uses with v1 are missing there, so no limits.)
func TestUnifiedHierarchy(t *testing.T) {
	unified(t, "^(TestBackgroundLife|TestPause|TestSupervisorKilled|TestUserNamespace|TestDevices|TestDeviceRules|"+
		"TestCgroupParent|TestNothingOutlivesASharedPIDNamespace)$")
}

// unified runs tests of this package where only cgroups v2 are mounted.
func unified(t *testing.T, tests string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	const script = `mount --make-rprivate / && { umount -R /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup; } &&
		VETHLOOM_UNIFIED=1 exec "$0" -test.run "$1"`
	if out, err := exec.Command("unshare", "--mount", "sh", "-c", script, self, tests).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

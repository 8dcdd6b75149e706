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
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	const script = `mount --make-rprivate / && { umount -R /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup; } &&
		exec "$0" -test.run '^(TestBackgroundLife|TestPause|TestSupervisorKilled|TestUserNamespace)$'`
	if out, err := exec.Command("unshare", "--mount", "sh", "-c", script, self).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

package box

import (
	"errors"
	"fmt"
	"os"

	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/engine/shim"
	"github.com/vethloom/vethloom/internal/thread"
)

func idMaps(m shim.IDMap) []configs.IDMap {
	return []configs.IDMap{{ContainerID: 0, HostID: int64(m.HostID), Size: int64(m.Size)}}
}

// setSysctls writes settings of a network namespace that the container's own
// user namespace does not own, so that libcontainer cannot.
func setSysctls(netns string, settings map[string]string) error {
	err := errors.New("the thread has ended")
	thread.Run(func() bool { err = inNetNS(netns, settings); return false })
	return err
}

func inNetNS(netns string, settings map[string]string) error {
	f, err := os.Open(netns)
	if err != nil {
		return fmt.Errorf("open the network namespace: %w", err)
	}
	defer f.Close()
	if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter the network namespace: %w", err)
	}
	for name, value := range settings {
		if err := os.WriteFile("/proc/sys/"+slashed(name), []byte(value), 0); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	return nil
}

// hostSys is the host's sysfs without what is mounted in it, for containers
// that may not mount their own (see systemMounts).
func hostSys(stateDir string) (string, error) {
	dir := stateDir + "-sys"
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return "", err
	}
	if err := unix.Mount("/sys", dir, "", unix.MS_BIND, ""); err != nil {
		return "", fmt.Errorf("show the container the host's /sys: %w", err)
	}
	return dir, nil
}

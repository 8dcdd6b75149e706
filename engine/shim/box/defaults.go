package box

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/moby/profiles/seccomp"
	"github.com/moby/sys/capability"
	devices "github.com/opencontainers/cgroups/devices/config"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/engine/shim"
)

const safeFlags = unix.MS_NOEXEC | unix.MS_NOSUID | unix.MS_NODEV

// systemMounts are the file systems every container finds.
func systemMounts(b shim.Bundle) []*configs.Mount {
	ro := unix.MS_RDONLY
	if b.Privileged {
		ro = 0
	}
	mounts := []*configs.Mount{
		{Source: "proc", Destination: "/proc", Device: "proc", Flags: safeFlags},
		{Source: "tmpfs", Destination: "/dev", Device: "tmpfs", Flags: unix.MS_NOSUID | unix.MS_STRICTATIME,
			Data: "mode=755,size=65536k"},
		{Source: "devpts", Destination: "/dev/pts", Device: "devpts", Flags: unix.MS_NOSUID | unix.MS_NOEXEC,
			Data: "newinstance,ptmxmode=0666,mode=0620,gid=5"},
		{Source: "mqueue", Destination: "/dev/mqueue", Device: "mqueue", Flags: safeFlags},
		{Source: "shm", Destination: "/dev/shm", Device: "tmpfs", Flags: safeFlags, Data: "mode=1777,size=67108864"},
	}
	// sysfs belongs to a network namespace: a process may mount it only when its
	// user namespace owns that one, so a container with a user namespace of its
	// own, in a network namespace made by netd, sees the host's instead.
	if b.IDMap != nil {
		mounts = append(mounts, &configs.Mount{Source: b.StateDir + "-sys", Destination: "/sys", Device: "bind",
			Flags: unix.MS_BIND | safeFlags | unix.MS_RDONLY})
	} else {
		mounts = append(mounts, &configs.Mount{Source: "sysfs", Destination: "/sys", Device: "sysfs",
			Flags: safeFlags | ro})
	}
	return append(mounts, &configs.Mount{Source: "cgroup", Destination: "/sys/fs/cgroup", Device: "cgroup",
		Flags: safeFlags | unix.MS_RELATIME | ro})
}

func maskedPaths() []string {
	return []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
		"/sys/devices/virtual/powercap", "/sys/firmware",
	}
}

func readonlyPaths() []string {
	return []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}

// initCapabilities are those of the container's first process. Nothing is
// inheritable (CVE-2022-24769).
func initCapabilities(caps []string) *configs.Capabilities {
	return &configs.Capabilities{Bounding: caps, Permitted: caps, Effective: caps}
}

// allCapabilities are those this process could give.
func allCapabilities() ([]string, error) {
	own, err := capability.NewPid2(0)
	if err == nil {
		err = own.Load()
	}
	if err != nil {
		return nil, fmt.Errorf("learn the shim's capabilities: %w", err)
	}
	var out []string
	for _, c := range capability.ListKnown() {
		if own.Get(capability.BOUNDING, c) {
			out = append(out, "CAP_"+strings.ToUpper(c.String()))
		}
	}
	return out, nil
}

// forUser drops from the sets what execve would drop for a user.
func forUser(c *configs.Capabilities, uid int) *configs.Capabilities {
	if uid == 0 {
		return c
	}
	return &configs.Capabilities{Bounding: c.Bounding}
}

var specconvMaps sync.Mutex // SetupSeccomp fills a package-level table at first use

// seccompProfile is the default profile for these capabilities. Each architecture in it
// takes libseccomp milliseconds of every start, more than linearly: 4, 14 and 22 of
// them for one, two and three. So it has the native one, with compat its 32-bit sister, and
// never x32, which next to no kernel is built with. What is not in the filter is refused.
func seccompProfile(caps []string, compat bool) (*configs.Seccomp, error) {
	specconvMaps.Lock()
	defer specconvMaps.Unlock()
	profile, err := seccomp.GetDefaultProfile(&specs.Spec{
		Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: caps}},
	})
	if err != nil {
		return nil, err
	}
	archs := slices.DeleteFunc(profile.Architectures, func(a specs.Arch) bool { return a == specs.ArchX32 })
	if !compat && len(archs) > 1 {
		archs = archs[:1] // the native one comes first
	}
	profile.Architectures = archs
	return specconv.SetupSeccomp(profile)
}

// hostDevices lists the device nodes in the host's /dev, without the terminals
// and the shared memory that a container has its own of.
func hostDevices() ([]*devices.Device, error) {
	var out []*devices.Device
	own := map[string]bool{"/dev/pts": true, "/dev/shm": true, "/dev/mqueue": true, "/dev/fd": true,
		"/dev/console": true, "/dev/ptmx": true}
	err := filepath.WalkDir("/dev", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil && path != "/dev":
			return nil // it went away while we looked
		case err != nil:
			return err
		case own[path] && d.IsDir():
			return fs.SkipDir
		case own[path] || d.Type()&fs.ModeDevice == 0:
			return nil
		}
		dev, err := deviceAt(path)
		if err == nil {
			out = append(out, dev)
		}
		return nil
	})
	return out, err
}

func deviceAt(path string) (*devices.Device, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return nil, &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	kind := devices.CharDevice
	if st.Mode&unix.S_IFMT == unix.S_IFBLK {
		kind = devices.BlockDevice
	}
	return &devices.Device{
		Path: path, FileMode: os.FileMode(st.Mode & 0o7777), Uid: st.Uid, Gid: st.Gid,
		Rule: devices.Rule{
			Type: kind, Major: int64(unix.Major(uint64(st.Rdev))), Minor: int64(unix.Minor(uint64(st.Rdev))),
			Permissions: "rwm", Allow: true,
		},
	}, nil
}

func slashed(sysctl string) string { return strings.ReplaceAll(sysctl, ".", "/") }

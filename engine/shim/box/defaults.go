package box

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/moby/profiles/seccomp"
	"github.com/moby/sys/capability"
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
	}
	mounts = append(mounts, sharedMemory(b)...)
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

// sharedMemory is what is at /dev/shm.
func sharedMemory(b shim.Bundle) []*configs.Mount {
	source := ""
	switch b.Namespaces.Shm {
	case "":
		size := b.ShmSize
		if size == 0 {
			size = shim.DefaultShmSize
		}
		return []*configs.Mount{{Source: "shm", Destination: shmDir, Device: "tmpfs", Flags: safeFlags,
			Data: fmt.Sprintf("mode=1777,size=%d", size)}}
	case shim.NoNamespace:
		return nil
	case shim.HostNamespace:
		source = shmDir
	default: // see joinShm
		source = shmOf(b)
	}
	return []*configs.Mount{{Source: source, Destination: shmDir, Device: "bind",
		Flags: unix.MS_BIND | unix.MS_REC, PropagationFlags: []int{unix.MS_PRIVATE | unix.MS_REC}}}
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

// seccompProfile is the filter for a container: the one asked for, or the default for its capabilities.
func seccompProfile(b shim.Bundle) (*configs.Seccomp, error) {
	if b.Seccomp == shim.Unconfined || b.Privileged && b.Seccomp == "" {
		return nil, nil
	}
	specconvMaps.Lock()
	defer specconvMaps.Unlock()
	spec := &specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: b.Caps}}}
	var profile *specs.LinuxSeccomp
	var err error
	if b.Seccomp == "" {
		profile, err = defaultProfile(spec, b.Compat)
	} else {
		profile, err = seccomp.LoadProfile(b.Seccomp, spec)
	}
	if err != nil {
		return nil, err
	}
	return specconv.SetupSeccomp(profile)
}

// defaultProfile is the usual one. Each architecture in it
// takes libseccomp milliseconds of every start, more than linearly: 4, 14 and 22 of
// them for one, two and three. So it has the native one, with compat its 32-bit sister, and
// never x32, which next to no kernel is built with. What is not in the filter is refused.
func defaultProfile(spec *specs.Spec, compat bool) (*specs.LinuxSeccomp, error) {
	profile, err := seccomp.GetDefaultProfile(spec)
	if err != nil {
		return nil, err
	}
	archs := slices.DeleteFunc(profile.Architectures, func(a specs.Arch) bool { return a == specs.ArchX32 })
	if !compat && len(archs) > 1 {
		archs = archs[:1] // the native one comes first
	}
	profile.Architectures = archs
	return profile, nil
}

func slashed(sysctl string) string { return strings.ReplaceAll(sysctl, ".", "/") }

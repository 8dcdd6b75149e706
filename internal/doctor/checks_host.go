package doctor

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

func cgroups(f Facts) []Finding {
	const check = "cgroups"
	if f.Cgroup == "" {
		return finding(check, Error, "none mounted: containers cannot be limited or stopped as a whole",
			"mount -t cgroup2 none /sys/fs/cgroup")
	}
	var missing []string
	for _, c := range []string{"cpu", "memory", "pids"} {
		if !slices.Contains(f.Controllers, c) {
			missing = append(missing, c)
		}
	}
	if len(missing) == 0 {
		return fine(check, f.Cgroup+" with "+strings.Join(f.Controllers, ", "))
	}
	remedy := "boot with cgroup_enable=memory in GRUB_CMDLINE_LINUX (/etc/default/grub), then: update-grub && reboot"
	if f.Cgroup == "v2" {
		remedy = "echo '+" + strings.Join(missing, " +") +
			"' > /sys/fs/cgroup/cgroup.subtree_control; in a systemd unit: Delegate=yes"
	}
	return finding(check, Warning, fmt.Sprintf("%s without %s: those limits cannot be set", f.Cgroup,
		strings.Join(missing, ", ")), remedy)
}

// isolation checks what containers are kept apart with.
func isolation(f Facts) []Finding {
	var out []Finding
	add := func(check string, ok bool, s Severity, found, remedy string) {
		if ok {
			out = append(out, fine(check, "available")...)
			return
		}
		out = append(out, finding(check, s, found, remedy)...)
	}
	add("overlayfs", f.Overlay, Error, "the kernel knows no overlay file system: images cannot be mounted",
		"modprobe overlay")
	add("seccomp", f.Seccomp, Warning, "the kernel filters no system calls: containers run without the default profile",
		"install a kernel with CONFIG_SECCOMP_FILTER=y: apt install linux-image-amd64")
	add("user namespaces", f.UserNS > 0, Info, "none may be made: --userns does not work",
		"sysctl -w user.max_user_namespaces=15000")
	return out
}

func security(f Facts) []Finding {
	switch {
	case f.SELinux == "enforcing":
		return finding("security module", Warning, "SELinux is enforcing: it may deny containers their files",
			"ausearch -m avc -ts recent shows what is denied; to see whether it is the cause: setenforce 0")
	case f.SELinux != "":
		return fine("security module", "SELinux, "+f.SELinux)
	case f.AppArmor:
		return fine("security module", "AppArmor")
	}
	return fine("security module", "none")
}

// Limits: a published port takes a descriptor a family, and a container a few.
const (
	minOpenFiles = 16384
	minInotify   = 256
)

func limits(f Facts) []Finding {
	var out []Finding
	switch {
	case f.OpenFiles == 0:
	case f.OpenFiles < minOpenFiles:
		out = append(out, finding("open files", Warning,
			fmt.Sprintf("netd may have %d: every published port takes two", f.OpenFiles),
			fmt.Sprintf("ulimit -n %d before netd; in a systemd unit: LimitNOFILE=1048576", 4*minOpenFiles))...)
	default:
		out = append(out, fine("open files", fmt.Sprintf("up to %d", f.OpenFiles))...)
	}
	switch {
	case f.InotifyInstances == 0:
	case f.InotifyInstances < minInotify:
		out = append(out, finding("inotify", Info,
			fmt.Sprintf("%d instances a user: programs in containers may run out", f.InotifyInstances),
			"sysctl -w fs.inotify.max_user_instances=1024")...)
	default:
		out = append(out, fine("inotify", fmt.Sprintf("%d instances a user", f.InotifyInstances))...)
	}
	return out
}

// Room for state: a record is small, an image is not.
const (
	lowDisk  = 1 << 30
	fullDisk = 64 << 20
)

func disk(f Facts) []Finding {
	const check = "disk space"
	if f.DiskTotal == 0 {
		return nil
	}
	found := fmt.Sprintf("%d MiB of %d MiB free in %s", f.DiskFree>>20, f.DiskTotal>>20, f.StateDir)
	remedy := "see what takes the room: du -xh -d2 " + f.StateDir +
		" | sort -h; then remove containers and images you do not need: net rm, net rmi"
	switch {
	case f.DiskFree < fullDisk:
		return finding(check, Error, found+": state cannot be written", remedy)
	case f.InodesTotal > 0 && f.Inodes*100 < f.InodesTotal:
		return finding(check, Warning, fmt.Sprintf("%d of %d inodes free in %s", f.Inodes, f.InodesTotal, f.StateDir),
			"df -i "+f.StateDir)
	case f.DiskFree < lowDisk:
		return finding(check, Warning, found, remedy)
	}
	return fine(check, found)
}

func clock(f Facts) []Finding {
	const check = "clock"
	switch {
	case f.Now.IsZero():
		return nil
	case f.Now.Before(time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)):
		return finding(check, Error, "it is "+f.Now.UTC().Format(
			time.RFC3339)+" here: certificates and leases will be taken for expired or not yet valid",
			"timedatectl set-ntp true")
	case f.ClockUnsynced:
		return finding(check, Info, "not synchronised: what several hosts log is hard to compare",
			"timedatectl set-ntp true")
	}
	return fine(check, "synchronised")
}

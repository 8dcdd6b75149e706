package engine

import (
	"maps"
	"slices"
	"strings"
)

// ipcSysctls are those that each IPC namespace has of its own, besides fs.mqueue.*.
var ipcSysctls = []string{
	"kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem",
	"kernel.shmall", "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced",
}

const sysctlsOfContainers = "a container has kernel.msg*, kernel.sem, kernel.shm*, fs.mqueue.* and net.* of its own"

// checkSysctls refuses those that would change the host, or another container.
func checkSysctls(s Spec) error {
	for _, name := range slices.Sorted(maps.Keys(s.Sysctls)) {
		value := s.Sysctls[name]
		ofNetwork := strings.HasPrefix(name, "net.")
		switch {
		case !sysctlName(name):
			return invalid("sysctl", name, "not a name", "write it with dots, as net.ipv4.ip_forward=1")
		case value == "" || strings.ContainsAny(value, "\n\x00"):
			return invalid("sysctl", name+"="+value, "not a value", "write NAME=VALUE, in one line")
		case !ofNetwork && !strings.HasPrefix(name, "fs.mqueue.") && !slices.Contains(ipcSysctls, name):
			return invalid("sysctl", name, "it is the host's", sysctlsOfContainers)
		case ofNetwork && len(s.Networks) == 1 && s.Networks[0].Network == "host":
			return invalid("sysctl", name, "with network host, it is the host's",
				"choose another network, or set it on the host")
		case ofNetwork && joinedContainer(s) != "":
			return invalid("sysctl", name, "it is up to the container whose network is shared", "set it there")
		case ofNetwork && s.UserNS == "auto":
			return invalid("sysctl", name, "the network of a container with a user namespace cannot be set from inside",
				"leave out --userns, or the sysctl")
		}
	}
	return nil
}

// sysctlName reports whether every part of a name is one. A part cannot hold a slash, which
// would lead elsewhere below /proc/sys.
func sysctlName(name string) bool {
	for part := range strings.SplitSeq(name, ".") {
		if part == "" || strings.Trim(part,
			"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") != "" {
			return false
		}
	}
	return true
}

package shim

import "golang.org/x/sys/unix"

// MountFlag is what an option of mount(8) does to the flags of mount(2).
type MountFlag struct {
	Bit   int
	Clear bool // it takes the flag away
}

// TmpfsFlags are the options of a tmpfs that are flags. What is else in its options is data: see tmpfs(5).
func TmpfsFlags() map[string]MountFlag {
	return map[string]MountFlag{
		"ro": {unix.MS_RDONLY, false}, "rw": {unix.MS_RDONLY, true},
		"noexec": {unix.MS_NOEXEC, false}, "exec": {unix.MS_NOEXEC, true},
		"nosuid": {unix.MS_NOSUID, false}, "suid": {unix.MS_NOSUID, true},
		"nodev": {unix.MS_NODEV, false}, "dev": {unix.MS_NODEV, true},
		"noatime": {unix.MS_NOATIME, false}, "atime": {unix.MS_NOATIME, true},
		"nodiratime": {unix.MS_NODIRATIME, false}, "diratime": {unix.MS_NODIRATIME, true},
		"relatime": {unix.MS_RELATIME, false}, "norelatime": {unix.MS_RELATIME, true},
		"strictatime": {unix.MS_STRICTATIME, false}, "nostrictatime": {unix.MS_STRICTATIME, true},
		"sync": {unix.MS_SYNCHRONOUS, false}, "async": {unix.MS_SYNCHRONOUS, true},
	}
}

package main

import "golang.org/x/sys/unix"

// numbers are those of system calls that every 64-bit architecture has.
var numbers = map[string]uintptr{
	"open_by_handle_at": unix.SYS_OPEN_BY_HANDLE_AT, "add_key": unix.SYS_ADD_KEY, "keyctl": unix.SYS_KEYCTL,
	"request_key": unix.SYS_REQUEST_KEY, "bpf": unix.SYS_BPF, "perf_event_open": unix.SYS_PERF_EVENT_OPEN,
	"userfaultfd": unix.SYS_USERFAULTFD, "io_uring_setup": unix.SYS_IO_URING_SETUP, "init_module": unix.SYS_INIT_MODULE,
	"finit_module": unix.SYS_FINIT_MODULE, "delete_module": unix.SYS_DELETE_MODULE, "kexec_load": unix.SYS_KEXEC_LOAD,
	"reboot": unix.SYS_REBOOT, "swapon": unix.SYS_SWAPON, "acct": unix.SYS_ACCT, "mount": unix.SYS_MOUNT,
	"umount2": unix.SYS_UMOUNT2, "pivot_root": unix.SYS_PIVOT_ROOT, "setns": unix.SYS_SETNS,
	"open_tree": unix.SYS_OPEN_TREE, "fsopen": unix.SYS_FSOPEN, "move_mount": unix.SYS_MOVE_MOUNT,
	"quotactl": unix.SYS_QUOTACTL, "settimeofday": unix.SYS_SETTIMEOFDAY, "syslog": unix.SYS_SYSLOG,
	"clone3": unix.SYS_CLONE3, "vhangup": unix.SYS_VHANGUP, "lookup_dcookie": unix.SYS_LOOKUP_DCOOKIE,
	"fanotify_init": unix.SYS_FANOTIFY_INIT, "personality": unix.SYS_PERSONALITY,
}

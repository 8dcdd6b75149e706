package shim

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// End kills the supervisor of a container, whose first process is given, and leaves the container to its cgroup. It is
// the way out where the supervisor does not answer.
func End(pid int, cgroup string) error {
	if err := inCgroup(pid, cgroup); err != nil {
		return fmt.Errorf("find the supervisor: %w", err)
	}
	supervisor, err := parent(pid)
	if err != nil {
		return fmt.Errorf("find the supervisor: %w", err)
	}
	fd, err := unix.PidfdOpen(supervisor, 0)
	if err != nil {
		return fmt.Errorf("find the supervisor: %w", os.NewSyscallError("pidfd_open", err))
	}
	defer unix.Close(fd)
	// Still its parent: the descriptor is that of the supervisor, and of no later process with its number.
	again, err := parent(pid)
	if err != nil {
		return fmt.Errorf("find the supervisor: %w", err)
	}
	if again != supervisor || supervisor == 1 || supervisor == os.Getpid() {
		return fmt.Errorf("find the supervisor: process %d, the parent of process %d, is none", again, pid)
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil {
		return fmt.Errorf("kill the supervisor: %w", os.NewSyscallError("pidfd_send_signal", err))
	}
	return nil
}

// inCgroup refuses a process that is not in a container's cgroup: its number may be another's by now.
func inCgroup(pid int, cgroup string) error {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return err
	}
	for line := range bytes.Lines(text) {
		if parts := bytes.SplitN(bytes.TrimSpace(line), []byte(":"), 3); len(parts) == 3 &&
			filepath.Base(string(parts[2])) == filepath.Base(cgroup) {
			return nil
		}
	}
	return fmt.Errorf("process %d is not in the cgroup %s", pid, cgroup)
}

// parent reads a process's parent, the fourth field of proc_pid_stat(5). The name before it may hold anything.
func parent(pid int) (int, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	if len(fields) < 2 {
		return 0, fmt.Errorf("/proc/%d/stat has no parent: %q", pid, text)
	}
	return strconv.Atoi(string(fields[1]))
}

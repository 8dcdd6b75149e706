package shim

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// endTime bounds the wait for a supervisor that was killed. One that waits for a disk does not end before that answers.
const endTime = 10 * time.Second

// End kills the supervisor of a container, leaves the container to its cgroup, and returns once it is gone. It is the
// way out where the supervisor does not answer. pid is the container's first process, 0 where that is not known; log is
// what the supervisor has as its error output.
func End(pid int, cgroup, log string) error {
	supervisor, fd, err := openSupervisor(pid, cgroup, log)
	if err != nil {
		return fmt.Errorf("find the supervisor: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil {
		return fmt.Errorf("kill the supervisor, process %d: %w", supervisor,
			os.NewSyscallError("pidfd_send_signal", err))
	}
	if !gone(fd, endTime) {
		return fmt.Errorf("the supervisor, process %d, was killed and does not end: it is in state %s, and waits for "+
			"a disk perhaps", supervisor, ProcessState(supervisor))
	}
	return nil
}

// gone waits for a process to end, a pidfd being readable then (pidfd_open(2)). One that nobody has waited for yet,
// a zombie, has ended.
func gone(fd int, bound time.Duration) bool {
	for end := time.Now().Add(bound); ; {
		left := max(time.Until(end), 0)
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(left.Milliseconds()))
		if n > 0 || left == 0 || err != nil && !errors.Is(err, unix.EINTR) {
			return n > 0
		}
	}
}

// openSupervisor returns a descriptor that stands for the supervisor, and for no later process with its number.
func openSupervisor(pid int, cgroup, log string) (supervisor, fd int, err error) {
	find := func() (int, error) { return FindSupervisor(log) }
	if pid > 0 && inCgroup(pid, cgroup) == nil {
		find = func() (int, error) { return parent(pid) }
	}
	if supervisor, err = find(); err != nil {
		return 0, -1, err
	}
	if fd, err = unix.PidfdOpen(supervisor, 0); err != nil {
		return 0, -1, os.NewSyscallError("pidfd_open", err)
	}
	again, err := find()
	if err == nil && (again != supervisor || supervisor == 1 || supervisor == os.Getpid()) {
		err = fmt.Errorf("process %d, found in its place, is none", again)
	}
	if err != nil {
		unix.Close(fd)
		return 0, -1, err
	}
	return supervisor, fd, nil
}

// FindSupervisor looks for the supervisor by its error output, which no other process has.
func FindSupervisor(log string) (pid int, err error) {
	var want unix.Stat_t
	if err := unix.Stat(log, &want); err != nil {
		return 0, &os.PathError{Op: "stat", Path: log, Err: err}
	}
	all, err := os.ReadDir("/proc")
	if err != nil {
		return 0, err
	}
	for _, e := range all {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		var st unix.Stat_t
		if unix.Stat(fmt.Sprintf("/proc/%d/fd/2", pid), &st) != nil || st.Dev != want.Dev || st.Ino != want.Ino {
			continue
		}
		if args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil &&
			bytes.HasPrefix(args, []byte("net-shim\x00run\x00")) {
			return pid, nil
		}
	}
	return 0, fmt.Errorf("no process has %s as its error output", log)
}

// ProcessState is what a process is doing: R, S, D, T, Z and so on of proc_pid_stat(5), or - when there is none.
func ProcessState(pid int) string {
	fields, err := stat(pid)
	if err != nil {
		return "-"
	}
	return string(fields[0])
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

// parent reads a process's parent.
func parent(pid int) (int, error) {
	fields, err := stat(pid)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(string(fields[1]))
}

// stat reads proc_pid_stat(5) from the third field on. The name before it may hold anything.
func stat(pid int) ([][]byte, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	if len(fields) < 2 {
		return nil, fmt.Errorf("/proc/%d/stat has no parent: %q", pid, text)
	}
	return fields, nil
}

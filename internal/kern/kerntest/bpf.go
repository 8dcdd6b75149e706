package kerntest

import (
	"fmt"
	"os/exec"
	"unsafe"

	"golang.org/x/sys/unix"
)

// DenyBPF has calls of bpf(2) fail with an error, of the calling thread from now on and of what it starts: those with
// one of these commands, or all.
func DenyBPF(errno unix.Errno, commands ...uint32) error {
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}, // the number of the call
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_BPF, Jt: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	refuse := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(errno)}
	if len(commands) == 0 {
		filter = append(filter, refuse)
	} else {
		const argument = 16 // the offset of the first one
		filter = append(filter, unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: argument})
		for _, c := range commands {
			is := unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: c, Jf: 1}
			filter = append(filter, is, refuse)
		}
		filter = append(filter, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW})
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&prog)), 0, 0)
	if err != nil {
		return fmt.Errorf("deny bpf(2): %w", err)
	}
	return nil
}

// WithoutTCX denies what kernels before Linux 6.6 do not know of bpf(2).
func WithoutTCX() error {
	return DenyBPF(unix.EINVAL, unix.BPF_PROG_ATTACH, unix.BPF_PROG_DETACH, unix.BPF_PROG_QUERY)
}

// Start starts a program in a namespace, given as [Env.Do] takes it, on a kernel that takes something from the calling
// thread and what it starts: [WithoutTCX], say. Nil: the kernel has all.
func (e *Env) Start(ns string, kernel func() error, cmd *exec.Cmd) error {
	return e.Do(ns, func() error {
		if kernel != nil {
			if err := kernel(); err != nil {
				return err
			}
		}
		return cmd.Start()
	})
}

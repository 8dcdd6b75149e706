package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Process names a process for good: a number is used again, with another start.
type Process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks after boot, see proc_pid_stat(5)
}

// Alive reports whether the process still runs. One that has ended and waits for its parent does not.
func (p Process) Alive() bool {
	if p.PID == 0 {
		return false
	}
	start, state, err := stat(p.PID)
	return err == nil && start == p.Start && state != "Z" && state != "X"
}

// signal reaches this process or none: the handle is taken before its identity is checked.
func (p Process) signal(sig syscall.Signal) error {
	if p.PID == 0 {
		return os.ErrProcessDone
	}
	h, err := os.FindProcess(p.PID)
	if err != nil {
		return fmt.Errorf("signal process %d: %w", p.PID, err)
	}
	defer h.Release()
	if !p.Alive() {
		return os.ErrProcessDone
	}
	return h.Signal(sig)
}

// end signals the process and waits until it is gone.
func (p Process) end(ctx context.Context, sig syscall.Signal) error {
	if err := p.signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return until(ctx, fmt.Sprintf("process %d has ended", p.PID), func() (bool, error) { return !p.Alive(), nil })
}

// stat reads a process' start and state.
func stat(pid int) (start uint64, state string, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, "", err
	}
	// The name in parentheses may hold anything; the state follows the last of them.
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(f) < 20 {
		return 0, "", fmt.Errorf("/proc/%d/stat: %d fields", pid, len(f))
	}
	start, err = strconv.ParseUint(f[19], 10, 64)
	return start, f[0], err
}

// mark is an environment variable of all that a netlab starts for a lab. Down finds by it the commands that a killed
// netlab has left in the middle of their work: they are in no namespace and no cgroup of the lab.
func (l *state) mark() string { return "VETHLOOM_LAB=" + l.path() }

// run runs a command to its end; its error carries what the command said.
func (l *processes) run(ctx context.Context, args ...string) (string, error) {
	return l.runWith(ctx, "", args...)
}

func (l *processes) runWith(ctx context.Context, input string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), l.mark())
	if input != "" {
		cmd.Stdin = strings.NewReader(input)
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return string(out), nil
}

// in runs a command in a host's network namespace. Not by `ip netns exec`, which would
// also hide the cgroups below /sys.
func (l *processes) in(ctx context.Context, host string, args ...string) (string, error) {
	return l.run(ctx, append([]string{"nsenter", "--net=" + l.pin(host), "--"}, args...)...)
}

// ip runs commands of ip(8), one a line, in a host's network namespace.
func (l *processes) ip(ctx context.Context, host string, lines ...string) error {
	_, err := l.runWith(ctx, strings.Join(lines, "\n")+"\n", "nsenter", "--net="+l.pin(host), "--", "ip", "-batch", "-")
	return err
}

// background starts a daemon in a host's network namespace, in a session of its own, so that it
// outlives this process; init takes it over.
func (l *processes) background(ctx context.Context, host string, args ...string) (Process, error) {
	const script = `log=$1; shift; "$@" </dev/null >>"$log" 2>&1 & echo $!`
	cmd := exec.CommandContext(ctx, "nsenter",
		append([]string{"--net=" + l.pin(host), "--", "setsid", "sh", "-c", script, "sh", l.Log(host)}, args...)...)
	cmd.Env = append(append(os.Environ(), l.Environ(host)...), l.mark())
	out, err := cmd.Output()
	if err != nil {
		return Process{}, fmt.Errorf("start %s on %s: %w", filepath.Base(args[0]), host, err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		return Process{}, fmt.Errorf("start %s on %s: its process ID: %w", filepath.Base(args[0]), host, err)
	}
	start, _, err := stat(pid)
	if err != nil {
		return Process{}, fmt.Errorf("%s ended at once on %s: %s", filepath.Base(args[0]), host, l.tail(host, 8))
	}
	return Process{PID: pid, Start: start}, nil
}

// stacks ends a daemon that does not answer in the way that has a Go program say where each of its
// goroutines is, and returns the end of its log.
func (l *processes) stacks(ctx context.Context, m Member) string {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := m.Proc.end(ctx, syscall.SIGQUIT); err != nil {
		return l.tail(m.Name, 8) + "\n" + err.Error()
	}
	return l.tail(m.Name, 400)
}

// tail is the end of a member's log.
func (l *processes) tail(member string, most int) string {
	b, err := os.ReadFile(l.Log(member))
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(lines[max(0, len(lines)-most):], "\n")
}

// inode identifies a namespace.
type inode struct{ dev, ino uint64 }

func inodeOf(path string) (inode, bool) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return inode{}, false
	}
	return inode{st.Dev, st.Ino}, true
}

// crowd says which processes belong to a lab or to one of its hosts: those in one of the network namespaces, those in
// one of the cgroups, and those with the mark in their environment, if there is one.
type crowd struct {
	spaces  map[inode]bool
	cgroups []string
	mark    string
}

// processes are those that belong to the crowd; never this process and those it descends from, such as the shell that
// `netlab shell` gave.
func (c crowd) processes() ([]Process, error) {
	pids, err := cgroupMembers(c.cgroups)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if ns, ok := inodeOf(fmt.Sprintf("/proc/%d/ns/net", pid)); ok && c.spaces[ns] || c.marked(pid) {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	mine := ancestors()
	var out []Process
	for _, pid := range slices.Compact(pids) {
		start, _, err := stat(pid)
		p := Process{PID: pid, Start: start}
		if err == nil && !slices.Contains(mine, pid) && p.Alive() {
			out = append(out, p)
		}
	}
	return out, nil
}

// marked reports whether a process has the mark in its environment. A process of the kernel has none.
func (c crowd) marked(pid int) bool {
	if c.mark == "" {
		return false
	}
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	return err == nil && bytes.Contains(append(append([]byte{0}, env...), 0), []byte("\x00"+c.mark+"\x00"))
}

// end kills the crowd and waits until none of it is left, those that it has started in the meantime included.
func (c crowd) end(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, Patience, fmt.Errorf("it takes more than %s", Patience))
	defer cancel()
	var left []Process // those of earlier looks too: one that is ending has no namespace and no environment any more
	quiet := 0
	err := until(ctx, "its processes have ended", func() (bool, error) {
		found, err := c.processes()
		for _, p := range found {
			if !slices.Contains(left, p) {
				left = append(left, p)
			}
			if e := p.signal(syscall.SIGKILL); e != nil && !errors.Is(e, os.ErrProcessDone) {
				err = errors.Join(err, e)
			}
		}
		left = slices.DeleteFunc(left, func(p Process) bool { return !p.Alive() })
		// One look is not enough: a process may be listed, start another, and end before it is looked at.
		if quiet++; len(found) > 0 || len(left) > 0 {
			quiet = 0
		}
		return quiet == 2, err
	})
	if err != nil && len(left) > 0 {
		err = fmt.Errorf("%w; left: %v", err, left)
	}
	return err
}

// ancestors are this process and those above it.
func ancestors() []int {
	pids := []int{os.Getpid()}
	for pid := os.Getpid(); pid > 1; {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			break
		}
		f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		if len(f) < 2 {
			break
		}
		if pid, err = strconv.Atoi(f[1]); err != nil {
			break
		}
		pids = append(pids, pid)
	}
	return pids
}

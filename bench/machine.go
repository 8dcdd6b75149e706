package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// machine is what the groups share: a scratch directory, a root filesystem, and the daemons
// that were started.
type machine struct {
	cfg    config
	dir    string
	rootfs string // of busybox, unpacked
	tar    string // the same, packed
	absent []string
	undo   []func()

	docker  *docker
	fabric  *fabric // without the fast path
	fast    *fabric // with it
	started map[string]bool
}

func newMachine(ctx context.Context, cfg config) (*machine, error) {
	dir, err := os.MkdirTemp("", "vethloom-bench-")
	if err != nil {
		return nil, fmt.Errorf("make a scratch directory: %w", err)
	}
	m := &machine{cfg: cfg, dir: dir, started: map[string]bool{}}
	m.defers(func() { removeTree(dir) })
	if err := m.prepare(ctx); err != nil {
		m.close()
		return nil, err
	}
	return m, nil
}

func (m *machine) prepare(ctx context.Context) error {
	if _, err := command(ctx, "ip", "link", "set", "lo", "up"); err != nil {
		return err
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644); err != nil {
		return fmt.Errorf("forward between links: %w", err)
	}
	m.rootfs = filepath.Join(m.dir, "rootfs")
	bin := filepath.Join(m.rootfs, "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return fmt.Errorf("make a root filesystem: %w", err)
	}
	for _, d := range []string{"proc", "sys", "dev", "etc", "tmp", "run"} {
		if err := os.MkdirAll(filepath.Join(m.rootfs, d), 0o755); err != nil {
			return fmt.Errorf("make a root filesystem: %w", err)
		}
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return fmt.Errorf("make a root filesystem: %w (run make deps)", err)
	}
	if _, err := command(ctx, "cp", "-L", busybox, filepath.Join(bin, "busybox")); err != nil {
		return err
	}
	for _, name := range []string{"true", "sh", "sleep"} {
		if err := os.Symlink("busybox", filepath.Join(bin, name)); err != nil {
			return fmt.Errorf("make a root filesystem: %w", err)
		}
	}
	m.tar = filepath.Join(m.dir, "rootfs.tar")
	_, err = command(ctx, "tar", "-C", m.rootfs, "-cf", m.tar, ".")
	return err
}

func (m *machine) defers(f func()) { m.undo = append(m.undo, f) }

func (m *machine) close() {
	for len(m.undo) > 0 {
		last := m.undo[len(m.undo)-1]
		m.undo = m.undo[:len(m.undo)-1]
		last()
	}
}

// missing notes that a contender is not on this machine.
func (m *machine) missing(what string, err error) {
	m.absent = append(m.absent, fmt.Sprintf("%s (%s)", what, strings.TrimSpace(err.Error())))
}

// daemon starts a program that runs until the machine is closed. Its output goes to a file in the scratch directory,
// the end of which is in the errors of what waits for it: several of one program have different titles.
func (m *machine) daemon(title, name string, args ...string) (*process, error) {
	logFile := filepath.Join(m.dir, title+".log")
	out, err := os.Create(logFile)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	defer out.Close()
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &process{cmd: cmd, log: logFile, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		p.err = cmd.Wait()
	}()
	m.defers(p.stop)
	return p, nil
}

// process is a daemon under way.
type process struct {
	cmd  *exec.Cmd
	log  string
	done chan struct{}
	err  error // once done is closed
}

func (p *process) stop() {
	select {
	case <-p.done:
		return
	default:
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		fmt.Fprintf(os.Stderr, "bench: stop %s: %v\n", p.cmd.Path, err)
	}
	<-p.done
}

// failure is the end of the log, for the error of a wait in vain.
func (p *process) failure() error {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err
	}
	if len(text) > 1000 {
		text = text[len(text)-1000:]
	}
	return fmt.Errorf("%s: %s", filepath.Base(p.cmd.Path), strings.TrimSpace(string(text)))
}

// removeTree removes what daemons may have left mounted, then the directory.
func removeTree(dir string) {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
	}
	for _, line := range strings.Split(string(mounts), "\n") {
		if f := strings.Fields(line); len(f) > 1 && strings.HasPrefix(f[1], dir+"/") {
			if err := syscall.Unmount(f[1], syscall.MNT_DETACH); err != nil {
				fmt.Fprintf(os.Stderr, "bench: unmount %s: %v\n", f[1], err)
			}
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
	}
}

// removeCgroups removes the empty groups that a daemon left, in every hierarchy of cgroup v1 and in v2.
func removeCgroups(name string) {
	tops, err := filepath.Glob("/sys/fs/cgroup/*" + name)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
	}
	for _, top := range append(tops, "/sys/fs/cgroup"+name) {
		var dirs []string
		err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil // gone already
		})
		for _, dir := range slices.Backward(dirs) {
			err = errors.Join(err, syscall.Rmdir(dir))
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "bench: remove cgroup %s: %v\n", top, err)
		}
	}
}

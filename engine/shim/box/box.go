package box

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/engine/shim"
	"github.com/vethloom/vethloom/engine/shim/mounts"
)

// defaultPath is used when neither image nor user say where commands are.
const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// errorsOnly is logrus' level for errors. Without it the C part of libcontainer's
// init reports each of its steps.
const errorsOnly = "2"

// Box is one container.
type Box struct {
	bundle shim.Bundle
	c      *libcontainer.Container
	init   *Process
}

// Process is a command in a box.
type Process struct {
	p   *libcontainer.Process
	pid int
}

// Create mounts the root filesystem in this process's mount namespace, and
// makes the namespaces, the cgroup and the first process. That process is ready
// and waits for Start. What was made before a failure is undone.
func Create(b shim.Bundle, io *Stdio) (*Box, error) {
	box := &Box{bundle: b}
	if err := box.create(io); err != nil {
		return nil, errors.Join(err, box.Destroy())
	}
	return box, nil
}

func (b *Box) create(io *Stdio) error {
	var ids *mounts.IDs
	var err error
	if b.bundle.IDMap != nil {
		if ids, err = mounts.NewIDs(*b.bundle.IDMap); err != nil {
			return err
		}
		defer ids.Close()
	}
	if b.bundle.Binds, err = mounts.Assemble(b.bundle, ids); err != nil {
		return err
	}
	if ids != nil {
		if err := prepareMapped(b.bundle); err != nil {
			return err
		}
	}
	if err := joinShm(b.bundle); err != nil {
		return err
	}
	cfg, err := config(b.bundle, ids)
	if err != nil {
		return err
	}
	c, err := libcontainer.Create(filepath.Dir(b.bundle.StateDir), filepath.Base(b.bundle.StateDir), cfg)
	if err != nil {
		return fmt.Errorf("create the container: %w", err)
	}
	b.c = c
	b.init, err = b.spawn(b.bundle.Process, io, true)
	return err
}

// Start lets the first process execute its command.
func (b *Box) Start() error {
	if err := b.c.Exec(); err != nil {
		return fmt.Errorf("start the container's command: %w", err)
	}
	return nil
}

// Init is the first process.
func (b *Box) Init() *Process { return b.init }

// Exec runs a further command.
func (b *Box) Exec(p shim.Process, io *Stdio) (*Process, error) { return b.spawn(p, io, false) }

func (b *Box) spawn(spec shim.Process, io *Stdio, init bool) (*Process, error) {
	root := b.bundle.Root
	if !init { // the root as the container has it, with what is mounted in it
		root = fmt.Sprintf("/proc/%d/root", b.init.pid)
	}
	u, err := lookupUser(root, spec.User)
	if _, gone := os.Stat(root); gone != nil {
		return nil, &shim.Error{Code: shim.CodeNotRunning, Message: "the container is not running"}
	}
	if err != nil {
		return nil, &shim.Error{Code: shim.CodeInvalid, Message: err.Error()}
	}
	p := &libcontainer.Process{
		Args: spec.Args, Env: environment(spec, b.bundle.Hostname, u.Home), Cwd: spec.Cwd,
		UID: u.Uid, GID: u.Gid, Init: init,
		LogLevel: errorsOnly,
		// The primary group too: without it a file could deny it by its group bits
		// and be read through them (CVE-2022-36109).
		AdditionalGroups: append([]int{u.Gid}, u.Sgids...),
	}
	further, err := lookupGroups(root, b.bundle.Groups)
	if err != nil {
		return nil, &shim.Error{Code: shim.CodeInvalid, Message: err.Error()}
	}
	for _, gid := range further {
		if !slices.Contains(p.AdditionalGroups, gid) {
			p.AdditionalGroups = append(p.AdditionalGroups, gid)
		}
	}
	if p.Cwd == "" {
		p.Cwd = "/"
	}
	caps := b.bundle.Caps
	if spec.Privileged {
		if caps, err = allCapabilities(); err != nil {
			return nil, err
		}
	}
	p.Capabilities = forUser(initCapabilities(caps), u.Uid)
	if err := io.connect(p, spec); err != nil {
		return nil, err
	}
	defer io.closeTheirs()
	if err := b.c.Start(p); err != nil {
		return nil, classify(spec.Args, p.Cwd, err)
	}
	pid, err := p.Pid()
	if err != nil {
		return nil, fmt.Errorf("learn the process's ID: %w", err)
	}
	if err := io.started(spec); err != nil {
		return nil, errors.Join(err, p.Signal(unix.SIGKILL))
	}
	return &Process{p: p, pid: pid}, nil
}

// environment is what a process gets besides what was asked for. HOME is always in it:
// libcontainer's init would look it up in the container's /etc/passwd, and wait for ever if that is a FIFO.
func environment(p shim.Process, hostname, home string) []string {
	env := []string{defaultPath, "HOSTNAME=" + hostname}
	if p.TTY {
		env = append(env, "TERM=xterm")
	}
	env = append(env, p.Env...) // the last of a name counts
	for _, kv := range slices.Backward(env) {
		if value, ok := strings.CutPrefix(kv, "HOME="); ok && value != "" {
			return env
		} else if ok {
			break
		}
	}
	if home == "" {
		home = "/"
	}
	return append(env, "HOME="+home)
}

// classify finds out whether the command could not be found or run, or there is no
// such directory to run it in. The error
// crossed a process border as text (libcontainer's init is another process).
func classify(args []string, cwd string, err error) error {
	text := err.Error()
	e := &shim.Error{Code: shim.CodeInternal, Message: text}
	quoted := fmt.Sprintf("%q", args[0])
	switch {
	case strings.Contains(text, "chdir to cwd"), strings.Contains(text, "mkdir "+cwd+":"):
		e.Code = shim.CodeInvalid
		e.Message = fmt.Sprintf("workdir %q: no directory in the container: give one that it has", cwd)
	case !strings.Contains(text, `exec: `+quoted) && !strings.Contains(text, "exec "+args[0]) &&
		!strings.Contains(text, "stat "+args[0]):
	case strings.Contains(text, "executable file not found"), strings.Contains(text, "no such file or directory"),
		strings.Contains(text, "not a directory"):
		e.Code = shim.CodeNotFound
		e.Message = fmt.Sprintf("command %s: not found in the container", quoted)
	case strings.Contains(text, "permission denied"), strings.Contains(text, "is a directory"):
		e.Code = shim.CodeNotRunnable
		e.Message = fmt.Sprintf("command %s: not executable: permission denied", quoted)
	}
	return e
}

// Kill sends a signal to the first process. SIGKILL ends every process of the
// container: with its PID namespace, or, where that is shared, by its cgroup.
func (b *Box) Kill(signal unix.Signal) error {
	err := b.c.Signal(signal)
	if errors.Is(err, libcontainer.ErrNotRunning) || errors.Is(err, unix.ESRCH) || errors.Is(err, os.ErrProcessDone) {
		return &shim.Error{Code: shim.CodeNotRunning, Message: "the container is not running"}
	}
	return err
}

// Pause freezes every process.
func (b *Box) Pause() error { return b.c.Pause() }

// Resume thaws them.
func (b *Box) Resume() error { return b.c.Resume() }

// Update gives the container other limits. Where the kernel refuses one, it keeps those that it had.
func (b *Box) Update(r shim.Resources) error {
	limits, err := Limits(r)
	if err != nil {
		return err
	}
	cfg := b.c.Config()
	group := *cfg.Cgroups
	limits.Devices = group.Resources.Devices
	group.Resources = limits
	cfg.Cgroups = &group
	if err := b.c.Set(cfg); err != nil {
		return &shim.Error{Code: shim.CodeInvalid, Message: fmt.Sprintf("change the limits: %v", err)}
	}
	b.bundle.Resources = r
	return nil
}

// Pid is the process's ID in the shim's PID namespace.
func (p *Process) Pid() int { return p.pid }

// Signal sends a signal to this one process.
func (p *Process) Signal(signal unix.Signal) error {
	err := p.p.Signal(signal)
	if errors.Is(err, os.ErrProcessDone) || errors.Is(err, unix.ESRCH) {
		return &shim.Error{Code: shim.CodeNotRunning, Message: "the process has ended"}
	}
	return err
}

// Wait waits for the process's end. The error of a process that ended badly is
// in its exit status, not in the error.
func (p *Process) Wait() (code, signal int, err error) {
	st, err := p.p.Wait()
	if st == nil {
		return 255, 0, fmt.Errorf("wait for process %d: %w", p.pid, err)
	}
	if sig := signalOf(st); sig != 0 {
		return 128 + sig, sig, nil
	}
	return st.ExitCode(), 0, nil
}

// Destroy removes the container's cgroup and state and unmounts its root.
func (b *Box) Destroy() error {
	var errs []error
	if b.c != nil {
		if err := b.c.Destroy(); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("remove the container's cgroup: %w", err))
		}
	}
	for i := len(b.bundle.RootMounts) - 1; i >= 0; i-- {
		t := b.bundle.RootMounts[i].Target
		if err := unix.Unmount(t, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", t, err))
		}
	}
	return errors.Join(errs...)
}

// prepareMapped does what a container's own user namespace may not.
func prepareMapped(b shim.Bundle) error {
	if _, err := hostSys(b.StateDir); err != nil {
		return err
	}
	if b.NetNS == "" {
		return nil
	}
	return setSysctls(b.NetNS, sysctls(b))
}

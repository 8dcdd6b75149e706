package shim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// The descriptors a shim inherits besides its standard ones.
const (
	ControlFD  = 3 // the connection to the netd that launched it
	ListenerFD = 4
)

// Launcher starts supervisors.
type Launcher struct {
	Path string // of net-shim
}

// Child is a supervisor this process launched.
type Child struct {
	control *Conn
	cmd     *exec.Cmd
}

// Launch starts net-shim for the container whose run directory is dir. The
// supervisor has its own session and mount namespace and outlives netd; but
// one that was not told to start its container goes when the control
// connection closes, so a launch that is cut short undoes itself.
//
// What the supervisor has to say about its own failures goes to logPath.
func (l Launcher) Launch(dir, logPath string) (*Child, error) {
	listener, err := listen(dir)
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	logs, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		ours.Close()
		return nil, fmt.Errorf("open the shim's own log: %w", err)
	}
	defer logs.Close()
	cmd := &exec.Cmd{
		Path:       l.Path,
		Args:       []string{"net-shim", "run"},
		Dir:        "/",
		Env:        shimEnv(),
		Stdout:     logs,
		Stderr:     logs,
		ExtraFiles: []*os.File{theirs, listener},
		// Not Unshareflags: with those, os/exec makes every mount private, and
		// a host file system unmounted later would stay busy in the shim.
		SysProcAttr: &syscall.SysProcAttr{Setsid: true, Cloneflags: unix.CLONE_NEWNS},
	}
	if err := cmd.Start(); err != nil {
		ours.Close()
		return nil, fmt.Errorf("start the shim %s: %w", l.Path, err)
	}
	return &Child{control: NewConn(ours), cmd: cmd}, nil
}

// shimEnv keeps the supervisor small: two threads running Go, little garbage.
func shimEnv() []string {
	return []string{"PATH=" + os.Getenv("PATH"), "GOMAXPROCS=2", "GOGC=50", "GOTRACEBACK=single"}
}

// Pid is the supervisor's.
func (c *Child) Pid() int { return c.cmd.Process.Pid }

// Create hands the bundle over. The supervisor prepares the container at once;
// what goes wrong is told in answer to Start.
func (c *Child) Create(b Bundle) error {
	if err := c.control.WriteJSON(KindRequest, Request{Op: OpCreate, Bundle: &b}); err != nil {
		return fmt.Errorf("hand the bundle to the shim: %w", err)
	}
	return nil
}

// Start runs the container's command and returns once it runs. The error is an
// [*Error] where the supervisor told it.
func (c *Child) Start(ctx context.Context) (State, error) {
	stop := context.AfterFunc(ctx, func() { c.control.Close() })
	defer stop()
	if err := c.control.WriteJSON(KindRequest, Request{Op: OpStart}); err != nil {
		return State{}, fmt.Errorf("ask the shim to start: %w", err)
	}
	s, err := readReply(c.control)
	if err != nil && ctx.Err() != nil {
		return State{}, ctx.Err()
	}
	return s, err
}

// Exit waits for the container's end, on the connection Start used.
func (c *Child) Exit() (Exit, error) { return readExit(c.control) }

// Abandon undoes a launch: the supervisor removes what it made and goes.
func (c *Child) Abandon() { c.control.Close() }

// Release lets go of the connection to a supervisor.
func (c *Child) Release() { c.control.Close() }

// Reap waits for the supervisor's process. Whoever launches owns this call: it
// is what keeps the process table clean while netd lives.
func (c *Child) Reap() error {
	err := c.cmd.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return fmt.Errorf("the shim ended with %s", exit.ProcessState)
	}
	return err
}

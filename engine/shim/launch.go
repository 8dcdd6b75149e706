package shim

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"syscall"
	"time"

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
	pid     int
	pidfd   *os.File
}

// Launch starts net-shim for the container whose run directory is dir. The
// supervisor has its own session and mount namespace and outlives netd; but
// one that was not told to start its container goes when the control
// connection closes, so a launch that is cut short undoes itself.
//
// What the supervisor has to say about its own failures goes to logPath.
func (l Launcher) Launch(dir, logPath string) (*Child, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	listener, err := listen(dir)
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	ours, theirs, err := SocketPair()
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
	// What this process itself inherited by accident is not for containers to keep open.
	if err := unix.CloseRange(3, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC); err != nil &&
		!errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EINVAL) {
		ours.Close()
		return nil, fmt.Errorf("keep descriptors from the shim: %w", err)
	}
	pidfd := -1
	pid, err := syscall.ForkExec(l.Path, []string{"net-shim", "run"}, &syscall.ProcAttr{
		Dir:   "/",
		Env:   shimEnv(),
		Files: []uintptr{null.Fd(), logs.Fd(), logs.Fd(), theirs.Fd(), listener.Fd()},
		// Not Unshareflags: with those every mount would be made private, and a
		// host file system unmounted later would stay busy in the shim.
		Sys: &syscall.SysProcAttr{Setsid: true, Cloneflags: unix.CLONE_NEWNS, PidFD: &pidfd},
	})
	if err != nil {
		ours.Close()
		return nil, fmt.Errorf("start the shim %s: %w", l.Path, err)
	}
	c := &Child{control: NewConn(ours), pid: pid}
	if pidfd < 0 {
		c.Abandon()
		return nil, fmt.Errorf("start the shim: pidfds: %w: Linux 5.4 has them", errors.ErrUnsupported)
	}
	if err := unix.SetNonblock(pidfd, true); err != nil {
		c.Abandon()
		return nil, fmt.Errorf("watch the shim: %w", err)
	}
	c.pidfd = os.NewFile(uintptr(pidfd), "pidfd of net-shim")
	return c, nil
}

// shimEnv lets the supervisor start without garbage collections; it turns them
// on once the container runs.
func shimEnv() []string {
	return []string{"PATH=" + os.Getenv("PATH"), "GOMAXPROCS=2", "GOGC=off", "GOMEMLIMIT=64MiB", "GOTRACEBACK=single"}
}

// Pid is the supervisor's.
func (c *Child) Pid() int { return c.pid }

// Create hands the bundle over. The supervisor prepares the container at once;
// what goes wrong is told in answer to Start.
func (c *Child) Create(ctx context.Context, b Bundle) error {
	stop := context.AfterFunc(ctx, func() { c.control.Close() })
	defer stop()
	err := c.control.WriteJSON(KindRequest, Request{Op: OpCreate, Bundle: &b})
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
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
		return State{}, context.Cause(ctx)
	}
	return s, err
}

// Exit waits for the container's end, on the connection Start used.
func (c *Child) Exit() (Exit, error) { return readExit(c.control) }

// Abandon undoes a launch: the supervisor removes what it made and goes.
func (c *Child) Abandon() { c.control.Close() }

// Kill ends a supervisor that does not go.
func (c *Child) Kill() error {
	raw, err := c.pidfd.SyscallConn()
	if err != nil {
		return err
	}
	var killErr error
	err = raw.Control(func(fd uintptr) { killErr = unix.PidfdSendSignal(int(fd), unix.SIGKILL, nil, 0) })
	if err != nil {
		return err
	}
	return os.NewSyscallError("pidfd_send_signal", killErr)
}

// Release closes the connection to a supervisor.
func (c *Child) Release() { c.control.Close() }

// Reap waits for the supervisor's process to end, or for the context. The caller that
// launched owns this call: it is what keeps the process table clean while netd
// lives. The error says when it ended badly.
func (c *Child) Reap(ctx context.Context) error {
	raw, err := c.pidfd.SyscallConn()
	if err != nil {
		return err
	}
	if err := c.pidfd.SetReadDeadline(time.Time{}); err != nil { // of a wait that was given up
		return err
	}
	stop := context.AfterFunc(ctx, func() { c.pidfd.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var status unix.WaitStatus
	var waitErr error
	// A pidfd gets readable when its process ends (pidfd_open(2)).
	err = raw.Read(func(uintptr) bool {
		var pid int
		pid, waitErr = unix.Wait4(c.pid, &status, unix.WNOHANG, nil)
		return waitErr != nil || pid == c.pid
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	c.pidfd.Close()
	if err = errors.Join(err, waitErr); err != nil {
		return fmt.Errorf("wait for the shim: %w", err)
	}
	switch {
	case status.Signaled():
		return fmt.Errorf("the shim was killed by signal %d (%s)", status.Signal(), unix.SignalName(status.Signal()))
	case status.ExitStatus() != 0:
		return fmt.Errorf("the shim failed with exit code %d", status.ExitStatus())
	}
	return nil
}

package handover

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/internal/descriptor"
	"github.com/vethloom/vethloom/internal/rootsocket"
)

// process is a holder that this process has started.
type process struct {
	cmd  *exec.Cmd
	conn *descriptor.Conn
	gone chan struct{} // closed when it has ended
}

// start starts a holder. It has a session of its own and outlives this process.
func start(cfg Config) (*process, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make a connection to a holder: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "holder"), os.NewFile(uintptr(fds[1]), "netd")
	defer theirs.Close()
	defer ours.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		return nil, fmt.Errorf("use the connection to a holder: %w", err)
	}
	cmd := cfg.Command(cfg.Path)
	cmd.Dir, cmd.ExtraFiles = "/", []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start a holder: %w", err), conn.Close())
	}
	return &process{cmd: cmd, conn: descriptor.NewConn(conn.(*net.UnixConn)), gone: make(chan struct{})}, nil
}

// ask has the holder do something, and waits until it has.
func (p *process) ask(q request, files ...descriptor.Descriptor) error {
	return ask(p.conn, q, files...)
}

func ask(c *descriptor.Conn, q request, files ...descriptor.Descriptor) error {
	err := c.SetDeadline(time.Now().Add(answerTime))
	if err == nil {
		err = c.Send(q, files...)
	}
	if err == nil {
		err = finished(c)
	}
	if err != nil {
		return fmt.Errorf("ask the holder: %w", err)
	}
	return nil
}

// quit ends it: what it had is closed.
func (p *process) quit() {
	if p.ask(request{Quit: true}) == nil {
		select {
		case <-p.gone:
			p.conn.Close()
			return
		case <-time.After(answerTime):
		}
	}
	p.kill()
}

// kill ends it at once. A process that was killed and does not end, which only a broken kernel has, is not waited for.
func (p *process) kill() {
	p.conn.Close()
	_ = p.cmd.Process.Kill()
	select {
	case <-p.gone:
	case <-time.After(answerTime):
	}
}

// former is the holder of an earlier process.
type former struct {
	conn  *descriptor.Conn
	pidfd int // -1: not known
}

// dial connects to the holder at a socket.
func dial(path string) (*former, error) {
	d := net.Dialer{Timeout: answerTime}
	c, err := d.Dial("unix", path)
	if err != nil {
		return nil, err
	}
	u := c.(*net.UnixConn)
	if err := rootsocket.OfRoot(u); err != nil {
		return nil, errors.Join(err, u.Close())
	}
	f := &former{conn: descriptor.NewConn(u), pidfd: -1}
	if f.pidfd, err = peer(u); err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

var errEnded = errors.New("the holder has ended")

// peer is a handle of the process at the other end. The number is of the process that listened there; while the
// connection stands, that is there, and no other one has its number.
func peer(c *net.UnixConn) (fd int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return -1, err
	}
	fd = -1
	var failed error
	err = raw.Control(func(s uintptr) {
		var cred *unix.Ucred
		if cred, failed = unix.GetsockoptUcred(int(s), unix.SOL_SOCKET, unix.SO_PEERCRED); failed != nil {
			return
		}
		if fd, failed = unix.PidfdOpen(int(cred.Pid), 0); failed != nil {
			fd = -1
			return
		}
		poll := []unix.PollFd{{Fd: int32(s), Events: unix.POLLRDHUP}}
		if _, failed = unix.Poll(poll, 0); failed == nil && poll[0].Revents != 0 {
			failed = errEnded
		}
	})
	if err = errors.Join(err, failed); err != nil && fd >= 0 {
		unix.Close(fd)
		fd = -1
	}
	return fd, err
}

func (f *former) close() {
	f.conn.Close()
	if f.pidfd >= 0 {
		unix.Close(f.pidfd)
	}
}

// list reads what it has. The files are the caller's.
func (f *former) list() (items []Item, err error) {
	defer func() {
		if err != nil {
			for _, i := range items {
				descriptor.Close(i.Files)
			}
			items = nil
		}
	}()
	if err := f.conn.SetDeadline(time.Now().Add(answerTime)); err != nil {
		return nil, err
	}
	if err := f.conn.Send(request{List: true}); err != nil {
		return nil, err
	}
	for {
		a, err := receive(f.conn)
		switch {
		case err != nil:
			return items, err
		case a.Done:
			return items, nil
		case a.Item == nil || len(items) == maxItems:
			return items, errors.New("its answer is to another question")
		}
		items = append(items, *a.Item)
	}
}

// quit ends it, and returns when it has closed what it had.
func (f *former) quit() error {
	if err := ask(f.conn, request{Quit: true}); err != nil {
		return err
	}
	if _, err := f.conn.Receive(&answer{}); !errors.Is(err, io.EOF) {
		return fmt.Errorf("wait for the end of a holder: %w", err)
	}
	return nil
}

// kill ends it at once.
func (f *former) kill() {
	if unix.PidfdSendSignal(f.pidfd, unix.SIGKILL, nil, 0) == nil {
		_, _ = unix.Poll([]unix.PollFd{{Fd: int32(f.pidfd), Events: unix.POLLIN}}, int(answerTime.Milliseconds()))
	}
}

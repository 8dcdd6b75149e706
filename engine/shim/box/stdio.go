package box

import (
	"fmt"
	"os"
	"syscall"

	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/engine/shim"
)

// Stdio holds the ends of a process's standard streams that the shim keeps.
// Absent ones are nil. With a terminal, Stdin and Stdout are the same file.
type Stdio struct {
	Stdin  *os.File // write end
	Stdout *os.File // read end
	Stderr *os.File // read end
	theirs []*os.File
	socket *os.File // the terminal arrives here
}

// connect gives the process its streams: a terminal, or three pipes.
func (s *Stdio) connect(p *libcontainer.Process, spec shim.Process) error {
	if spec.TTY {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return os.NewSyscallError("socketpair", err)
		}
		s.socket = os.NewFile(uintptr(fds[0]), "terminal socket")
		p.ConsoleSocket = os.NewFile(uintptr(fds[1]), "terminal socket")
		s.theirs = append(s.theirs, p.ConsoleSocket)
		p.ConsoleWidth, p.ConsoleHeight = spec.Size.Columns, spec.Size.Rows
		return nil
	}
	var in, out, errOut *os.File
	var err error
	if spec.Stdin {
		in, s.Stdin, err = os.Pipe()
	} else {
		in, err = os.Open(os.DevNull)
	}
	if err == nil {
		s.theirs = append(s.theirs, in)
		s.Stdout, out, err = os.Pipe()
	}
	if err == nil {
		s.theirs = append(s.theirs, out)
		s.Stderr, errOut, err = os.Pipe()
	}
	if err != nil {
		s.closeTheirs()
		s.Close()
		return fmt.Errorf("make pipes for the process: %w", err)
	}
	s.theirs = append(s.theirs, errOut)
	// A process may reopen its /dev/stdout, which the image's user must own.
	p.Stdin, p.Stdout, p.Stderr = in, out, errOut
	return nil
}

// started picks up the terminal, which the container made in its own devpts.
func (s *Stdio) started(spec shim.Process) error {
	if !spec.TTY {
		return nil
	}
	defer s.socket.Close()
	f, err := receiveFile(s.socket)
	if err != nil {
		return fmt.Errorf("receive the terminal from the container: %w", err)
	}
	s.Stdout = f
	s.Stdin = f
	return nil
}

func receiveFile(socket *os.File) (*os.File, error) {
	name, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
	_, oobn, _, _, err := unix.Recvmsg(int(socket.Fd()), name, oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("recvmsg", err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(messages) != 1 {
		return nil, fmt.Errorf("%d control messages instead of one: %w", len(messages), unix.EPROTO)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, fmt.Errorf("%d descriptors instead of one: %w", len(fds), unix.EPROTO)
	}
	// Non-blocking, so that reads go through the runtime's poller and can be ended.
	if err := unix.SetNonblock(fds[0], true); err != nil {
		unix.Close(fds[0])
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fds[0]), "terminal"), nil
}

func (s *Stdio) closeTheirs() {
	for _, f := range s.theirs {
		f.Close()
	}
	s.theirs = nil
}

// Close closes the shim's ends.
func (s *Stdio) Close() {
	for _, f := range []*os.File{s.Stdin, s.Stdout, s.Stderr} {
		if f != nil {
			f.Close()
		}
	}
}

// Resize sets a terminal's size.
func Resize(f *os.File, size shim.Size) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var ioctlErr error
	err = raw.Control(func(fd uintptr) {
		ioctlErr = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: size.Rows, Col: size.Columns})
	})
	if err == nil {
		err = ioctlErr
	}
	return err
}

func signalOf(st *os.ProcessState) int {
	if ws, ok := st.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return int(ws.Signal())
	}
	return 0
}

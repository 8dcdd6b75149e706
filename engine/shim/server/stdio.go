package server

import (
	"errors"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/engine/shim"
	"github.com/vethloom/vethloom/engine/shim/box"
)

// attacher is one connection that gets the container's output.
type attacher struct {
	conn *shim.Conn
}

// attach joins the container's stdio. The connection's socket buffer is the
// only queue: a container whose attacher does not read waits, like any process
// whose pipe is full.
func (s *Server) attach(c *shim.Conn, r shim.Request) {
	a := &attacher{conn: c}
	s.mu.Lock()
	ended := s.status == shim.Exited || s.closing
	if !ended {
		// Replied to under the lock, so that no output overtakes the reply.
		if err := c.WriteJSON(shim.KindReply,
			shim.Reply{State: shim.State{Status: s.status, Pid: s.pid, Started: s.started}}); err == nil {
			s.attachers = append(s.attachers, a)
		}
	}
	s.mu.Unlock()
	if ended {
		s.reply(c, failed(errNotRunning))
		return
	}
	<-s.ready
	var to *os.File
	if s.stdio != nil {
		to = s.stdio.Stdin
		if r.Size != (shim.Size{}) && s.bundle.Process.TTY {
			if err := resize(s.stdio, r.Size); err != nil {
				s.log.Debug("size the terminal", "error", err)
			}
		}
	}
	if !r.Stdin {
		to = nil
	}
	s.feed(c, to, s.bundle.Process.TTY)
	s.detach(a)
}

// detach forgets an attacher that closed its connection. While its exit is
// being told, that is not its end: the frame is on its way.
func (s *Server) detach(a *attacher) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, other := range s.attachers {
		if other == a {
			s.attachers = append(s.attachers[:i:i], s.attachers[i+1:]...)
			return
		}
	}
}

// feed writes a connection's stdin frames to a process until the connection
// closes. One that stops reading, or has ended, loses what comes after.
func (s *Server) feed(c *shim.Conn, to *os.File, tty bool) {
	for {
		f, err := c.Read()
		if err != nil {
			return
		}
		if to == nil {
			continue
		}
		switch f.Kind {
		case shim.KindStdin:
			s.stdin.Lock()
			_, err = to.Write(f.Payload)
			s.stdin.Unlock()
			if err != nil {
				to = nil
			}
		case shim.KindCloseStdin:
			if !tty { // a terminal's input does not end; its program is told by ^D
				to.Close()
				to = nil
			}
		}
	}
}

// pump starts carrying the container's output to the log and the attachers.
func (s *Server) pump(stdio *box.Stdio) {
	for stream, f := range map[shim.Kind]*os.File{shim.KindStdout: stdio.Stdout, shim.KindStderr: stdio.Stderr} {
		if f == nil {
			continue
		}
		name := "stdout"
		if stream == shim.KindStderr {
			name = "stderr"
		}
		line := s.logs.Stream(name)
		s.pumps.Go(func() {
			failing := false // said once, not for each piece of output
			copyOut(f, func(p []byte) {
				err := line.Write(time.Now(), p)
				if err != nil && !failing {
					s.log.Error("write the container's log; output is lost until it works again", "error", err)
				}
				failing = err != nil
				s.broadcast(shim.Frame{Kind: stream, Payload: p})
			})
			if err := line.Flush(time.Now()); err != nil {
				s.log.Error("write the container's log", "error", err)
			}
		})
	}
}

func (s *Server) broadcast(f shim.Frame) {
	s.mu.Lock()
	attachers := s.attachers // never changed in place
	s.mu.Unlock()
	for _, a := range attachers {
		if err := a.conn.Write(f); err != nil {
			s.detach(a)
		}
	}
}

// copyOut reads until the end of a pipe or terminal. After cut was called on
// the file (its deadline passed) it takes what is there and stops.
func copyOut(f *os.File, emit func([]byte)) {
	buf := make([]byte, shim.MaxPiece)
	for {
		n, err := f.Read(buf)
		if n > 0 {
			emit(buf[:n])
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			takeRest(f, buf, emit)
			return
		}
		if err != nil {
			return // io.EOF, or EIO: a terminal without a process
		}
	}
}

// takeRest reads what a pipe holds without waiting for more. A read through
// os.File would refuse at once after the deadline.
func takeRest(f *os.File, buf []byte, emit func([]byte)) {
	raw, err := f.SyscallConn()
	if err != nil {
		return
	}
	for {
		n, err := 0, error(io.EOF)
		if controlErr := raw.Control(func(fd uintptr) { n, err = unix.Read(int(fd), buf) }); controlErr != nil ||
			err != nil || n <= 0 {
			return
		}
		emit(buf[:n])
	}
}

// cutOutput makes the pumps stop at what is there.
func (s *Server) cutOutput() { cut(s.stdio) }

func cut(stdio *box.Stdio) {
	for _, f := range []*os.File{stdio.Stdout, stdio.Stderr} {
		if f != nil {
			f.SetReadDeadline(time.Unix(1, 0))
		}
	}
}

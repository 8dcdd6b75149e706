package server

import (
	"errors"
	"net"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/engine/shim"
	"github.com/vethloom/vethloom/engine/shim/box"
)

func (s *Server) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			s.log.Error("accept a connection", "error", err)
			return
		}
		conn := shim.NewConn(c)
		s.mu.Lock()
		s.conns[conn] = false
		s.mu.Unlock()
		s.conng.Go(func() {
			defer s.forget(conn)
			s.serve(conn)
		})
	}
}

func (s *Server) forget(c *shim.Conn) {
	c.Close()
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
}

// serve answers the one request of a connection.
func (s *Server) serve(c *shim.Conn) {
	r, err := readRequest(c)
	if err != nil {
		s.reply(c, failed(&shim.Error{Code: shim.CodeInvalid, Message: err.Error()}))
		return
	}
	s.mu.Lock()
	s.conns[c] = true
	s.mu.Unlock()
	switch r.Op {
	case shim.OpState:
		s.reply(c, shim.Reply{State: s.state()})
	case shim.OpWait:
		s.wait(c)
	case shim.OpAttach:
		s.attach(c, r)
	case shim.OpExec:
		s.exec(c, r)
	case shim.OpRejoin:
		s.rejoin(c, r)
	case shim.OpRelease:
		s.answer(c, s.release(r))
	case shim.OpKill:
		s.answer(c, s.kill(r))
	case shim.OpResize:
		s.answer(c, s.resize(r))
	case shim.OpPause:
		s.answer(c, s.freeze(shim.Paused))
	case shim.OpResume:
		s.answer(c, s.freeze(shim.Running))
	case shim.OpUpdate:
		s.answer(c, s.update(r))
	default:
		s.answer(c, &shim.Error{Code: shim.CodeUnsupported, Message: "this shim does not know the request " +
			string(r.Op)})
	}
}

func (s *Server) answer(c *shim.Conn, err error) {
	if err != nil {
		s.reply(c, failed(err))
		return
	}
	s.reply(c, shim.Reply{State: s.state()})
}

func (s *Server) reply(c *shim.Conn, r shim.Reply) bool {
	err := c.WriteJSON(shim.KindReply, r)
	if err != nil {
		s.log.Debug("a client went away before its reply", "error", err)
	}
	return err == nil
}

// wait tells the exit, now or when it comes. A caller that asks during the start wants
// to know how that goes: a netd that follows one that died in the middle. It gets
// no answer when the container is never started.
func (s *Server) wait(c *shim.Conn) {
	<-s.begun
	if s.state().Status == shim.Creating || !s.reply(c, shim.Reply{State: s.state()}) {
		return
	}
	s.mu.Lock()
	told := s.closing
	exit := s.exit
	if !told {
		s.waiters = append(s.waiters, c)
	}
	s.mu.Unlock()
	if told {
		if exit != nil {
			s.tell(c, *exit)
		}
		return
	}
	c.Read() // blocks until either side closes
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, w := range s.waiters {
		if w == c {
			s.waiters = append(s.waiters[:i:i], s.waiters[i+1:]...)
			break
		}
	}
}

var errNotRunning = &shim.Error{Code: shim.CodeNotRunning, Message: "the container is not running"}

// running returns the box while its command runs.
func (s *Server) running() (*box.Box, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.status != shim.Running && s.status != shim.Paused {
		return nil, errNotRunning
	}
	return s.box, nil
}

func (s *Server) kill(r shim.Request) error {
	if r.Signal < 1 || r.Signal > 64 {
		return &shim.Error{Code: shim.CodeInvalid, Message: "signals are 1 to 64"}
	}
	if r.Exec != "" {
		x, err := s.execution(r.Exec)
		if err != nil {
			return err
		}
		return x.process.Signal(unix.Signal(r.Signal))
	}
	b, err := s.running()
	if err != nil {
		return err
	}
	return b.Kill(unix.Signal(r.Signal))
}

func (s *Server) resize(r shim.Request) error {
	if r.Exec != "" {
		x, err := s.execution(r.Exec)
		if err != nil {
			return err
		}
		return resize(x.stdio, r.Size)
	}
	<-s.ready
	if s.stdio == nil {
		return errNotRunning
	}
	return resize(s.stdio, r.Size)
}

func resize(io *box.Stdio, size shim.Size) error {
	if io.Stdin == nil || io.Stdin != io.Stdout {
		return &shim.Error{Code: shim.CodeInvalid, Message: "it has no terminal"}
	}
	return box.Resize(io.Stdin, size)
}

// freeze moves between running and paused.
func (s *Server) freeze(to shim.Status) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.status == to:
		return nil
	case s.status != shim.Running && s.status != shim.Paused:
		return errNotRunning
	}
	change := s.box.Resume
	if to == shim.Paused {
		change = s.box.Pause
	}
	if err := change(); err != nil {
		return err
	}
	s.status = to
	return nil
}

// update changes the container's limits, one client at a time.
func (s *Server) update(r shim.Request) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case r.Resources == nil:
		return &shim.Error{Code: shim.CodeInvalid, Message: "an update without limits"}
	case s.status != shim.Running && s.status != shim.Paused:
		return errNotRunning
	}
	return s.box.Update(*r.Resources)
}

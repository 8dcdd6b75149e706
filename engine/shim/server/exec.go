package server

import (
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/vethloom/vethloom/engine/shim"
)

// execGrace is how long an exec's output may trail its end: a process it left
// behind in the container can hold the pipes open for ever.
const execGrace = 500 * time.Millisecond

func (s *Server) execution(id string) (*execution, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if x := s.execs[id]; x != nil {
		return x, nil
	}
	return nil, &shim.Error{Code: shim.CodeNoSuchTarget, Message: fmt.Sprintf("no command %s runs in the container",
		id)}
}

// exec runs a command and carries its stdio on the request's connection. The
// command goes on when the connection closes.
func (s *Server) exec(c *shim.Conn, r shim.Request) {
	x, err := s.spawn(r)
	if err != nil {
		s.reply(c, failed(err))
		return
	}
	s.conng.Go(func() { s.see(x) })
	if r.Detach {
		s.reply(c, shim.Reply{State: stateOf(x)})
		return
	}
	s.carry(c, x, r)
}

// rejoin goes on with a command after the netd that had its stdio went away.
func (s *Server) rejoin(c *shim.Conn, r shim.Request) {
	x, err := s.execution(r.Exec)
	if err == nil && !x.request.Hold {
		err = &shim.Error{Code: shim.CodeInvalid, Message: "the command's output and exit status are not kept"}
	}
	if err != nil {
		s.reply(c, failed(err))
		return
	}
	if r.Size != (shim.Size{}) {
		if err := resize(x.stdio, r.Size); err != nil {
			s.log.Debug("size the terminal", "error", err)
		}
	}
	s.carry(c, x, r)
}

func (s *Server) carry(c *shim.Conn, x *execution, r shim.Request) {
	if err := x.join(c, stateOf(x), r.Seen); err != nil {
		s.log.Debug("a client went away before its reply", "error", err)
		return
	}
	x.feed(c, r.Stdin)
	x.leave(c)
}

func (s *Server) release(r shim.Request) error {
	x, err := s.execution(r.Exec)
	if err != nil {
		return err
	}
	x.release()
	return nil
}

func stateOf(x *execution) shim.State {
	return shim.State{Status: shim.Running, Pid: x.process.Pid(), Started: x.started}
}

// see reads a command's output and waits for its end.
func (s *Server) see(x *execution) {
	var pumps sync.WaitGroup
	for kind, f := range map[shim.Kind]*os.File{shim.KindStdout: x.stdio.Stdout, shim.KindStderr: x.stdio.Stderr} {
		if f == nil {
			continue
		}
		pumps.Go(func() { copyOut(f, func(p []byte) { x.emit(kind, p) }) })
	}
	exit := x.wait()
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		pumps.Wait()
	}()
	select {
	case <-drained:
	case <-time.After(execGrace):
		cut(x.stdio)
		<-drained
	}
	s.keep(x)
	x.end(exit)
	x.stdio.Close()
	s.tidy.Reset(settleTime)
}

// keep lets a command that has ended be asked for a while how it did, if somebody may.
func (s *Server) keep(x *execution) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !x.request.Hold {
		delete(s.execs, x.request.Exec)
		return
	}
	s.ended = append(s.ended, x)
	if len(s.ended) > keptEnds {
		delete(s.execs, s.ended[0].request.Exec)
		s.ended = s.ended[1:]
	}
	time.AfterFunc(holdTime, func() { s.forgetExec(x) })
}

func (s *Server) forgetExec(x *execution) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.ended, x); i >= 0 {
		s.ended = slices.Delete(s.ended, i, i+1)
		delete(s.execs, x.request.Exec)
	}
}

// spawn starts the command and enters it among those that can be signalled.
func (s *Server) spawn(r shim.Request) (*execution, error) {
	s.mu.Lock()
	b, status, taken := s.box, s.status, s.execs[r.Exec] != nil
	s.mu.Unlock()
	switch {
	case r.Process == nil || len(r.Process.Args) == 0:
		return nil, &shim.Error{Code: shim.CodeInvalid, Message: "no command to run"}
	case status == shim.Paused:
		return nil, &shim.Error{Code: shim.CodeInvalid, Message: "the container is paused: resume it first"}
	case status != shim.Running:
		return nil, errNotRunning
	case taken || r.Exec == "":
		return nil, &shim.Error{Code: shim.CodeInvalid, Message: fmt.Sprintf("exec %q: give an ID that is not in use",
			r.Exec)}
	}
	x := newExecution(r)
	var err error
	if x.process, err = b.Exec(*r.Process, x.stdio); err != nil {
		x.stdio.Close()
		return nil, err
	}
	x.started = time.Now()
	s.mu.Lock()
	s.execs[r.Exec] = x
	x.last = s.closing
	s.mu.Unlock()
	return x, nil
}

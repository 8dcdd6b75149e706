package server

import (
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/vethloom/vethloom/engine/shim"
	"github.com/vethloom/vethloom/engine/shim/box"
)

// execGrace is how long an exec's output may trail its end: a process it left
// behind in the container can hold the pipes open for ever.
const execGrace = 500 * time.Millisecond

// execution is a further command in the container.
type execution struct {
	process *box.Process
	stdio   *box.Stdio
}

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
	s.reply(c, shim.Reply{State: shim.State{Status: shim.Running, Pid: x.process.Pid(), Started: time.Now()}})
	var pumps sync.WaitGroup
	for kind, f := range map[shim.Kind]*os.File{shim.KindStdout: x.stdio.Stdout, shim.KindStderr: x.stdio.Stderr} {
		if f == nil {
			continue
		}
		listening := !r.Detach
		pumps.Go(func() {
			copyOut(f, func(p []byte) {
				listening = listening && c.Write(shim.Frame{Kind: kind, Payload: p}) == nil
			})
		})
	}
	feeding := make(chan struct{})
	go func() {
		defer close(feeding)
		s.feedExec(c, x, r)
	}()
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
	s.mu.Lock()
	delete(s.execs, r.Exec)
	s.mu.Unlock()
	s.tell(c, exit)
	x.stdio.Close()
	<-feeding
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
	x := &execution{stdio: &box.Stdio{}}
	var err error
	if x.process, err = b.Exec(*r.Process, x.stdio); err != nil {
		x.stdio.Close()
		return nil, err
	}
	s.mu.Lock()
	s.execs[r.Exec] = x
	s.mu.Unlock()
	return x, nil
}

func (s *Server) feedExec(c *shim.Conn, x *execution, r shim.Request) {
	to := x.stdio.Stdin
	if !r.Stdin {
		to = nil
	}
	for {
		f, err := c.Read()
		if err != nil {
			return
		}
		switch {
		case to == nil:
		case f.Kind == shim.KindStdin:
			if _, err := to.Write(f.Payload); err != nil {
				to = nil
			}
		case f.Kind == shim.KindCloseStdin && !r.Process.TTY:
			to.Close()
			to = nil
		}
	}
}

func (x *execution) wait() shim.Exit {
	code, signal, err := x.process.Wait()
	e := shim.Exit{Code: code, Signal: signal, Finished: time.Now()}
	if err != nil {
		e.Error = err.Error()
	}
	return e
}

package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime/debug"
	"sync"
	"time"

	"github.com/vethloom/vethloom/engine/shim"
	"github.com/vethloom/vethloom/engine/shim/box"
	"github.com/vethloom/vethloom/engine/shim/logfile"
)

// drainGrace is how long after the container's end its pipes may stay open in
// other hands (a descriptor passed out of the container) before they are let go.
const drainGrace = 2 * time.Second

// settleTime is after how long memory is given back that the container's start needed, or a command in it.
const settleTime = 300 * time.Millisecond

// gcPercent keeps a supervisor small in its long life; it allocates little.
const gcPercent = 25

// Server supervises one container.
type Server struct {
	log *slog.Logger

	mu        sync.Mutex
	status    shim.Status
	pid       int
	started   time.Time
	exit      *shim.Exit
	attachers []*attacher
	waiters   []*shim.Conn
	execs     map[string]*execution
	ended     []*execution        // those of execs that have ended, oldest first
	conns     map[*shim.Conn]bool // true once its request is known
	closing   bool
	tidy      *time.Timer // gives memory back

	bundle shim.Bundle
	box    *box.Box
	stdio  *box.Stdio
	logs   *logfile.Writer
	ready  chan struct{} // closed once there is stdio, or never will be
	begun  chan struct{} // closed once the command runs, or never will
	stdin  sync.Mutex    // one frame of one attacher at a time
	pumps  sync.WaitGroup
	conng  sync.WaitGroup
}

// New returns a server that logs what goes wrong and cannot be told to anyone.
func New(log *slog.Logger) *Server {
	s := &Server{
		log: log, status: shim.Creating, execs: map[string]*execution{},
		conns: map[*shim.Conn]bool{}, ready: make(chan struct{}), begun: make(chan struct{}),
		tidy: time.AfterFunc(time.Hour, func() {
			debug.SetGCPercent(gcPercent)
			debug.FreeOSMemory()
		}),
	}
	s.tidy.Stop() // until there is something to give back
	return s
}

// Run supervises the container that control asks for, and returns once it has
// ended and everybody who listens has been told. A control connection that
// closes before its start request undoes everything.
func (s *Server) Run(control net.Conn, listener net.Listener) error {
	accepting := make(chan struct{})
	go func() {
		defer close(accepting)
		s.accept(listener)
	}()
	err := s.run(shim.NewConn(control))
	listener.Close()
	<-accepting
	s.shutdown()
	s.conng.Wait()
	return err
}

func (s *Server) run(control *shim.Conn) error {
	defer control.Close()
	request, err := readRequest(control)
	if err != nil || request.Op != shim.OpCreate || request.Bundle == nil {
		close(s.ready)
		if errors.Is(err, io.EOF) {
			return nil // netd went away before it asked for anything
		}
		return errors.Join(err, fmt.Errorf("the first request is %q, want a bundle to create", request.Op))
	}
	s.bundle = *request.Bundle
	createErr := s.create()
	close(s.ready)
	if request, err = readRequest(control); err != nil || request.Op != shim.OpStart {
		return s.undo() // nobody wants it started any more
	}
	if createErr == nil {
		createErr = s.start()
	}
	if createErr != nil {
		undoErr := s.undo()
		return errors.Join(control.WriteJSON(shim.KindReply, failed(createErr)), undoErr)
	}
	s.mu.Lock()
	s.waiters = append(s.waiters, control)
	s.mu.Unlock()
	// netd may have gone meanwhile; the container runs all the same.
	if err := control.WriteJSON(shim.KindReply, shim.Reply{State: s.state()}); err != nil {
		s.log.Info("netd went away during the start", "error", err)
	}
	s.tidy.Reset(settleTime)
	return s.supervise()
}

func (s *Server) create() error {
	var err error
	if s.logs, err = logfile.NewWriter(s.bundle.Log.Path, s.bundle.Log.MaxSize, s.bundle.Log.Files); err != nil {
		return err
	}
	stdio := &box.Stdio{}
	if s.box, err = box.Create(s.bundle, stdio); err != nil {
		stdio.Close()
		return err
	}
	s.stdio = stdio
	s.pump(stdio)
	return nil
}

func (s *Server) start() error {
	if err := s.box.Start(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status, s.started, s.pid = shim.Running, time.Now(), s.box.Init().Pid()
	close(s.begun)
	return nil
}

// undo removes a container that was never started.
func (s *Server) undo() error {
	if s.box == nil {
		return s.closeLogs()
	}
	errs := []error{s.box.Kill(9)}
	if _, _, err := s.box.Init().Wait(); err != nil {
		errs = append(errs, err)
	}
	s.pumps.Wait()
	errs = append(errs, s.box.Destroy(), s.closeLogs())
	s.stdio.Close()
	return errors.Join(errs...)
}

func (s *Server) closeLogs() error {
	if s.logs == nil {
		return nil
	}
	return s.logs.Close()
}

// supervise waits for the container's end and leaves its exit status before
// anyone is told: netd may be away and must learn it all the same.
func (s *Server) supervise() error {
	code, signal, err := s.box.Init().Wait()
	exit := shim.Exit{Code: code, Signal: signal, OOM: s.box.OOM(), Started: s.started, Finished: time.Now()}
	if err != nil {
		exit.Error = err.Error()
	}
	errs := []error{shim.WriteExit(s.bundle.ExitPath, exit)} // before anyone can learn of it
	s.mu.Lock()
	s.exit, s.status = &exit, shim.Exited
	s.mu.Unlock()
	errs = append(errs, s.box.Destroy())

	drained := make(chan struct{})
	go func() {
		defer close(drained)
		s.pumps.Wait()
	}()
	select {
	case <-drained:
	case <-time.After(drainGrace):
		s.cutOutput()
	}
	s.tellWaiters(exit)
	<-drained // an attacher that reads slowly gets everything
	errs = append(errs, s.closeLogs())
	s.stdio.Close()
	s.tellAttachers(exit)
	return errors.Join(errs...)
}

func (s *Server) state() shim.State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return shim.State{Status: s.status, Pid: s.pid, Started: s.started}
}

func (s *Server) tellWaiters(exit shim.Exit) {
	s.mu.Lock()
	waiters := s.waiters
	s.waiters = nil
	s.closing = true // from here on a waiter is told by its own handler
	s.mu.Unlock()
	for _, w := range waiters {
		s.tell(w, exit)
	}
}

func (s *Server) tell(c *shim.Conn, exit shim.Exit) {
	if err := c.WriteJSON(shim.KindExit, exit); err != nil {
		s.log.Debug("a listener went away before the exit", "error", err)
	}
	c.Close()
}

func (s *Server) tellAttachers(exit shim.Exit) {
	s.mu.Lock()
	attachers := s.attachers
	s.attachers = nil
	s.mu.Unlock()
	var told sync.WaitGroup
	for _, a := range attachers {
		told.Go(func() { s.tell(a.conn, exit) })
	}
	told.Wait()
}

// shutdown ends connections that asked for nothing.
func (s *Server) shutdown() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closing = true
	if s.status == shim.Creating {
		close(s.begun)
	}
	for c, asked := range s.conns {
		if !asked {
			c.Close()
		}
	}
	for _, x := range s.execs {
		go x.finish() // its lock may be held until its client reads on
	}
	for _, a := range s.attachers {
		a.conn.Close()
	}
	for _, w := range s.waiters {
		w.Close()
	}
}

func readRequest(c *shim.Conn) (shim.Request, error) {
	f, err := c.Read()
	if err != nil {
		return shim.Request{}, err
	}
	var r shim.Request
	if f.Kind != shim.KindRequest {
		return r, fmt.Errorf("%w: kind %d instead of a request", shim.ErrFrame, f.Kind)
	}
	if err := json.Unmarshal(f.Payload, &r); err != nil {
		return r, fmt.Errorf("%w: request: %w", shim.ErrFrame, err)
	}
	return r, nil
}

func failed(err error) shim.Reply {
	if e, ok := errors.AsType[*shim.Error](err); ok {
		return shim.Reply{Error: e}
	}
	return shim.Reply{Error: &shim.Error{Code: shim.CodeInternal, Message: err.Error()}}
}

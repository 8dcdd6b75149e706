package docker

import (
	"context"
	"errors"
	"io"
	"net/http"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/vethloom/vethloom/api/server"
	"github.com/vethloom/vethloom/engine"
)

func (s containerService) execCreate(w *answer, r *http.Request) error {
	var c execBody
	if err := decode(w, r, &c); err != nil {
		return err
	}
	if len(c.Cmd) == 0 {
		return invalid("Cmd", "", "No exec command specified", "say what to run")
	}
	if _, err := detachKeys(c.DetachKeys); err != nil {
		return err
	}
	in, err := s.find(r.Context(), r)
	if err != nil {
		return err
	}
	if err := mayExec(in); err != nil {
		return err
	}
	c.ExecCreateRequest.Cmd = c.Cmd
	id, err := s.execs.add(in.ID, c.ExecCreateRequest)
	if err != nil {
		return err
	}
	return w.json(http.StatusCreated, container.ExecCreateResponse{ID: id})
}

// execBody is a request for a command, of which older clients may send one word alone.
type execBody struct {
	container.ExecCreateRequest
	Cmd stringList
}

// mayExec refuses a container in which no command can be run.
func mayExec(c server.ContainerView) error {
	switch {
	case c.Status == engine.Paused:
		return &refusal{status: http.StatusConflict, text: "Container " + c.ID +
			" is paused, unpause the container before exec"}
	case !lives(c.Status):
		return &refusal{status: http.StatusConflict, text: "Container " + c.ID + " is not running"}
	}
	return nil
}

func (s containerService) execStart(w *answer, r *http.Request) error {
	var o container.ExecStartRequest
	if err := decode(w, r, &o); err != nil {
		return err
	}
	e, err := s.execs.find(r.PathValue("id"))
	if err != nil {
		return err
	}
	in, err := s.cfg.Containers.Inspect(r.Context(), e.container)
	if err != nil {
		return err
	}
	if err := mayExec(in); err != nil {
		return err
	}
	keys, err := detachKeys(e.asked.DetachKeys)
	if err != nil {
		return err
	}
	if err := s.execs.begin(e); err != nil {
		return err
	}
	size := o.ConsoleSize
	if size == nil {
		size = e.asked.ConsoleSize
	}
	stdio := engine.Stdio{Resize: e.resize}
	if size != nil {
		stdio.Size = engine.WindowSize{Rows: uint16(min(size[0], maxSize)), Columns: uint16(min(size[1], maxSize))}
	}
	if o.Detach {
		return s.execDetached(w, r, e, stdio)
	}
	return s.execAttached(w, r, e, keys, stdio)
}

const maxSize = 1<<16 - 1

// execDetached answers once the command runs. That goes on until the command ends, of which somebody may ask.
func (s containerService) execDetached(w *answer, r *http.Request, e *execution, stdio engine.Stdio) error {
	begun := make(chan error, 2) // what happens first is read
	stdio.Started = func(at engine.Started) error {
		s.execs.runs(e, at.Pid)
		begun <- nil
		return nil
	}
	s.calls.Go(func() {
		_, err := s.run(context.WithoutCancel(r.Context()), e, stdio)
		begun <- err
	})
	if err := <-begun; err != nil {
		return cannotRun(err)
	}
	return w.empty(http.StatusOK)
}

// execAttached connects the client with the command. One that goes away leaves the command alone.
func (s containerService) execAttached(w *answer, r *http.Request, e *execution, keys []byte,
	stdio engine.Stdio) error {
	t := newTalk(w, r, e.asked.Tty)
	defer t.close()
	if e.asked.AttachStdin {
		stdio.Stdin = t.stdin(keys, true)
	}
	if e.asked.AttachStdout {
		stdio.Stdout = lasting{t, stdcopy.Stdout}
	}
	if e.asked.AttachStderr {
		stdio.Stderr = lasting{t, stdcopy.Stderr}
	}
	stdio.Started = func(at engine.Started) error {
		s.execs.runs(e, at.Pid)
		return nil
	}
	if err := t.open(s.stop); err != nil {
		s.execs.ends(e, exitNotRunnable)
		return err
	}
	gone := context.AfterFunc(t.ctx, t.close)
	defer gone()
	ran, err := s.run(context.WithoutCancel(r.Context()), e, stdio)
	if err != nil && !ran {
		// The client knows by the exit code, and the person by the text.
		_, _ = lasting{t, stdcopy.Stdout}.Write([]byte(cannotRun(err).Error() + "\r\n"))
	}
	return err
}

// run runs a command to its end, or until netd stops.
func (s containerService) run(ctx context.Context, e *execution, stdio engine.Stdio) (ran bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// Nobody comes back for it: the engine is told by the plain end of a context.
	release := context.AfterFunc(s.stop, cancel)
	defer release()
	if stdio.Stdout == nil {
		stdio.Stdout = io.Discard
	}
	if stdio.Stderr == nil {
		stdio.Stderr = io.Discard
	}
	started := stdio.Started
	stdio.Started = func(at engine.Started) error {
		ran = true
		return started(at)
	}
	exit, err := s.cfg.Containers.Exec(ctx, engine.ExecRequest{Container: e.container, Command: e.asked.Cmd,
		Env: e.asked.Env, WorkDir: e.asked.WorkingDir, User: e.asked.User, TTY: e.asked.Tty,
		Privileged: e.asked.Privileged}, stdio)
	code := exit.Code
	if err != nil {
		code = exitNotRunnable
		var known server.ExitCoder
		if errors.As(err, &known) {
			code = known.ExitCode()
		}
	}
	s.execs.ends(e, code)
	return ran, err
}

// lasting is an output that a command goes on with after its client has gone.
type lasting struct {
	to     *talk
	stream stdcopy.StdType
}

// Write implements [io.Writer].
func (l lasting) Write(b []byte) (int, error) {
	if l.to.ctx.Err() == nil && !l.to.over.Load() {
		if _, err := l.to.output(l.stream).Write(b); err != nil {
			l.to.end()
		}
	}
	return len(b), nil
}

func (s containerService) execInspect(w *answer, r *http.Request) error {
	e, err := s.execs.find(r.PathValue("id"))
	if err != nil {
		return err
	}
	return w.json(http.StatusOK, s.execs.inspect(e))
}

func (s containerService) execResize(w *answer, r *http.Request) error {
	size, err := windowSize(r)
	if err != nil {
		return err
	}
	e, err := s.execs.find(r.PathValue("id"))
	if err != nil {
		return err
	}
	if err := s.execs.resized(e, size); err != nil {
		return err
	}
	return w.empty(http.StatusOK)
}

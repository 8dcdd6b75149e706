package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine/shim"
	"golang.org/x/sys/unix"
)

// WindowSize is the size of a terminal, in characters; the zero value is unknown.
type WindowSize struct {
	Rows, Columns uint16
}

// Stdio is the caller's side of a process. The caller ends Stdin's reader after
// Attach or Exec has returned: a read under way cannot be taken back.
type Stdio struct {
	Stdin   io.Reader // nil: no input; its end is the process's end of input
	Stdout  io.Writer
	Stderr  io.Writer
	Size    WindowSize        // of the terminal at the start
	Resize  <-chan WindowSize // later sizes
	Signals <-chan string     // names or numbers, for the process
	// Started is called once, when the process runs.
	Started func(Started) error
}

// Started is a process that a caller has been connected with.
type Started struct {
	ID  string // of the container, or of the exec
	Pid int
	// Of an exec that is gone on with: bytes of input that came to it, and of output that are lost.
	Received, Lost int64
}

// ErrDetached may be returned by Stdin's reader: input is over for this caller,
// but not for the process.
var ErrDetached = errors.New("detached")

// Attach connects the caller with the container's first process, started before
// with start, so that no output is lost. It returns when the container has ended
// and that is settled (network gone; with Spec.Remove, the container too), or
// with the context's error.
func (e *streams) Attach(ctx context.Context, ref string, start bool, stdio Stdio) (ExitStatus, error) {
	c, rec, err := e.settled(ctx, ref)
	if err != nil {
		return ExitStatus{}, err
	}
	stream, err := e.openStream(ctx, c, rec, start, stdio)
	if err != nil {
		return ExitStatus{}, err
	}
	e.emit(c, "attach", nil)
	return e.follow(ctx, c, stream, stdio)
}

// follow passes on what a container that runs says and hears, until it has ended and that is settled.
func (e *streams) follow(ctx context.Context, c *container, stream *shim.Stream, stdio Stdio) (ExitStatus, error) {
	defer stream.Close()
	end := e.endOf(c)
	if stdio.Started != nil {
		if err := stdio.Started(Started{ID: c.id, Pid: e.snapshot(c).Pid}); err != nil {
			return ExitStatus{}, err
		}
	}
	exit, err := carry(ctx, stream, stdio)
	if err != nil && ctx.Err() != nil {
		e.emit(c, "detach", nil)
		e.endInput(c, stdio)
		return ExitStatus{}, ctx.Err()
	}
	// Without an exit its supervisor died: the record will say so.
	select {
	case <-end.done:
		return end.status, nil
	case <-ctx.Done():
		return ExitStatus{}, ctx.Err()
	case <-e.life.Done():
		if err != nil {
			return ExitStatus{}, err
		}
		return ExitStatus{Code: exit.Code, OOM: exit.OOM, Error: exit.Error, Finished: exit.Finished}, nil
	}
}

// endInput ends the input of a container that has it from one client alone, which went away.
func (e *streams) endInput(c *container, stdio Stdio) {
	s := e.snapshot(c).Spec
	if !s.StdinOnce || !s.OpenStdin || s.TTY || stdio.Stdin == nil {
		return
	}
	stream, err := c.client().Attach(e.life, true, shim.Size{})
	if err == nil {
		err = errors.Join(stream.CloseStdin(), stream.Close())
	}
	if err != nil {
		e.log.Debug("end a container's input", "container", c.id, "error", err)
	}
}

func (e *streams) openStream(ctx context.Context, c *container, rec record, start bool, stdio Stdio) (
	stream *shim.Stream, err error) {
	attach := func() error {
		stream, err = c.client().Attach(ctx, stdio.Stdin != nil && rec.Spec.OpenStdin, shim.Size(stdio.Size))
		return err
	}
	if start {
		unlock, err := e.lock(ctx, c)
		if err != nil {
			return nil, err
		}
		defer unlock()
		if err := e.start(ctx, c, attach); err != nil {
			if stream != nil {
				stream.Close()
			}
			return nil, err
		}
		return stream, nil
	}
	if !isLive(rec.Status) {
		return nil, notRunning(rec.Spec.Name)
	}
	if err := attach(); err != nil {
		return nil, commandError(rec.Spec.Name, err)
	}
	return stream, nil
}

// carry moves stdio until the process ends.
func carry(ctx context.Context, stream *shim.Stream, stdio Stdio) (shim.Exit, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { stream.Close() })
	defer stop()
	if stdio.Stdin != nil {
		go feed(stream, stdio.Stdin) // ends with the reader, or at the first write after the end
	}
	controls := make(chan struct{})
	go func() {
		defer close(controls)
		control(ctx, stream, stdio)
	}()
	exit, err := receive(stream, stdio)
	cancel()
	<-controls
	return exit, err
}

func feed(stream *shim.Stream, in io.Reader) {
	buf := make([]byte, shim.MaxPiece)
	for {
		n, err := in.Read(buf)
		if n > 0 && stream.Send(buf[:n]) != nil {
			return
		}
		if errors.Is(err, io.EOF) {
			stream.CloseStdin() // an error: the process has ended
			return
		}
		if err != nil {
			return
		}
	}
}

// control passes on sizes and signals. One that comes too late is nobody's loss.
func control(ctx context.Context, stream *shim.Stream, stdio Stdio) {
	resize, signals := stdio.Resize, stdio.Signals
	for {
		select {
		case <-ctx.Done():
			return
		case size, ok := <-resize:
			if !ok {
				resize = nil
				continue
			}
			stream.Resize(ctx, shim.Size(size))
		case name, ok := <-signals:
			if !ok {
				signals = nil
				continue
			}
			if n, err := parseSignal(name); err == nil {
				stream.Signal(ctx, n)
			}
		}
	}
}

func receive(stream *shim.Stream, stdio Stdio) (shim.Exit, error) {
	for {
		chunk, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			exit, _ := stream.Exit()
			return exit, nil
		}
		if err != nil {
			return shim.Exit{}, err
		}
		to := stdio.Stdout
		if chunk.Stderr {
			to = stdio.Stderr
		}
		if to == nil {
			continue
		}
		if _, err := to.Write(chunk.Data); err != nil {
			return shim.Exit{}, fmt.Errorf("pass on output: %w", err)
		}
	}
}

// ExecRequest describes a further process in a container. User, directory and
// environment are the container's where none are given.
type ExecRequest struct {
	Container  string
	Command    []string
	Env        []string
	WorkDir    string
	User       string
	TTY        bool
	Privileged bool
	Detach     bool
	Resume     *Resume // goes on with a command that runs: all but the container is its own already
}

// Resume says which command to go on with, after netd went away under it: the ID that Started gave, and how many bytes
// of its output have arrived.
type Resume struct {
	ID             string
	Stdout, Stderr int64
}

// Exec runs a further process in a running container and returns when it has
// ended; detached, once it runs.
func (e *streams) Exec(ctx context.Context, r ExecRequest, stdio Stdio) (ExitStatus, error) {
	c, rec, err := e.settled(ctx, r.Container)
	switch {
	case err != nil:
		return ExitStatus{}, err
	case len(r.Command) == 0 && r.Resume == nil:
		return ExitStatus{}, invalid("command", "", "is empty", "say what to run")
	case !isLive(rec.Status):
		return ExitStatus{}, notRunning(rec.Spec.Name)
	}
	id, stream, err := e.openExec(ctx, c, rec, r, stdio)
	if errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist) {
		return ExitStatus{}, notRunning(rec.Spec.Name) // it has just ended: its supervisor listens no more
	}
	if err != nil {
		return ExitStatus{}, err
	}
	if stream == nil { // detached
		if stdio.Started != nil {
			return ExitStatus{}, stdio.Started(Started{ID: id})
		}
		return ExitStatus{}, nil
	}
	defer stream.Close()
	if stdio.Started != nil {
		at := stream.State()
		if err := stdio.Started(Started{ID: id, Pid: at.Pid, Received: at.Received, Lost: at.Lost}); err != nil {
			return ExitStatus{}, err
		}
	}
	exit, err := carry(ctx, stream, stdio)
	if err != nil {
		e.letGo(ctx, c, stream)
		if ctx.Err() != nil {
			return ExitStatus{}, ctx.Err()
		}
		return ExitStatus{}, fmt.Errorf("exec in container %s: %w", rec.Spec.Name, err)
	}
	e.emit(c, "exec_die", map[string]string{"execID": id, "exitCode": strconv.Itoa(exit.Code)})
	return ExitStatus{Code: exit.Code, OOM: exit.OOM, Error: exit.Error, Finished: exit.Finished}, nil
}

// saidBytes bounds what events tell of a command.
const saidBytes = 256

func said(command []string) string {
	text := strings.Join(command, " ")
	return strings.ToValidUTF8(text[:min(len(text), saidBytes)], "")
}

// openExec starts a command, or joins one that runs.
func (e *streams) openExec(ctx context.Context, c *container, rec record, r ExecRequest, stdio Stdio) (
	id string, stream *shim.Stream, err error) {
	if r.Resume != nil {
		seen := [2]int64{r.Resume.Stdout, r.Resume.Stderr}
		stream, err = c.client().Rejoin(ctx, r.Resume.ID, stdio.Stdin != nil, seen, shim.Size(stdio.Size))
		return r.Resume.ID, stream, commandError(rec.Spec.Name, err)
	}
	img, err := e.c.Images.Resolve(ctx, rec.ImageID)
	if err != nil && !errors.Is(err, cnm.ErrNotFound) {
		return "", nil, err
	}
	p := process(rec.Spec, img)
	p.Args, p.Env, p.TTY, p.Privileged = r.Command, mergeEnv(p.Env, r.Env), r.TTY, r.Privileged
	p.Stdin, p.Size = stdio.Stdin != nil && !r.Detach, shim.Size(stdio.Size)
	if r.WorkDir != "" {
		p.Cwd = r.WorkDir
	}
	if r.User != "" {
		p.User = r.User
	}
	if id, err = randomHex(32); err != nil {
		return "", nil, err
	}
	stream, err = c.client().Exec(ctx, id, p, r.Detach)
	if err != nil {
		return "", nil, commandError(rec.Spec.Name, err)
	}
	for _, action := range []string{"exec_create", "exec_start"} {
		e.emit(c, action+": "+said(r.Command), map[string]string{"execID": id})
	}
	return id, stream, nil
}

// letGo ends an exec whose caller does not come back for its output. Where netd ends, the caller will.
func (e *streams) letGo(ctx context.Context, c *container, stream *shim.Stream) {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return
	}
	if err := stream.Release(context.WithoutCancel(ctx)); err != nil {
		e.log.Debug("let an exec go", "container", c.id, "error", err)
	}
}

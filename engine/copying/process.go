package copying

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/engine/shim"
)

// Launcher starts net-copy.
type Launcher struct {
	Path string
}

// Call is one request and what goes with it.
type Call struct {
	Request
	Target *os.File         // of a container that runs: see TargetFD
	Begin  func(Stat) error // of OpOut: called before anything is written; an error ends the call
	In     io.Reader        // of OpIn
	Out    io.Writer        // of OpOut
}

// killTime bounds the wait for a process that was killed. One that waits for a disk ends later.
const killTime = 10 * time.Second

// Do has the process do what is asked for, and returns once it is gone. When the context ends, it is killed.
func (l Launcher) Do(ctx context.Context, c Call) (Stat, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	p, err := l.start(c)
	if err != nil {
		return Stat{}, err
	}
	stop := context.AfterFunc(ctx, p.kill)
	defer stop()
	st, err := p.converse(c, cancel)
	p.close()
	gone := p.wait(ctx)
	switch told, ok := errors.AsType[*Error](err); {
	case ok:
		return Stat{}, told
	case ctx.Err() != nil:
		return Stat{}, context.Cause(ctx)
	case err != nil || gone != nil:
		return Stat{}, fmt.Errorf("copy files: %w%s", errors.Join(err, gone), p.said())
	}
	return st, nil
}

// process is a net-copy that runs.
type process struct {
	cmd     *exec.Cmd
	control *shim.Conn
	in      *os.File // what it reads
	out     *os.File // what it writes
	log     bytes.Buffer
	ended   chan error
	over    bool // it has ended
}

func (l Launcher) start(c Call) (*process, error) {
	ours, theirs, err := shim.SocketPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	p := &process{control: shim.NewConn(ours), ended: make(chan error, 1)}
	p.cmd = &exec.Cmd{Path: l.Path, Args: []string{"net-copy"}, Dir: "/", Env: []string{"GOMAXPROCS=2"},
		ExtraFiles: []*os.File{theirs}, Stderr: &limited{to: &p.log, left: maxLog}, WaitDelay: killTime,
		SysProcAttr: &syscall.SysProcAttr{Setsid: true, Cloneflags: unix.CLONE_NEWNS}}
	if c.Target != nil {
		p.cmd.ExtraFiles = append(p.cmd.ExtraFiles, c.Target)
	}
	if err := p.launch(c); err != nil {
		p.close()
		return nil, fmt.Errorf("start %s: %w", l.Path, err)
	}
	go func() { p.ended <- p.cmd.Wait() }()
	return p, nil
}

// launch makes the pipes that a call needs, and the process.
func (p *process) launch(c Call) error {
	if c.In != nil {
		theirs, ours, err := os.Pipe()
		if err != nil {
			return err
		}
		defer theirs.Close()
		p.cmd.Stdin, p.in = theirs, ours
	}
	if c.Out != nil {
		ours, theirs, err := os.Pipe()
		if err != nil {
			return err
		}
		defer theirs.Close()
		p.cmd.Stdout, p.out = theirs, ours
	}
	return p.cmd.Start()
}

// converse makes the request and moves the data.
func (p *process) converse(c Call, cancel context.CancelCauseFunc) (Stat, error) {
	if err := p.control.WriteJSON(shim.KindRequest, c.Request); err != nil {
		return Stat{}, err
	}
	if c.In != nil {
		go p.feed(c.In, cancel)
	}
	st, err := p.reply()
	if err != nil || c.Op != OpOut {
		return st, err
	}
	if err := c.Begin(st); err != nil {
		cancel(err)
		return Stat{}, err
	}
	if _, err := io.Copy(c.Out, p.out); err != nil {
		cancel(err)
		return Stat{}, err
	}
	_, err = p.reply()
	return st, err
}

// feed gives the process what comes from a client. Where that breaks off, what was unpacked is not to look whole.
func (p *process) feed(in io.Reader, cancel context.CancelCauseFunc) {
	_, err := io.Copy(p.in, in)
	if err != nil && !errors.Is(err, unix.EPIPE) && !errors.Is(err, os.ErrClosed) {
		cancel(fmt.Errorf("read what is to be copied: %w", err))
		return
	}
	p.in.Close()
}

func (p *process) reply() (Stat, error) {
	f, err := p.control.Read()
	if err != nil {
		return Stat{}, fmt.Errorf("net-copy went away: %w", err)
	}
	var r Reply
	if err := json.Unmarshal(f.Payload, &r); err != nil {
		return Stat{}, fmt.Errorf("read a reply of net-copy: %w", err)
	}
	if r.Error != nil {
		return Stat{}, r.Error
	}
	if r.Stat == nil {
		return Stat{}, nil
	}
	return *r.Stat, nil
}

func (p *process) kill() {
	p.cmd.Process.Kill()
	p.control.Close()
}

func (p *process) close() {
	p.control.Close()
	for _, f := range []*os.File{p.in, p.out} {
		if f != nil {
			f.Close()
		}
	}
}

// wait returns when the process is gone. One that was not told to go has nothing left to do: the control connection
// is closed.
func (p *process) wait(ctx context.Context) error {
	timer := time.NewTimer(killTime)
	defer timer.Stop()
	select {
	case err := <-p.ended:
		p.over = true
		return err
	case <-ctx.Done():
	case <-timer.C:
		p.kill()
	}
	timer.Reset(killTime)
	select {
	case err := <-p.ended:
		p.over = true
		return err
	case <-timer.C:
		return fmt.Errorf("process %d was killed and has not ended for %s: it waits for a disk", p.cmd.Process.Pid,
			killTime)
	}
}

// said is what the process had to say, once it is gone.
func (p *process) said() string {
	if !p.over || p.log.Len() == 0 {
		return ""
	}
	return ": " + p.log.String()
}

// maxLog bounds what is kept of what a process says, in bytes.
const maxLog = 4 << 10

// limited keeps the beginning of what is written to it.
type limited struct {
	to   *bytes.Buffer
	left int
}

func (l *limited) Write(b []byte) (int, error) {
	some := b[:min(len(b), l.left)]
	l.left -= len(some)
	l.to.Write(some)
	return len(b), nil
}

package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"syscall"
	"time"
)

// Client speaks to the shim of a run directory. It holds no connection.
type Client struct {
	Dir string
}

// ErrNoAnswer says that a supervisor is there and does not answer: it is stopped, or waits for a disk.
var ErrNoAnswer = errors.New("the container's supervisor (net-shim) does not answer: it is stopped (kill -CONT), or " +
	"waits for a disk; 'net kill' and 'net rm -f' end the container")

// How long a supervisor may take to answer. A command takes longer to begin than a signal to be sent.
const (
	answerTime = 5 * time.Second
	beginTime  = time.Minute
)

// call makes one request and returns the connection with its reply read.
func (c Client) call(ctx context.Context, r Request) (*Conn, State, error) {
	conn, err := dial(ctx, c.Dir)
	if errors.Is(err, syscall.EAGAIN) { // as many wait for an answer as may (unix(7))
		return nil, State{}, fmt.Errorf("%s: %w", r.Op, ErrNoAnswer)
	}
	if err != nil {
		return nil, State{}, err
	}
	patience := answerTime
	if r.Op == OpExec || r.Op == OpAttach || r.Op == OpRejoin {
		patience = beginTime
	}
	bound, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	stop := context.AfterFunc(bound, func() { conn.Close() })
	defer stop()
	err = conn.WriteJSON(KindRequest, r)
	var s State
	if err == nil {
		s, err = readReply(conn)
	}
	if err == nil && stop() {
		return conn, s, nil
	}
	conn.Close()
	switch {
	case ctx.Err() != nil:
		return nil, State{}, ctx.Err()
	case bound.Err() != nil:
		return nil, State{}, fmt.Errorf("%s, for %s: %w", r.Op, patience, ErrNoAnswer)
	}
	return nil, State{}, fmt.Errorf("%s: %w", r.Op, err)
}

func (c Client) do(ctx context.Context, r Request) (State, error) {
	conn, s, err := c.call(ctx, r)
	if err != nil {
		return State{}, err
	}
	return s, conn.Close()
}

// State asks how the container is.
func (c Client) State(ctx context.Context) (State, error) {
	return c.do(ctx, Request{Op: OpState})
}

// Kill sends a signal to the container's first process, or to an exec.
func (c Client) Kill(ctx context.Context, exec string, signal int) error {
	_, err := c.do(ctx, Request{Op: OpKill, Exec: exec, Signal: signal})
	return err
}

// Resize sets the size of the terminal of the container, or of an exec.
func (c Client) Resize(ctx context.Context, exec string, s Size) error {
	_, err := c.do(ctx, Request{Op: OpResize, Exec: exec, Size: s})
	return err
}

// Pause freezes every process of the container.
func (c Client) Pause(ctx context.Context) error {
	_, err := c.do(ctx, Request{Op: OpPause})
	return err
}

// Resume thaws a paused container.
func (c Client) Resume(ctx context.Context) error {
	_, err := c.do(ctx, Request{Op: OpResume})
	return err
}

// Update changes the container's limits. The error of a supervisor that is too old for it has [CodeUnsupported].
func (c Client) Update(ctx context.Context, r Resources) error {
	_, err := c.do(ctx, Request{Op: OpUpdate, Resources: &r})
	return err
}

// Wait subscribes to the container's end. The state is the one at the time of
// the call; the waiter's Exit blocks until the end.
func (c Client) Wait(ctx context.Context) (*Waiter, State, error) {
	conn, s, err := c.call(ctx, Request{Op: OpWait})
	if err != nil {
		return nil, State{}, err
	}
	return &Waiter{conn}, s, nil
}

// Waiter waits for the end of a container.
type Waiter struct{ conn *Conn }

// Exit returns how the container ended, or an error when its shim is gone.
func (w *Waiter) Exit() (Exit, error) { return readExit(w.conn) }

// ExitNow is Exit of a container that has ended: the shim has it at hand.
func (w *Waiter) ExitNow() (Exit, error) {
	bound := time.AfterFunc(answerTime, func() { w.conn.Close() })
	defer bound.Stop()
	return readExit(w.conn)
}

// Close gives up waiting.
func (w *Waiter) Close() error { return w.conn.Close() }

// Attach joins the container's stdio. It works before the start too.
func (c Client) Attach(ctx context.Context, stdin bool, size Size) (*Stream, error) {
	conn, s, err := c.call(ctx, Request{Op: OpAttach, Stdin: stdin, Size: size})
	if err != nil {
		return nil, err
	}
	return newStream(c, conn, "", s), nil
}

// Exec runs a further command in the container; id names it for Kill and
// Resize. A detached one is left alone once it runs, and the stream is nil.
func (c Client) Exec(ctx context.Context, id string, p Process, detach bool) (*Stream, error) {
	return c.exec(ctx, Request{Op: OpExec, Exec: id, Process: &p, Stdin: p.Stdin, Detach: detach, Hold: !detach})
}

// Probe is Exec of a command that nobody comes back for: it takes no place among those that are kept for that.
func (c Client) Probe(ctx context.Context, id string, p Process) (*Stream, error) {
	return c.exec(ctx, Request{Op: OpExec, Exec: id, Process: &p})
}

func (c Client) exec(ctx context.Context, r Request) (*Stream, error) {
	conn, s, err := c.call(ctx, r)
	if err != nil {
		return nil, err
	}
	if r.Detach {
		return nil, conn.Close()
	}
	return newStream(c, conn, r.Exec, s), nil
}

// Rejoin goes on with a command that was run with Exec, not detached, and whose stream broke off without its caller's
// will: for a minute its output waits, and its exit status can be had. Seen says how much output has arrived.
func (c Client) Rejoin(ctx context.Context, id string, stdin bool, seen [2]int64, size Size) (*Stream, error) {
	conn, s, err := c.call(ctx, Request{Op: OpRejoin, Exec: id, Stdin: stdin, Seen: seen, Size: size})
	if err != nil {
		return nil, err
	}
	return newStream(c, conn, id, s), nil
}

// Release says that nobody comes back for a command's output.
func (c Client) Release(ctx context.Context, id string) error {
	_, err := c.do(ctx, Request{Op: OpRelease, Exec: id})
	return err
}

// Chunk is a piece of output.
type Chunk struct {
	Stderr bool
	Data   []byte
}

// Stream is the stdio of a container or an exec. Recv and the sending methods
// may run at the same time.
type Stream struct {
	client Client
	conn   *Conn
	exec   string
	state  State
	mu     sync.Mutex
	exit   *Exit
}

func newStream(c Client, conn *Conn, exec string, s State) *Stream {
	return &Stream{client: c, conn: conn, exec: exec, state: s}
}

// State is the one when the stream was opened.
func (s *Stream) State() State { return s.state }

// Recv returns the next output; its data is valid until the next call. At the
// end it returns io.EOF and Exit tells how it ended. Another error means that
// the shim is gone.
func (s *Stream) Recv() (Chunk, error) {
	f, err := s.conn.Read()
	if errors.Is(err, io.EOF) {
		return Chunk{}, io.ErrUnexpectedEOF
	}
	if err != nil {
		return Chunk{}, err
	}
	switch f.Kind {
	case KindStdout, KindStderr:
		return Chunk{Stderr: f.Kind == KindStderr, Data: f.Payload}, nil
	case KindExit:
		e, err := decodeExit(f)
		if err != nil {
			return Chunk{}, err
		}
		s.mu.Lock()
		s.exit = &e
		s.mu.Unlock()
		return Chunk{}, io.EOF
	}
	return Chunk{}, fmt.Errorf("%w: kind %d in a stream", ErrFrame, f.Kind)
}

// Exit is how it ended, once Recv has returned io.EOF.
func (s *Stream) Exit() (Exit, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.exit == nil {
		return Exit{}, false
	}
	return *s.exit, true
}

// Send writes to stdin; it blocks while the process does not read.
func (s *Stream) Send(p []byte) error {
	for len(p) > 0 {
		n := min(len(p), MaxPiece)
		if err := s.conn.Write(Frame{Kind: KindStdin, Payload: p[:n]}); err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// CloseStdin ends the input; output goes on.
func (s *Stream) CloseStdin() error { return s.conn.Write(Frame{Kind: KindCloseStdin}) }

// Resize sets the terminal's size. It goes by a connection of its own, past
// input that nobody reads.
func (s *Stream) Resize(ctx context.Context, size Size) error {
	return s.client.Resize(ctx, s.exec, size)
}

// Signal sends a signal to the process, past input that nobody reads.
func (s *Stream) Signal(ctx context.Context, signal int) error {
	return s.client.Kill(ctx, s.exec, signal)
}

// Release says that nobody comes back for the output of an exec.
func (s *Stream) Release(ctx context.Context) error { return s.client.Release(ctx, s.exec) }

// Close detaches; the process goes on. The output of an exec waits for who rejoins.
func (s *Stream) Close() error { return s.conn.Close() }

func readReply(c *Conn) (State, error) {
	f, err := c.Read()
	if errors.Is(err, io.EOF) {
		return State{}, fmt.Errorf("the shim went away before it answered: %w", io.ErrUnexpectedEOF)
	}
	if err != nil {
		return State{}, err
	}
	if f.Kind != KindReply {
		return State{}, fmt.Errorf("%w: kind %d instead of a reply", ErrFrame, f.Kind)
	}
	var r Reply
	if err := json.Unmarshal(f.Payload, &r); err != nil {
		return State{}, fmt.Errorf("%w: reply: %w", ErrFrame, err)
	}
	if r.Error != nil {
		return r.State, r.Error
	}
	return r.State, nil
}

func readExit(c *Conn) (Exit, error) {
	f, err := c.Read()
	if errors.Is(err, io.EOF) {
		return Exit{}, fmt.Errorf("the shim went away: %w", io.ErrUnexpectedEOF)
	}
	if err != nil {
		return Exit{}, err
	}
	return decodeExit(f)
}

func decodeExit(f Frame) (Exit, error) {
	if f.Kind != KindExit {
		return Exit{}, fmt.Errorf("%w: kind %d instead of an exit", ErrFrame, f.Kind)
	}
	var e Exit
	if err := json.Unmarshal(f.Payload, &e); err != nil {
		return Exit{}, fmt.Errorf("%w: exit: %w", ErrFrame, err)
	}
	return e, nil
}

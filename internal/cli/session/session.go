package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"time"

	"github.com/vethloom/vethloom/api/client"
	"github.com/vethloom/vethloom/api/stdio"
	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/internal/cli/show"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
)

// resumeFor is how long a session waits for a netd that went away under a
// running container to come back.
const resumeFor = 30 * time.Second

// Streams are the standard ones of this process.
type Streams struct {
	In  io.Reader
	Out io.Writer
	Err io.Writer
}

// Session connects this process's standard streams with a process in a
// container until that exits, the user detaches, or netd stays away.
type Session struct {
	Streams   Streams
	Client    *client.Client
	Container string // what signals go to and whose exit is waited for; empty with exec
	TTY       bool
	Stdin     bool
	Proxy     bool // forward signals
	Fresh     bool // all of the container's output is this session's, from the first byte on
	Keys      DetachKeys
	// Open begins a conversation, or one that goes on where the last one broke off.
	Open func(ctx context.Context, size *apiv1.WindowSize, back *Back) (Conversation, error)

	started chan struct{} // closed once the process runs
	id      string        // of the exec, once it runs
	broken  time.Time     // since when the stream is broken; zero: it is not
	shown   [2]int64      // bytes written to standard output and standard error
	input   input         // what went to the process
	free    chan []byte   // buffers for more of it
}

// Back is where a session is that goes on after netd was away.
type Back struct {
	ID             string // of the exec
	Stdout, Stderr int64  // bytes shown
}

// Conversation is one stream of either kind.
type Conversation interface {
	send(outgoing) error
	Header() (metadata.MD, error)         // blocks until netd has taken the call
	Recv() (*apiv1.AttachResponse, error) // valid until the next
}

// outgoing is one message to the process: exactly one field is set.
type outgoing struct {
	stdin []byte
	eof   bool
	size  *apiv1.WindowSize
}

var errDetached = errors.New("detached")

var errAway = fmt.Errorf("netd has not come back for %s: the container is not affected; see 'systemctl status "+
	"netd', and attach again with 'net attach'", resumeFor)

var errExecAway = fmt.Errorf("netd has not come back for %s: the command is not affected, and its exit code is not "+
	"known; see 'systemctl status netd'", resumeFor)

// Run returns the exit status; nil without an error when the user detached.
func (s *Session) Run(ctx context.Context) (exit *apiv1.ExitStatus, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	var work sync.WaitGroup
	defer func() {
		cancel(nil)
		work.Wait()
	}()
	s.started, s.free = make(chan struct{}), make(chan []byte, 2)
	restore, err := s.raw()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, restore()) }()

	signals := s.listen()
	defer signal.Stop(signals)
	out := make(chan outgoing)
	if s.Stdin {
		work.Go(func() { s.pump(ctx, out, cancel) })
	}
	work.Go(func() { s.watch(ctx, signals, out, cancel) })
	for try := 0; ; try++ {
		exit, err = s.converse(ctx, out)
		switch cause := context.Cause(ctx); {
		case errors.Is(cause, errDetached):
			return nil, nil
		case cause != nil && exit == nil:
			return nil, cause
		case err == nil || !s.resumable(err):
			return exit, client.Explain(err)
		}
		pause(ctx, try)
	}
}

func (s *Session) Running() bool {
	select {
	case <-s.started:
		return true
	default:
		return false
	}
}

// resumable reports whether to go on after a broken stream.
func (s *Session) resumable(err error) bool {
	if !s.Running() || s.exec() && s.id == "" || client.CodeOf(err) != codes.Unavailable {
		return false
	}
	if s.broken.IsZero() {
		s.broken = time.Now()
	}
	return true
}

// pause keeps a netd that is going down from being asked all the time.
func pause(ctx context.Context, try int) {
	t := time.NewTimer(min(20*time.Millisecond<<min(try, 6), time.Second))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// converse holds one stream, to its end.
func (s *Session) converse(ctx context.Context, out chan outgoing) (*apiv1.ExitStatus, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	var work sync.WaitGroup
	defer func() {
		cancel(nil)
		work.Wait()
	}()
	if !s.Running() {
		stream, err := s.Open(ctx, s.size(), nil)
		if err != nil {
			return nil, err
		}
		work.Go(func() { s.forward(ctx, stream, out, nil) })
		return s.receive(stream, true)
	}
	away := time.AfterFunc(time.Until(s.broken.Add(resumeFor)), func() { cancel(s.away()) })
	defer away.Stop()
	stream, again, err := s.reopen(ctx)
	if err != nil {
		return s.outcome(ctx, err)
	}
	if !away.Stop() {
		return nil, s.away()
	}
	s.broken = time.Time{}
	work.Go(func() { s.forward(ctx, stream, out, again) })
	exit, err := s.follow(ctx, stream)
	if err != nil {
		return s.outcome(ctx, err)
	}
	return exit, nil
}

// reopen returns once netd is back and has taken the call, with what is to be sent to the process again.
func (s *Session) reopen(ctx context.Context) (Conversation, []outgoing, error) {
	stream, err := s.Open(ctx, s.size(), &Back{ID: s.id, Stdout: s.shown[0], Stderr: s.shown[1]})
	if err != nil {
		return nil, nil, err
	}
	if _, err := stream.Header(); err != nil {
		return nil, nil, err
	}
	if !s.exec() {
		switch sent := s.input.any(); {
		case !s.logged():
			s.notice("netd was away: output of that time may be missing here; 'net logs' has it")
		case sent:
			s.notice("netd was away: input that was on its way to the container may be lost")
		}
		return stream, nil, nil
	}
	m, err := stream.Recv()
	switch {
	case err != nil:
		return nil, nil, err
	case m.GetStarted() == nil:
		return nil, nil, errors.New("netd does not say where the command is")
	}
	if lost := m.GetStarted().GetOutputLost(); lost > 0 {
		s.notice(fmt.Sprintf("netd was away: %d bytes of output are missing here", lost))
	}
	again, err := s.input.after(m.GetStarted().GetStdinReceived())
	return stream, again, err
}

// notice tells the user, on a terminal in raw mode too.
func (s *Session) notice(text string) {
	end := "\n"
	if s.TTY {
		end = "\r\n"
	}
	show.Printf(s.Streams.Err, "net: %s%s", text, end)
}

// exec reports whether what runs is a further command in a container.
func (s *Session) exec() bool { return s.Container == "" }

func (s *Session) away() error {
	if s.exec() {
		return errExecAway
	}
	return errAway
}

// outcome is what became of a container that could not be attached to again:
// it has exited meanwhile, unless netd is away still.
func (s *Session) outcome(ctx context.Context, cause error) (*apiv1.ExitStatus, error) {
	if context.Cause(ctx) == s.away() {
		return nil, s.away()
	}
	if ctx.Err() != nil || client.CodeOf(cause) == codes.Unavailable {
		return nil, cause
	}
	if s.exec() {
		return nil, fmt.Errorf("netd went away while the command ran, and its exit code is not known: %w",
			client.Explain(cause))
	}
	exit, err := s.Client.Containers.Wait(ctx, &apiv1.WaitContainerRequest{Container: s.Container})
	switch {
	case err == nil:
		if s.logged() {
			s.catchUp(ctx)
		}
		return exit, nil
	case client.CodeOf(err) == codes.Unavailable:
		return nil, err
	}
	return nil, fmt.Errorf("netd went away while the container ran, and its exit code is not known: %w",
		client.Explain(cause))
}

// logged reports whether output that a broken stream lost can be had from the
// log. A terminal's is not, where what counts is what comes next.
func (s *Session) logged() bool { return s.Fresh && !s.TTY }

// follow goes on after a break. Where it can, it takes output from the log, in
// which nothing is missing, and only the exit status from the stream.
func (s *Session) follow(ctx context.Context, stream Conversation) (*apiv1.ExitStatus, error) {
	if s.exec() || !s.logged() {
		return s.receive(stream, true)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.catchUp(ctx)
	}()
	exit, err := s.receive(stream, false)
	if err != nil {
		cancel()
	}
	<-done // following a log ends with the container
	return exit, err
}

// catchUp writes what the log has beyond the bytes that were shown, until the
// container has exited. What a break of the connection keeps back, the next call gets.
func (s *Session) catchUp(ctx context.Context) {
	skip := s.shown
	stream, err := s.Client.Containers.Logs(ctx, &apiv1.LogsRequest{Container: s.Container, Follow: true, Tail: -1})
	for err == nil {
		var m *apiv1.LogsResponse
		if m, err = stream.Recv(); err != nil {
			break
		}
		stderr := 0
		if m.GetStderr() {
			stderr = 1
		}
		line := m.GetLine()
		known := min(skip[stderr], int64(len(line)))
		skip[stderr] -= known
		err = s.write(stderr == 1, line[known:])
	}
	if errors.Is(err, io.EOF) || ctx.Err() != nil || client.CodeOf(err) == codes.Unavailable {
		return
	}
	show.Printf(s.Streams.Err, "net: output since netd went away is not shown: %v\n", client.Explain(err))
}

func (s *Session) write(stderr bool, b []byte) error {
	w, shown := s.Streams.Out, &s.shown[0]
	if stderr {
		w, shown = s.Streams.Err, &s.shown[1]
	}
	n, err := w.Write(b)
	*shown += int64(n)
	if err != nil {
		return fmt.Errorf("write the container's output: %w", err)
	}
	return nil
}

// receive writes output, with show, until the exit status comes.
func (s *Session) receive(stream Conversation, show bool) (*apiv1.ExitStatus, error) {
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil, errors.New("netd ended the stream without an exit status")
		}
		if err != nil {
			return nil, err
		}
		switch {
		case m.GetStarted() != nil:
			if !s.Running() {
				s.id = m.GetStarted().GetId()
				close(s.started)
			}
		case m.GetExit() != nil:
			return m.GetExit(), nil
		case m.GetStdout() != nil && show:
			err = s.write(false, m.GetStdout())
		case m.GetStderr() != nil && show:
			err = s.write(true, m.GetStderr())
		}
		if err != nil {
			return nil, err
		}
	}
}

// forward sends what goes to the process as long as this stream lives: first what is sent again.
func (s *Session) forward(ctx context.Context, stream Conversation, out <-chan outgoing, again []outgoing) {
	for _, m := range again {
		if stream.send(m) != nil {
			return // Recv tells why
		}
	}
	for {
		select {
		case m := <-out:
			s.input.add(m, s.exec())
			if stream.send(m) != nil {
				return // Recv tells why
			}
			s.sent(m)
		case <-ctx.Done():
			return
		}
	}
}

// pump reads standard input.
func (s *Session) pump(ctx context.Context, out chan<- outgoing, cancel context.CancelCauseFunc) {
	in := s.Streams.In
	if f, ok := in.(*os.File); ok {
		r, err := newInterruptible(ctx, f)
		if err != nil {
			cancel(err)
			return
		}
		defer r.close()
		in = r
	}
	keys := s.Keys.matcher()
	for {
		buf := s.buffer()
		n, err := in.Read(buf)
		data := buf[:n]
		if s.TTY {
			var detach bool
			if data, detach = keys.feed(data); detach {
				cancel(errDetached)
				return
			}
		}
		if len(data) > 0 && !post(ctx, out, outgoing{stdin: data}) {
			return
		}
		if err != nil {
			post(ctx, out, outgoing{eof: true})
			return
		}
	}
}

// buffer is for input, and was that of a message that has been sent.
func (s *Session) buffer() []byte {
	select {
	case b := <-s.free:
		return b[:stdio.MaxPiece]
	default:
		return make([]byte, stdio.MaxPiece)
	}
}

// sent takes a message's buffer back.
func (s *Session) sent(m outgoing) {
	if cap(m.stdin) < stdio.MaxPiece {
		return
	}
	select {
	case s.free <- m.stdin:
	default:
	}
}

func post(ctx context.Context, out chan<- outgoing, m outgoing) bool {
	select {
	case out <- m:
		return true
	case <-ctx.Done():
		return false
	}
}

package server

import (
	"context"
	"errors"
	"io"
	"strconv"
	"sync"

	"github.com/vethloom/vethloom/api/stdio"
	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/engine"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// The fields that hold bytes of standard streams.
const (
	stdinField  protowire.Number = 2 // of AttachRequest and ExecRequest
	stdoutField protowire.Number = 2 // of AttachResponse
	stderrField protowire.Number = 3
)

// stdinBacklog is how many messages of input may wait for the process, of at most 64 KiB each; beyond it the client is
// slowed down.
const stdinBacklog = 8

func itoa(n int) string { return strconv.Itoa(n) }

func (s *containersService) Attach(stream grpc.BidiStreamingServer[apiv1.AttachRequest, apiv1.AttachResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	o := first.GetOptions()
	if o == nil {
		return invalid("attach", "", "the first message must be the options", "")
	}
	return converse(stream, &apiv1.AttachRequest{}, o.GetStdin(), o.GetSize(),
		func(ctx context.Context, stdio engine.Stdio) (engine.ExitStatus, error) {
			return s.containers.Attach(ctx, o.GetContainer(), o.GetStart(), stdio)
		})
}

func (s *containersService) Exec(stream grpc.BidiStreamingServer[apiv1.ExecRequest, apiv1.AttachResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	o := first.GetOptions()
	if o == nil {
		return invalid("exec", "", "the first message must be the options", "")
	}
	if len(o.GetCommand()) == 0 && o.GetResume() == nil {
		return invalid("command", "", "is empty", "say what to run")
	}
	req := engine.ExecRequest{
		Container: o.GetContainer(), Command: o.GetCommand(), Env: o.GetEnv(), WorkDir: o.GetWorkDir(),
		User: o.GetUser(),
		TTY:  o.GetTty(), Privileged: o.GetPrivileged(), Detach: o.GetDetach(),
	}
	if back := o.GetResume(); back != nil {
		req.Resume = &engine.Resume{ID: back.GetId(), Stdout: back.GetStdout(), Stderr: back.GetStderr()}
	}
	return converse(stream, &apiv1.AttachRequest{}, o.GetStdin(), o.GetSize(),
		func(ctx context.Context, stdio engine.Stdio) (engine.ExitStatus, error) {
			return s.containers.Exec(ctx, req, stdio)
		})
}

// input is what AttachRequest and ExecRequest have in common.
type input interface {
	proto.Message
	GetStdin() []byte
	GetCloseStdin() bool
	GetResize() *apiv1.WindowSize
	GetSignal() string
}

// converse connects a stream with a process until the process has exited.
// A client that hangs up leaves the process alone.
func converse(stream grpc.ServerStream, request input, stdin bool, size *apiv1.WindowSize,
	run func(context.Context, engine.Stdio) (engine.ExitStatus, error)) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	out := &sender{stream: stream}
	in := newReceiver(ctx)
	streams := engine.Stdio{
		Stdout: &output{out, stdoutField}, Stderr: &output{out, stderrField},
		Size: windowSize(size), Resize: in.resize, Signals: in.signals,
		Started: func(s engine.Started) error {
			return out.send(&apiv1.AttachResponse{Message: &apiv1.AttachResponse_Started{Started: &apiv1.Started{
				Id: s.ID, Pid: int32(s.Pid), StdinReceived: s.Received, OutputLost: s.Lost}}})
		},
	}
	if stdin {
		streams.Stdin = in
	}
	// Recv cannot be interrupted other than by the end of the stream, which is
	// this function's return; the goroutine ends right after it.
	go in.run(stream, request, stdin)
	// A client that comes back after a restart learns that it has been heard,
	// even when its process has nothing to say.
	if err := stream.SendHeader(metadata.MD{}); err != nil {
		return err
	}
	status, err := run(ctx, streams)
	if err != nil {
		return err
	}
	return out.send(&apiv1.AttachResponse{Message: &apiv1.AttachResponse_Exit{Exit: encodeExit(status)}})
}

// sender puts the messages of several writers in a row.
type sender struct {
	mu     sync.Mutex // guards Send, which takes one caller at a time
	stream grpc.ServerStream
}

func (s *sender) send(m any) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stream.SendMsg(m)
}

// output is a writer of one of the two streams. It is a pointer, so that
// writers can be compared.
type output struct {
	to    *sender
	field protowire.Number
}

func (o *output) Write(b []byte) (int, error) {
	n := 0
	for n < len(b) {
		part := b[n:min(n+stdio.MaxPiece, len(b))]
		if err := o.to.send(&stdio.Out{Field: o.field, Data: part}); err != nil {
			return n, err
		}
		n += len(part)
	}
	return n, nil
}

// receiver sorts what the client sends: input for Read, the rest for its channels.
type receiver struct {
	ctx     context.Context // ends with the call
	stdin   chan []byte     // closed at the end of input
	free    chan []byte     // what Read has given out
	piece   []byte          // from stdin, of which Read gives out the rest
	rest    []byte
	resize  chan engine.WindowSize
	signals chan string
}

func newReceiver(ctx context.Context) *receiver {
	return &receiver{ctx: ctx, stdin: make(chan []byte, stdinBacklog), free: make(chan []byte, stdinBacklog),
		resize:  make(chan engine.WindowSize, 1),
		signals: make(chan string, 16)}
}

// run ends with the stream. A client that went away has not ended the input:
// it may attach again.
func (r *receiver) run(stream grpc.ServerStream, m input, stdin bool) {
	open := stdin
	in := stdio.In{Fields: []protowire.Number{stdinField}, Other: m}
	for {
		err := stream.RecvMsg(&in)
		if errors.Is(err, io.EOF) && open {
			close(r.stdin)
			open = false
		}
		if err != nil {
			return
		}
		data := in.Data
		if in.Field != stdinField {
			data = m.GetStdin()
		}
		switch {
		case in.Field == stdinField && !open:
		case len(data) > 0 && open:
			select {
			case r.stdin <- data:
			case <-r.ctx.Done():
				return
			}
			in.Data = r.buffer()
		case in.Field == stdinField: // of no bytes
		case m.GetCloseStdin() && open:
			close(r.stdin)
			open = false
		case m.GetResize() != nil:
			r.replaceSize(windowSize(m.GetResize()))
		case m.GetSignal() != "":
			select {
			case r.signals <- m.GetSignal():
			case <-r.ctx.Done():
				return
			}
		}
	}
}

// buffer is one that Read has given out, or nil.
func (r *receiver) buffer() []byte {
	select {
	case b := <-r.free:
		return b
	default:
		return nil
	}
}

// replaceSize keeps the latest size only.
func (r *receiver) replaceSize(w engine.WindowSize) {
	select {
	case <-r.resize:
	default:
	}
	r.resize <- w
}

// Read implements [io.Reader] for one reader. It fails when the call ends.
func (r *receiver) Read(b []byte) (int, error) {
	for len(r.rest) == 0 {
		select {
		case data, ok := <-r.stdin:
			if !ok {
				return 0, io.EOF
			}
			r.piece, r.rest = data, data
		case <-r.ctx.Done():
			return 0, r.ctx.Err()
		}
	}
	n := copy(b, r.rest)
	if r.rest = r.rest[n:]; len(r.rest) == 0 {
		select {
		case r.free <- r.piece:
		default:
		}
	}
	return n, nil
}

func windowSize(w *apiv1.WindowSize) engine.WindowSize {
	const most = 1<<16 - 1
	return engine.WindowSize{Rows: uint16(min(w.GetRows(), most)), Columns: uint16(min(w.GetColumns(), most))}
}

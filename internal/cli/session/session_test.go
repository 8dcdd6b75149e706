package session

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"pgregory.net/rapid"

	apiv1 "github.com/vethloom/vethloom/api/v1"
)

func TestDetachKeys(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "a": "a", "ctrl-p,ctrl-q": "\x10\x11", "CTRL-A": "\x01", "ctrl-[": "\x1b", "ctrl-@,x": "\x00x",
		"A,b": "Ab",
	} {
		if got, err := ParseDetachKeys(in); err != nil || string(got) != want {
			t.Errorf("%q is %q, %v, want %q", in, got, err, want)
		}
	}
	for _, in := range []string{"ctrl-", "ctrl-1", "ctrl-pq", "ab", ",", "a,,b", "ctrl-p,", "é"} {
		_, err := ParseDetachKeys(in)
		if err == nil || !strings.Contains(err.Error(), "--detach-keys") ||
			!strings.Contains(err.Error(), "ctrl-LETTER") {
			t.Errorf("%q: %v, want what a key is", in, err)
		}
	}
}

// What is typed reaches the process as it was typed, however it is cut into reads, and the keys detach wherever they
// stand.
func TestTypedKeysReachTheProcess(t *testing.T) {
	keys, err := ParseDetachKeys("ctrl-p,ctrl-q")
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		typed := rapid.SliceOf(rapid.SampledFrom([]byte("ab\x10\x11"))).Draw(t, "typed")
		m := keys.matcher()
		var got []byte
		detached := false
		for rest := typed; len(rest) > 0 && !detached; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "bytes of a read")
			var pass []byte
			pass, detached = m.feed(rest[:n])
			got, rest = append(got, pass...), rest[n:]
		}
		at := bytes.Index(typed, keys)
		switch {
		case at >= 0 && (!detached || !bytes.Equal(got, typed[:at])):
			t.Fatalf("%q passes %q on, detached: %v", typed, got, detached)
		case at < 0 && detached:
			t.Fatalf("%q detaches", typed)
		case at < 0 && !bytes.Equal(got, bytes.TrimSuffix(typed, keys[:1])) && !bytes.Equal(got, typed):
			t.Fatalf("%q passes %q on", typed, got)
		}
	})
	if pass, detached := DetachKeys(nil).matcher().feed([]byte("\x10\x11")); detached || string(pass) != "\x10\x11" {
		t.Errorf("without keys: %q, %v", pass, detached)
	}
}

// talk is a conversation that says what it is given, and keeps what it is told.
type talk struct {
	said []*apiv1.AttachResponse
	end  error // after what is said; nil: io.EOF
	told []outgoing
	more chan struct{} // closed when what is told has come; nil: nobody waits
	want int
}

func (c *talk) send(m outgoing) error {
	c.told = append(c.told, m)
	if c.more != nil && len(c.told) == c.want {
		close(c.more)
	}
	return nil
}

func (c *talk) Header() (metadata.MD, error) { return nil, nil }

func (c *talk) Recv() (*apiv1.AttachResponse, error) {
	if len(c.said) == 0 {
		if c.end != nil {
			return nil, c.end
		}
		return nil, io.EOF
	}
	if c.more != nil && len(c.said) == 1 {
		<-c.more
	}
	m := c.said[0]
	c.said = c.said[1:]
	return m, nil
}

func started() *apiv1.AttachResponse {
	return &apiv1.AttachResponse{Message: &apiv1.AttachResponse_Started{Started: &apiv1.Started{}}}
}

func stdout(text string) *apiv1.AttachResponse {
	return &apiv1.AttachResponse{Message: &apiv1.AttachResponse_Stdout{Stdout: []byte(text)}}
}

func stderr(text string) *apiv1.AttachResponse {
	return &apiv1.AttachResponse{Message: &apiv1.AttachResponse_Stderr{Stderr: []byte(text)}}
}

func exited(code int32) *apiv1.AttachResponse {
	return &apiv1.AttachResponse{Message: &apiv1.AttachResponse_Exit{Exit: &apiv1.ExitStatus{Code: code}}}
}

// world is a session with one conversation.
func world(c *talk) (s *Session, out, errs *bytes.Buffer) {
	out, errs = &bytes.Buffer{}, &bytes.Buffer{}
	s = &Session{Streams: Streams{In: strings.NewReader(""), Out: out, Err: errs},
		Open: func(context.Context, *apiv1.WindowSize, *Back) (Conversation, error) { return c, nil }}
	return s, out, errs
}

func TestOutputAndExit(t *testing.T) {
	s, out, errs := world(&talk{said: []*apiv1.AttachResponse{started(), stdout("a"), stderr("x"), stdout("b"),
		exited(7)}})
	exit, err := s.Run(t.Context())
	if err != nil || exit.GetCode() != 7 || out.String() != "ab" || errs.String() != "x" {
		t.Errorf("code %d, %v, output %q, errors %q", exit.GetCode(), err, out, errs)
	}
	if !s.Running() {
		t.Error("it has never run")
	}
}

func TestInputIsPassedOnToItsEnd(t *testing.T) {
	c := &talk{said: []*apiv1.AttachResponse{started(), exited(0)}, more: make(chan struct{}), want: 2}
	s, _, _ := world(c)
	s.Stdin, s.Streams.In = true, strings.NewReader("typed")
	if exit, err := s.Run(t.Context()); err != nil || exit.GetCode() != 0 {
		t.Fatalf("%v, %v", exit, err)
	}
	if len(c.told) != 2 || string(c.told[0].stdin) != "typed" || !c.told[1].eof {
		t.Errorf("the process was told %+v", c.told)
	}
}

func TestAStreamThatEndsWithoutAnExit(t *testing.T) {
	for name, c := range map[string]struct {
		talk *talk
		want string
	}{
		"at its end": {&talk{said: []*apiv1.AttachResponse{started(), stdout("a")}},
			"without an exit status"},
		"refused": {&talk{end: status.Error(codes.NotFound, "no such container: x")},
			"no such container"},
		"before it ran, netd goes away": {&talk{end: status.Error(codes.Unavailable, "closing")}, "closing"},
	} {
		s, _, _ := world(c.talk)
		if exit, err := s.Run(t.Context()); err == nil || exit != nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, %v, want an error with %q", name, exit, err, c.want)
		}
	}
}

func TestAnOutputThatIsClosedEndsTheSession(t *testing.T) {
	s, _, _ := world(&talk{said: []*apiv1.AttachResponse{started(), stdout("a"), exited(0)}})
	s.Streams.Out = closed{}
	if _, err := s.Run(t.Context()); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("got %v", err)
	}
}

type closed struct{}

func (closed) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestASessionThatIsCancelled(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	c := &talk{said: []*apiv1.AttachResponse{started()}, end: status.Error(codes.Canceled, "cancelled")}
	s, _, _ := world(c)
	s.Open = func(context.Context, *apiv1.WindowSize, *Back) (Conversation, error) {
		cancel(why)
		return c, nil
	}
	if exit, err := s.Run(ctx); exit != nil || !errors.Is(err, why) {
		t.Errorf("%v, %v", exit, err)
	}
}

func TestATerminalIsWantedAndNotThere(t *testing.T) {
	if err := CheckTTY(strings.NewReader(""), true); err == nil || !strings.Contains(err.Error(), "leave out -t") {
		t.Errorf("got %v", err)
	}
	if err := CheckTTY(strings.NewReader(""), false); err != nil {
		t.Errorf("none is wanted: %v", err)
	}
	s, _, _ := world(&talk{})
	s.TTY, s.Stdin = true, true
	if _, err := s.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "no terminal") {
		t.Errorf("a session: %v", err)
	}
}

func TestExitErrors(t *testing.T) {
	cause := errors.New("why")
	if e := (&ExitError{Code: 3, Err: cause}); e.Error() != "why" || !errors.Is(e, cause) {
		t.Errorf("%v", e)
	}
	if e := (&ExitError{Code: 3}); e.Error() != "exit code 3" || errors.Unwrap(e) != nil {
		t.Errorf("%v", e)
	}
}

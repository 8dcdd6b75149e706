package session

import (
	"context"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	apiv1 "github.com/vethloom/vethloom/api/v1"
)

// at is what netd answers who comes back for a command.
func at(s *apiv1.Started) *apiv1.AttachResponse {
	return &apiv1.AttachResponse{Message: &apiv1.AttachResponse_Started{Started: s}}
}

// broken is a conversation that netd's end cuts off, once the process was told enough.
func broken(want int, said ...*apiv1.AttachResponse) *talk {
	return &talk{said: said, want: want, more: make(chan struct{}), end: status.Error(codes.Unavailable, "closing")}
}

// A command is joined again where its client is: it says what it has, sends what did not arrive, and says what is lost.
func TestExecIsJoinedAgain(t *testing.T) {
	first := broken(2, at(&apiv1.Started{Id: "x1"}), stdout("ab"), stderr("c"))
	second := &talk{said: []*apiv1.AttachResponse{at(&apiv1.Started{Id: "x1", StdinReceived: 2, OutputLost: 5}),
		stdout("z"), exited(4)}, more: make(chan struct{}), want: 2}
	s, out, errs := world(nil)
	s.Stdin, s.Streams.In = true, strings.NewReader("typed")
	var backs []*Back
	s.Open = func(_ context.Context, _ *apiv1.WindowSize, back *Back) (Conversation, error) {
		if backs = append(backs, back); back == nil {
			return first, nil
		}
		return second, nil
	}
	exit, err := s.Run(t.Context())
	if err != nil || exit.GetCode() != 4 || out.String() != "abz" {
		t.Errorf("code %d, %v, output %q", exit.GetCode(), err, out)
	}
	if want := "cnet: netd was away: 5 bytes of output are missing here\n"; errs.String() != want {
		t.Errorf("it says %q, want %q", errs, want)
	}
	if len(backs) != 2 || backs[0] != nil || *backs[1] != (Back{ID: "x1", Stdout: 2, Stderr: 1}) {
		t.Errorf("it came back with %+v", backs)
	}
	if len(second.told) != 2 || string(second.told[0].stdin) != "ped" || !second.told[1].eof {
		t.Errorf("the process was told %+v after that", second.told)
	}
}

// A command that is not known any more has no exit code to be told.
func TestExecThatIsForgotten(t *testing.T) {
	s, _, _ := world(nil)
	s.Open = func(_ context.Context, _ *apiv1.WindowSize, back *Back) (Conversation, error) {
		if back == nil {
			return &talk{said: []*apiv1.AttachResponse{at(&apiv1.Started{Id: "x1"})},
				end: status.Error(codes.Unavailable, "closing")}, nil
		}
		return nil, status.Error(codes.NotFound, "no command x1 runs in the container")
	}
	exit, err := s.Run(t.Context())
	if err == nil || exit != nil || !strings.Contains(err.Error(), "its exit code is not known: no command x1") {
		t.Errorf("%v, %v", exit, err)
	}
}

// Who attached to a container is told that something may be missing.
func TestAttachSaysWhatMayBeMissing(t *testing.T) {
	s, out, errs := world(nil)
	s.Container = "c"
	s.Open = func(_ context.Context, _ *apiv1.WindowSize, back *Back) (Conversation, error) {
		if back == nil {
			return &talk{said: []*apiv1.AttachResponse{started(), stdout("a")},
				end: status.Error(codes.Unavailable, "closing")}, nil
		}
		return &talk{said: []*apiv1.AttachResponse{started(), stdout("b"), exited(0)}}, nil
	}
	if exit, err := s.Run(t.Context()); err != nil || exit.GetCode() != 0 || out.String() != "ab" ||
		!strings.Contains(errs.String(), "output of that time may be missing") {
		t.Errorf("%v, %v, output %q, errors %q", exit, err, out, errs)
	}
}

package session

import (
	"context"
	"errors"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// A call that lasts is made again while netd is away, and only then.
func TestPatient(t *testing.T) {
	away, wrong := status.Error(codes.Unavailable, "connection refused"), errors.New("no such container")
	for name, c := range map[string]struct {
		answers []error
		want    error
	}{
		"at once":       {[]error{nil}, nil},
		"an error":      {[]error{wrong}, wrong},
		"away once":     {[]error{away, nil}, nil},
		"away for long": {[]error{away, away, away, away, wrong}, wrong},
	} {
		t.Run(name, func(t *testing.T) {
			calls := 0
			err := Patient(t.Context(), func(context.Context) error {
				calls++
				return c.answers[calls-1]
			})
			if !errors.Is(err, c.want) || calls != len(c.answers) {
				t.Errorf("%v after %d calls", err, calls)
			}
		})
	}
}

// Who gives up waiting is not made to wait.
func TestPatientEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := Patient(ctx, func(context.Context) error { return status.Error(codes.Unavailable, "connection refused") })
	if status.Code(err) != codes.Unavailable {
		t.Errorf("%v", err)
	}
}

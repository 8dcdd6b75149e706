package session

import (
	"context"
	"time"

	"github.com/vethloom/vethloom/api/client"
	"google.golang.org/grpc/codes"
)

// Patient makes a call that lasts, and makes it again when netd went away under it, until it ends otherwise or netd
// stays away for longer than a session waits. A first call that does not reach netd is not for Patient.
func Patient(ctx context.Context, call func(context.Context) error) error {
	var away time.Time
	for try := 0; ; try++ {
		began := time.Now()
		err := call(ctx)
		if client.CodeOf(err) != codes.Unavailable || ctx.Err() != nil {
			return err
		}
		switch lasted := time.Since(began) > time.Second; {
		case away.IsZero() || lasted:
			away, try = time.Now(), 0
		case time.Since(away) > resumeFor:
			return errAway
		}
		pause(ctx, try)
	}
}

package client

import (
	"context"
	"time"
)

// DialFailure is what Dial makes of an error of the system.
func DialFailure(path string, err error) error {
	return dialError(context.Background(), path, time.Second, err)
}

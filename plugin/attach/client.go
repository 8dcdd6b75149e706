package attach

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

// Socket is where netd listens unless it was told otherwise.
const Socket = "/run/vethloom/attach.sock"

// Do makes a call. That netd is not there is an [Error] of kind Unavailable.
func Do(ctx context.Context, socket string, r Request) (*Answer, error) {
	r.Version = Version
	text, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode the request: %w", err)
	}
	if len(text) > MaxRequest {
		return nil, &Error{Kind: Invalid, Message: fmt.Sprintf("the request has %d bytes, and %d are the most",
			len(text), MaxRequest)}
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, away(socket, err)
	}
	defer c.Close()
	end := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	defer end()
	if _, err := c.Write(text); err != nil {
		return nil, away(socket, err)
	}
	if err := c.(*net.UnixConn).CloseWrite(); err != nil {
		return nil, away(socket, err)
	}
	body, err := io.ReadAll(io.LimitReader(c, MaxAnswer+1))
	if err == nil && (len(body) == 0 || len(body) > MaxAnswer) {
		err = fmt.Errorf("an answer of %d bytes", len(body))
	}
	if err != nil {
		return nil, away(socket, errors.Join(err, ctx.Err()))
	}
	var a Answer
	if err := json.Unmarshal(body, &a); err != nil {
		return nil, fmt.Errorf("decode netd's answer: %w", err)
	}
	if a.Error != nil {
		return nil, a.Error
	}
	return &a, nil
}

func away(socket string, err error) error {
	remedy := "see that it runs: systemctl status netd"
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) {
		remedy = "see what it waits for: net status"
	}
	return &Error{Kind: Unavailable, Message: fmt.Sprintf("netd does not answer at %s: %v; %s", socket, err, remedy)}
}

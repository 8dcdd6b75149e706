// Package server is netd's side of attachments: what programs of other engines ask for becomes sandboxes and endpoints
// of the Controller.
package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/internal/keylock"
	"github.com/vethloom/vethloom/internal/rootsocket"
	"github.com/vethloom/vethloom/plugin/attach"
)

// How long a caller may take to send its request, and a call to be carried out. What a call has begun then is undone,
// or found by the next one.
const (
	requestTime = 10 * time.Second
	callTime    = time.Minute
)

// maxCalls is how many calls are carried out at once; the others wait.
const maxCalls = 128

// Config is what a [Server] needs.
type Config struct {
	Controller Controller
	Kernel     Kernel
	Render     Renderer
	// Resync has the next pass look at the kernel, instead of going by what was applied before.
	Resync  func()
	Settled func() // waits until names of what was attached are known
	Later   string // folder of detaches that nobody could be asked for
	Log     *slog.Logger
}

// Server answers calls, and removes what engines have forgotten.
type Server struct {
	Config
	locks keylock.Locks // one call at a time about one sandbox
	slots chan struct{}
}

// New makes a server.
func New(c Config) *Server { return &Server{Config: c, slots: make(chan struct{}, maxCalls)} }

// Listen opens the socket, which root alone may use.
func Listen(path string) (*net.UnixListener, error) {
	l, err := rootsocket.Listen(path)
	if err != nil {
		return nil, fmt.Errorf("listen for attachments: %w", err)
	}
	return l, nil
}

// Serve answers at a socket until the context ends, and then waits for the calls that are under way.
func (s *Server) Serve(ctx context.Context, l *net.UnixListener) error {
	defer context.AfterFunc(ctx, func() { l.Close() })()
	var calls sync.WaitGroup
	defer calls.Wait()
	for {
		c, err := l.AcceptUnix()
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOMEM) {
			s.Log.WarnContext(ctx, "cannot take a call of another engine's; trying again", "err", err)
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("take a call of another engine's: %w", err)
		}
		calls.Go(func() { s.serve(ctx, c) })
	}
}

// serve answers one call.
func (s *Server) serve(ctx context.Context, c *net.UnixConn) {
	defer c.Close()
	begin := time.Now()
	r, err := receive(c)
	var a attach.Answer
	if err == nil {
		a, err = s.call(context.WithoutCancel(ctx), r)
	}
	if err != nil {
		a = attach.Answer{Error: told(err)}
	}
	level := slog.LevelInfo
	if r.Call == attach.Ready && err == nil {
		level = slog.LevelDebug // some ask twice a second
	}
	s.Log.Log(ctx, level, "call of an engine", "call", r.Call, "engine", r.Engine, "container", r.Container,
		"interface", r.Interface, "network", r.Network, "took", time.Since(begin), "err", err)
	text, err := json.Marshal(a)
	if err != nil {
		s.Log.ErrorContext(ctx, "encode an answer", "err", err)
		return
	}
	// Who does not read its answer any more asks again, and finds what was done.
	_ = c.SetWriteDeadline(time.Now().Add(requestTime))
	_, _ = c.Write(text)
}

// receive reads a request of a process that may ask.
func receive(c *net.UnixConn) (r attach.Request, err error) {
	if err := admit(c); err != nil {
		return r, err
	}
	if err := c.SetReadDeadline(time.Now().Add(requestTime)); err != nil {
		return r, err
	}
	text, err := io.ReadAll(io.LimitReader(c, attach.MaxRequest+1))
	if err != nil {
		return r, fmt.Errorf("read the request: %w", err)
	}
	if len(text) > attach.MaxRequest {
		return r, invalid("the request has more than %d bytes", attach.MaxRequest)
	}
	return parse(text)
}

// oneVersion is what to do where a program and netd do not understand each other.
const oneVersion = "install vethloom-cni and netd of one version"

// parse decodes a request. A field that is not known is an error: what it asks for would not be done.
func parse(text []byte) (r attach.Request, err error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return attach.Request{}, invalid("the request is not one: %v; %s", err, oneVersion)
	}
	if d.More() {
		return attach.Request{}, invalid("the request has more behind its end")
	}
	if r.Version != attach.Version {
		return attach.Request{}, invalid("the request is of version %d, and netd knows version %d; %s", r.Version,
			attach.Version, oneVersion)
	}
	return r, nil
}

// admit refuses a process that is not root's. The socket's mode does it, too, as long as nobody changes it.
func admit(c *net.UnixConn) error {
	if err := rootsocket.OfRoot(c); err != nil {
		return invalid("%v", err)
	}
	return nil
}

// call carries a request out.
func (s *Server) call(ctx context.Context, r attach.Request) (a attach.Answer, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return a, fmt.Errorf("netd has too much to do: %w", ctx.Err())
	}
	if err := check(r); err != nil {
		return a, err
	}
	switch r.Call {
	case attach.Attach:
		a.Result, err = s.attach(ctx, r)
	case attach.Reserve:
		a.Result, err = s.reserve(ctx, r)
	case attach.Detach:
		err = s.detach(ctx, r.Key)
	case attach.Check:
		a.Result, err = s.check(ctx, r)
	case attach.Collect:
		a.Detached, err = s.collect(ctx, r)
	case attach.Describe:
		a.Network, err = s.describe(ctx, r)
	case attach.Ready:
		err = s.ready(ctx, r)
	}
	return a, err
}

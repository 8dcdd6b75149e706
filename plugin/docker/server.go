package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"time"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/plan"
	"github.com/vethloom/vethloom/plugin/docker/relay"
)

// Controller is what the server needs of the model's Controller.
type Controller interface {
	Network(ctx context.Context, ref string) (cnm.Network, error)
	Networks(ctx context.Context) ([]cnm.Network, error)
	CreateNetwork(ctx context.Context, r cnm.NetworkRequest) (cnm.Network, error)
	HandsOver(driver string) error
	DeleteNetwork(ctx context.Context, ref string) (cnm.Network, error)
	Sandbox(ctx context.Context, ref string) (cnm.Sandbox, error)
	Sandboxes(ctx context.Context) ([]cnm.Sandbox, error)
	SetIdentity(ctx context.Context, sandbox string, who cnm.Identity) error
	EndpointsOf(ctx context.Context, sandbox string) ([]cnm.Endpoint, error)
	EndpointsOn(ctx context.Context, network string) ([]cnm.Endpoint, error)
	CreateSandbox(ctx context.Context, r cnm.SandboxRequest) (cnm.Sandbox, []cnm.Endpoint, error)
	DeleteSandbox(ctx context.Context, id string) error
	Publish(ctx context.Context, sandbox string, ports []cnm.PortMapping) error
	Reserve(ctx context.Context, r cnm.ReservationRequest) (cnm.Reservation, error)
	Unreserve(ctx context.Context, network, key string, ipv6 bool) error
	Reservations(ctx context.Context, network string) ([]cnm.Reservation, error)
}

// Renderer tells what a container is to have for an endpoint.
type Renderer interface {
	Endpoint(ctx context.Context, n cnm.Network, e cnm.Endpoint) (plan.State, error)
}

// Backend is what requests are answered with.
type Backend struct {
	Controller Controller
	Render     Renderer
	Store      cnm.Store
}

const (
	answerTime = 1800 * time.Millisecond // dockerd waits for ever: each answer comes within 2 s
	workTime   = 30 * time.Second        // bounds what goes on behind it
)

// Server answers dockerd.
type Server struct {
	log   *slog.Logger
	ready chan struct{} // closed once back is there
	back  Backend
	calls sync.WaitGroup

	mu    sync.Mutex
	under map[string]*work // by method and body
}

// work is a request that is being carried out.
type work struct {
	done    chan struct{}
	waiters int // requests that wait for it
	answer  any
	err     error
}

// task is what a request asks for.
type task struct {
	key string // of requests that ask for the same; "": none does
	do  func(context.Context) (any, error)
	// undo takes back what nobody has waited for; nil: it does no harm. dockerd forgets what it got no answer about.
	undo func(ctx context.Context, answer any) error
}

// New makes a server that has nothing to answer with yet: until Use it says that netd is starting.
func New(log *slog.Logger) *Server {
	return &Server{log: log, ready: make(chan struct{}), under: map[string]*work{}}
}

// Use gives the server what it answers with. It is called once.
func (s *Server) Use(b Backend) {
	s.back = b
	close(s.ready)
}

// Serve answers until the context ends, and waits for what is under way.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	err := relay.Serve(ctx, l, s, s.log)
	s.calls.Wait()
	return err
}

// ServeHTTP answers one call.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	method, begin := filepath.Base(r.URL.Path), time.Now()
	answer, err := s.call(r, method)
	level := slog.LevelDebug
	if err != nil {
		level = slog.LevelWarn
	}
	s.log.Log(r.Context(), level, "call of dockerd", "method", method, "took", time.Since(begin), "err", err)
	if err := relay.Answer(w, answer, err); err != nil {
		s.log.DebugContext(r.Context(), "dockerd did not take an answer", "method", method, "err", err)
	}
}

// call answers a call, within the bound.
func (s *Server) call(r *http.Request, method string) (any, error) {
	if r.Method != http.MethodPost {
		return nil, refuse("method", r.Method, "only POST is answered", "this is dockerd's door; net is for people")
	}
	if a, ok := relay.Fixed(method); ok {
		return a, nil
	}
	body, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, relay.MaxBody))
	if err != nil {
		return nil, fmt.Errorf("read the request: %w", err)
	}
	t, err := s.decode(method, body)
	if err != nil {
		return nil, err
	}
	return s.carryOut(r.Context(), t)
}

// carryOut does the work, or joins the same work that is under way, and waits for it as long as dockerd may wait.
func (s *Server) carryOut(ctx context.Context, t task) (any, error) {
	bound := time.NewTimer(answerTime)
	defer bound.Stop()
	select {
	case <-s.ready:
	case <-bound.C:
		return nil, unavailable("netd is starting")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	w := s.begin(ctx, t)
	select {
	case <-w.done:
		return w.answer, w.err
	case <-bound.C:
	case <-ctx.Done(): // dockerd has gone
	}
	s.mu.Lock()
	w.waiters--
	s.mu.Unlock()
	return nil, unavailable("netd is still at it")
}

// begin starts the work, unless the same is under way.
func (s *Server) begin(ctx context.Context, t task) *work {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w := s.under[t.key]; w != nil && t.key != "" {
		w.waiters++
		return w
	}
	w := &work{done: make(chan struct{}), waiters: 1}
	if t.key != "" {
		s.under[t.key] = w
	}
	ctx = context.WithoutCancel(ctx)
	s.calls.Go(func() { s.work(ctx, w, t) })
	return w
}

// work does it, and takes it back when nobody waits any more.
func (s *Server) work(ctx context.Context, w *work, t task) {
	bound, cancel := context.WithTimeout(ctx, workTime)
	defer cancel()
	w.answer, w.err = t.do(bound)
	s.mu.Lock()
	late := w.waiters == 0 && w.err == nil && t.undo != nil
	s.mu.Unlock()
	if late { // who comes now is told to try again
		bound, cancel := context.WithTimeout(ctx, workTime)
		defer cancel()
		err := t.undo(bound, w.answer)
		s.log.WarnContext(ctx, "took back what dockerd did not wait for", "err", err)
		w.err = errors.Join(unavailable("netd had taken too long for it, and took it back"), err)
	}
	s.mu.Lock()
	delete(s.under, t.key)
	s.mu.Unlock()
	close(w.done)
}

func unavailable(reason string) error {
	return &cnm.Error{Kind: cnm.ErrUnavailable, Reason: reason, Remedy: "try again in a moment"}
}

func refuse(field, value, reason, remedy string) error {
	return &cnm.Error{Kind: cnm.ErrInvalid, Field: field, Value: value, Reason: reason, Remedy: remedy}
}

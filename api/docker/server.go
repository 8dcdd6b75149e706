package docker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/vethloom/vethloom/api/server"
)

// Config is what a server is made of.
type Config struct {
	Networks   server.Networks
	Containers server.Containers
	Images     server.Images
	Volumes    server.Volumes
	Builds     server.Builds // nil: no images are built
	System     server.System
	ID         string        // of this engine: stays the same over restarts
	Log        *slog.Logger  // nil: nothing is logged
	Grace      time.Duration // how long a stop waits for calls that change something; 0: 10 s
}

// Server answers requests of the Docker Engine API.
type Server struct {
	cfg     Config
	log     *slog.Logger
	mux     *http.ServeMux
	named   map[string]map[string]route // routes with a name of several parts: by what is before it, and behind it
	host    host
	stop    context.Context // ends, with errStopping, when the server stops
	stopNow context.CancelCauseFunc
	calls   sync.WaitGroup // requests that are being answered, with those that took over their connection
}

var errStopping = errors.New("netd is stopping")

// New makes a server.
func New(cfg Config) *Server {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Grace == 0 {
		cfg.Grace = 10 * time.Second
	}
	s := &Server{cfg: cfg, log: cfg.Log, mux: http.NewServeMux(), named: map[string]map[string]route{},
		host: readHost()}
	s.stop, s.stopNow = context.WithCancelCause(context.Background())
	s.register()
	return s
}

// How long a client may take for what is no stream.
const (
	headerTime = 10 * time.Second
	bodyTime   = 30 * time.Second // to send what a request is described by
	answerTime = 30 * time.Second // to take an answer
	drainTime  = 2 * time.Second  // to send the rest of a body that nobody reads
	idleTime   = 5 * time.Minute  // between two requests on one connection
)

// Serve answers requests on l, which it closes, until ctx ends. Then streams and waits end at once, and other calls get
// the configured grace. A server serves once.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	srv := &http.Server{Handler: s, ReadHeaderTimeout: headerTime, IdleTimeout: idleTime,
		ConnContext: withPeer, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug)}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	select {
	case err := <-served:
		s.stopNow(errStopping)
		return errors.Join(fmt.Errorf("serve Docker's API on %s: %w", l.Addr(), err), srv.Close())
	case <-ctx.Done():
	}
	s.stopNow(errStopping)
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.Grace)
	defer cancel()
	if srv.Shutdown(grace) != nil {
		s.log.Warn("requests of Docker's API still run after the grace period and are cancelled", "grace", s.cfg.Grace)
		if err := srv.Close(); err != nil {
			return fmt.Errorf("stop Docker's API: %w", err)
		}
	}
	<-served
	return s.drained()
}

// drained waits for requests whose connections are closed, and for those that took theirs over.
func (s *Server) drained() error {
	done := make(chan struct{})
	go func() { // ends with the last request
		defer close(done)
		s.calls.Wait()
	}()
	t := time.NewTimer(s.cfg.Grace)
	defer t.Stop()
	select {
	case <-done:
		return nil
	case <-t.C:
		return fmt.Errorf("stop Docker's API: a request ignores its cancellation since %s", s.cfg.Grace)
	}
}

// peerKey is the key of who is at the other end in the context of a connection.
type peerKey struct{}

func withPeer(ctx context.Context, c net.Conn) context.Context {
	if who, err := server.ReadPeer(c); err == nil {
		return context.WithValue(ctx, peerKey{}, who)
	}
	return ctx
}

// ServeHTTP implements [http.Handler].
func (s *Server) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	s.calls.Add(1)
	defer s.calls.Done()
	w := &answer{ResponseWriter: rw, control: http.NewResponseController(rw)}
	w.deadlines(time.Time{}, time.Time{})
	begin := time.Now()
	s.identify(w)
	err := s.guard(r, func() error { return s.dispatch(w, r) })
	if err != nil && context.Cause(s.stop) != nil && errors.Is(err, context.Canceled) {
		err = &refusal{status: http.StatusServiceUnavailable, text: errStopping.Error()}
	}
	if err != nil && !w.begun {
		w.fail(err)
	}
	s.logCall(r, w, err, time.Since(begin))
	if w.cut {
		panic(http.ErrAbortHandler) // which the server takes for what it is
	}
	// What follows is the server's: it reads the rest of the body, and sends the rest of the answer.
	now := time.Now()
	w.deadlines(now.Add(drainTime), now.Add(answerTime))
}

// identify says who answers, on every answer.
func (s *Server) identify(w *answer) {
	h := w.Header()
	h.Set("Api-Version", MaxVersion)
	h.Set("Docker-Experimental", "false")
	h.Set("Ostype", "linux")
	h.Set("Server", "vethloom/"+s.cfg.System.Version().Version+" (linux)")
}

// dispatch finds who answers a request.
func (s *Server) dispatch(w *answer, r *http.Request) error {
	r, err := versioned(r)
	if err != nil {
		return err
	}
	if path.Clean(r.URL.Path) != r.URL.Path {
		return errNoPage
	}
	_, pattern := s.mux.Handler(r)
	if base, _, _ := strings.Cut(pattern[strings.IndexByte(pattern, ' ')+1:], "{"); base == r.URL.Path+"/" {
		pattern = "" // it would lead the client to the path with a slash at its end
	}
	if pattern == "" {
		return errNoPage
	}
	s.mux.ServeHTTP(w, r)
	return w.err
}

// guard makes an error of a panic.
func (s *Server) guard(r *http.Request, call func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			s.log.ErrorContext(r.Context(), "request of Docker's API panicked", "method", r.Method, "path", r.URL.Path,
				"panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			err = &refusal{status: http.StatusInternalServerError,
				text: "netd has a defect that this request ran into; its log has the details"}
		}
	}()
	return call()
}

func (s *Server) logCall(r *http.Request, w *answer, err error, took time.Duration) {
	level := slog.LevelInfo
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		level = slog.LevelDebug
	}
	attrs := []slog.Attr{slog.String("method", r.Method), slog.String("path", r.URL.Path),
		slog.Int("status", w.status), slog.Duration("took", took)}
	if who, ok := r.Context().Value(peerKey{}).(server.Peer); ok {
		attrs = append(attrs, slog.Any("peer", who))
	}
	if err != nil && r.Context().Err() == nil {
		attrs = append(attrs, slog.String("error", err.Error()))
		if w.status == http.StatusInternalServerError {
			level = slog.LevelError
		}
	}
	s.log.LogAttrs(r.Context(), level, "Docker API request", attrs...)
}

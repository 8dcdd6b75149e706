package registrytest

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
)

// Options say what a registry in memory is like.
type Options struct {
	Address   string // host:port to listen at; "": a free port of 127.0.0.1
	TLS       bool
	HTTP2     bool     // besides HTTP/1.1, with TLS
	Names     []string // of the certificate; nil: 127.0.0.1 and localhost
	ClientCA  *CA      // whose certificates clients must have; nil: no certificate is asked for
	Referrers bool     // it has the API of referrers

	User, Password string // if a user is given, nobody else is let in
	Bearer         bool   // the user gets a token, at Realm; without a user everybody does
	Realm          string // of the challenge; "": /token of the registry itself
}

// Request is what a registry was asked.
type Request struct {
	Method, Path, Query string // Path is the URL's
	Header              http.Header
}

// Server is a registry in memory.
type Server struct {
	Host string // host:port
	URL  string
	CA   *CA // of its certificate; nil without TLS

	options  Options
	registry http.Handler
	done     chan struct{} // closed when the server ends

	mu       sync.Mutex
	faults   []*Fault
	requests []Request
}

// Serve runs a registry until the test ends.
func Serve(tb testing.TB, o Options) *Server {
	tb.Helper()
	s := &Server{
		options: o, done: make(chan struct{}),
		registry: registry.New(registry.Logger(log.New(io.Discard, "", 0)), registry.WithReferrersSupport(o.Referrers)),
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(s.serve))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	if o.Address != "" {
		server.Listener.Close()
		listener, err := net.Listen("tcp", o.Address)
		if err != nil {
			tb.Fatal(err)
		}
		server.Listener = listener
	}
	if o.TLS {
		s.startTLS(tb, server)
	} else {
		server.Start()
	}
	s.Host = server.Listener.Addr().String()
	s.URL = server.URL
	tb.Cleanup(func() {
		close(s.done)
		server.CloseClientConnections()
		server.Close()
	})
	return s
}

func (s *Server) startTLS(tb testing.TB, server *httptest.Server) {
	s.CA = NewCA(tb)
	names := s.options.Names
	if names == nil {
		names = []string{"127.0.0.1", "localhost"}
	}
	server.TLS = &tls.Config{Certificates: []tls.Certificate{s.CA.Issue(tb, names...).TLS(tb)}}
	if s.options.ClientCA != nil {
		server.TLS.ClientAuth = tls.RequireAndVerifyClientCert
		server.TLS.ClientCAs = x509.NewCertPool()
		server.TLS.ClientCAs.AppendCertsFromPEM(s.options.ClientCA.PEM)
	}
	server.EnableHTTP2 = s.options.HTTP2
	server.StartTLS()
}

// Fail has the server commit a fault from now on. Of several that match, the one that was set first is committed.
func (s *Server) Fail(f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, &f)
}

// Heal takes back all faults.
func (s *Server) Heal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = nil
}

// Requests are what was asked so far.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// Asked counts the requests of a method whose path holds a text.
func (s *Server) Asked(method, path string) (n int) {
	for _, r := range s.Requests() {
		if r.Method == method && strings.Contains(r.Path, path) {
			n++
		}
	}
	return n
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.requests = append(s.requests, Request{r.Method, r.URL.Path, r.URL.RawQuery, r.Header.Clone()})
	var fault *Fault
	for _, f := range s.faults {
		if f.matches(r) {
			f.committed++
			fault = f
			break
		}
	}
	s.mu.Unlock()
	switch {
	case fault != nil:
		fault.commit(w, r, s)
	default:
		s.answer(w, r)
	}
}

// answer is what the registry answers when it is well.
func (s *Server) answer(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/token" {
		s.token(w, r)
		return
	}
	if s.allowed(r) {
		s.registry.ServeHTTP(w, r)
		return
	}
	challenge := `Basic realm="test"`
	if s.options.Bearer {
		realm := s.options.Realm
		if realm == "" {
			realm = s.URL + "/token"
		}
		challenge = `Bearer realm="` + realm + `",service="test"`
	}
	w.Header().Set("WWW-Authenticate", challenge)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusUnauthorized)
	io.WriteString(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required","detail":null}]}`)
}

// Token is what a registry with Bearer gives to those it knows.
const Token = "token-of-a-test"

func (s *Server) allowed(r *http.Request) bool {
	if s.options.Bearer {
		return r.Header.Get("Authorization") == "Bearer "+Token
	}
	user, password, _ := r.BasicAuth()
	return s.options.User == "" || user == s.options.User && password == s.options.Password
}

// token gives a token. Whoever comes without a name gets one if the registry is for everybody.
func (s *Server) token(w http.ResponseWriter, r *http.Request) {
	user, password, _ := r.BasicAuth()
	if s.options.User != "" && (user != s.options.User || password != s.options.Password) {
		w.WriteHeader(http.StatusUnauthorized)
		io.WriteString(w, `{"details":"incorrect username or password"}`)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	io.WriteString(w, `{"token":"`+Token+`"}`)
}

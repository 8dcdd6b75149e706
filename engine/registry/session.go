package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// session is what is kept of an endpoint while a Repository lives: its connections, its tokens, and that it is dead.
type session struct {
	ep     endpoint
	auth   authn.Authenticator
	known  bool // there is a credential
	scopes []string

	lock    chan struct{} // holds one token: who has it changes what follows
	base    *base         // the last one; its scheme is the one that worked
	clients []*base
	http    *http.Client // nil until somebody has been let in
	dead    error        // nobody was there at the first attempt
}

func (c *Client) newSession(ep endpoint, creds []Credential, scopes ...string) *session {
	s := &session{ep: ep, auth: authenticator(ep.Host, creds), scopes: scopes, lock: make(chan struct{}, 1)}
	s.known = s.auth != authn.Anonymous
	for _, scheme := range ep.schemes {
		s.clients = append(s.clients, &base{client: c, ep: ep, scheme: scheme})
	}
	s.base = s.clients[0]
	return s
}

func (s *session) close() {
	for _, b := range s.clients {
		b.close()
	}
}

// client is authenticated with the endpoint. The first one to ask does the handshake, others wait for it.
func (s *session) client(ctx context.Context, c *call) (*http.Client, error) {
	select {
	case s.lock <- struct{}{}:
		defer func() { <-s.lock }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if s.http != nil {
		return s.http, nil
	}
	if s.dead != nil {
		return nil, s.dead
	}
	registry, err := name.NewRegistry(s.ep.address)
	if err != nil {
		return nil, fmt.Errorf("read the registry's name: %w", err)
	}
	ctx = context.WithValue(ctx, callKey{}, c)
	for i, b := range s.clients {
		s.base = b
		t, err := transport.NewWithContext(ctx, registry, s.auth, b, s.scopes)
		if err == nil {
			s.http = &http.Client{Transport: t, CheckRedirect: checkRedirect}
			return s.http, nil
		}
		if failed := b.pinged(); failed != nil {
			err = failed
		}
		if i+1 == len(s.clients) || !s.otherScheme(ctx, err) {
			if s.ep.Mirror && ctx.Err() == nil && s.network(err).Kind == KindUnreachable {
				s.dead = err
			}
			return nil, err
		}
	}
	return nil, errors.New("the registry has no scheme")
}

// otherScheme reports whether a failure may be one of TLS that is not there.
func (s *session) otherScheme(ctx context.Context, err error) bool {
	var answered *transport.Error
	if ctx.Err() != nil || errors.As(err, &answered) {
		return false
	}
	kind := s.network(err).Kind
	return kind == KindPlainHTTP || kind == KindUnreachable
}

// request is what is asked of an endpoint.
type request struct {
	op     string
	method string
	path   string // below /v2/<repository>/, with its query
	url    string // in place of the path
	header http.Header
	body   func() (io.ReadCloser, error)
	size   int64 // bytes of the body
	limit  int64 // bytes of content that are read; negative for no limit
	accept []int // status codes besides 200
}

// do asks the endpoint once. What it answers has one of the accepted status codes; all else is an error.
func (s *session) do(ctx context.Context, r request) (*http.Response, error) {
	t := newTimed(ctx, s.clients[0].client.answer)
	resp, err := s.ask(ctx, t, r)
	if err != nil {
		t.stop()
		return nil, err
	}
	if r.limit < 0 {
		t.timer.Stop()
	}
	resp.Body = &timedBody{resp.Body, t}
	return resp, nil
}

// ask is do within its time.
func (s *session) ask(ctx context.Context, t *timed, r request) (*http.Response, error) {
	c := &call{}
	client, err := s.client(t.ctx, c)
	if err != nil {
		return nil, s.explain(ctx, r.op, c, t.explain(err))
	}
	req, err := s.build(context.WithValue(context.WithValue(t.ctx, callKey{}, c), contentKey{}, r.limit), r)
	if err != nil {
		return nil, err
	}
	if r.body != nil { // what is sent takes the time that it takes
		t.timer.Stop()
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, s.explain(ctx, r.op, c, t.explain(err))
	}
	if r.body != nil {
		t.timer.Reset(t.limit)
	}
	if resp.StatusCode == http.StatusOK || slices.Contains(r.accept, resp.StatusCode) {
		if err := r.check(resp); err != nil {
			resp.Body.Close()
			return nil, s.explain(ctx, r.op, c, err)
		}
		return resp, nil
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxSmallBody))
	if err != nil && len(body) == 0 && r.method != http.MethodHead {
		body = nil // what it says besides its status is lost
	}
	head := answer{resp.Request.URL.Host, resp.StatusCode, resp.Header.Get("Content-Type"), resp.Header}
	return nil, s.explain(ctx, r.op, c, s.refusal(head, body))
}

// check refuses an answer that only looks like a success.
func (r *request) check(resp *http.Response) error {
	if looksLikeHTML(resp.Header.Get("Content-Type"), nil) {
		return noRegistry("answers with an HTML page")
	}
	if resp.Request.Method != r.method { // as net/http does at a 302 or 303: nothing was written
		return &Error{Kind: KindRedirect, Status: resp.StatusCode, Remedy: "tell the registry's owner",
			Reason: "it sends us on in a way that turns " + r.method + " into " + resp.Request.Method}
	}
	return nil
}

// build makes the request of net/http.
func (s *session) build(ctx context.Context, r request) (*http.Request, error) {
	address := r.url
	if address == "" {
		address = s.base.scheme + "://" + s.ep.address + s.ep.base + "/" + s.ep.Repository + "/" + r.path
		if s.ep.ns != "" {
			mark := "?"
			if strings.Contains(address, "?") {
				mark = "&"
			}
			address += mark + "ns=" + url.QueryEscape(s.ep.ns)
		}
	}
	var body io.ReadCloser
	if r.body != nil {
		var err error
		if body, err = r.body(); err != nil {
			return nil, err
		}
	}
	req, err := http.NewRequestWithContext(ctx, r.method, address, body)
	if err != nil {
		return nil, fmt.Errorf("%s: make the request: %w", r.op, err)
	}
	if r.body != nil {
		req.ContentLength, req.GetBody = r.size, r.body
	}
	for key, values := range r.header {
		req.Header[key] = values
	}
	req.Header.Set(contentMark, "1")
	return req, nil
}

package registry

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync"
	"time"
)

const (
	dialTimeout      = 15 * time.Second
	handshakeTimeout = 15 * time.Second
	keepAlive        = 30 * time.Second
	idleConnection   = 30 * time.Second
	settleRate       = 5 << 20  // bytes a second: a registry may compute a digest of what it has got, or copy it
	maxHeader        = 64 << 10 // bytes
	maxSmallBody     = 64 << 10 // bytes of an answer that is not content: errors, tokens, pings
	maxRedirects     = 10
)

// base is the transport of one endpoint, below go-containerregistry's. Each request goes through it: for content, for
// tokens, and where the registry sends us on to. Such others have the TLS settings of their own names.
type base struct {
	client *Client
	ep     endpoint
	scheme string // that is spoken with the endpoint
	own    reached

	mu    sync.Mutex
	pools map[poolKey]*http.Transport
	ping  error // of the last ping
}

// poolKey is what connections are shared by.
type poolKey struct {
	host  string // host[:port] whose TLS settings are used
	proxy string
}

// RoundTrip checks where a request goes, sends it and bounds its answer.
func (b *base) RoundTrip(in *http.Request) (*http.Response, error) {
	resp, err := b.send(in)
	if in.URL.Path == "/v2/" && !errors.Is(err, errPlainPing) && sameHost(in.URL, b.ep.address, b.scheme) {
		b.mu.Lock()
		b.ping = err
		b.mu.Unlock()
	}
	return resp, err
}

// pinged is what the last ping failed with. go-containerregistry tells it together with that by plain HTTP.
func (b *base) pinged() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ping
}

func (b *base) send(in *http.Request) (*http.Response, error) {
	own, err := b.direct(in.URL)
	if err != nil {
		return nil, err
	}
	proxy, err := b.client.proxy(in.URL)
	if err != nil {
		return nil, fmt.Errorf("find the proxy for %s: %w", in.URL.Host, err)
	}
	if proxy != nil && !own {
		if err := b.own.throughProxy(in.URL.Hostname()); err != nil {
			return nil, err
		}
	}
	pool, err := b.pool(in.URL, own, proxy)
	if err != nil {
		return nil, err
	}
	w := newWatch(in.Context(), b.client.stall)
	out := b.request(in, own, proxy == nil, w)
	resp, err := pool.RoundTrip(out)
	if err != nil {
		stalled := w.stalled()
		w.stop()
		if stalled {
			err = fmt.Errorf("%w for %s", errStalled, b.client.stall)
		}
		return nil, err
	}
	w.answered()
	limit := int64(maxSmallBody)
	content, ok := in.Context().Value(contentKey{}).(int64)
	if ok && in.Header.Get(contentMark) != "" && resp.StatusCode < 300 {
		limit = content
	}
	if call, ok := in.Context().Value(callKey{}).(*call); ok {
		call.note(in.URL.Host, resp)
	}
	resp.Body = &answerBody{ReadCloser: resp.Body, watch: w, idle: b.client.stall, left: limit}
	if err := b.checkPing(in, resp); err != nil {
		resp.Body.Close()
		return nil, err
	}
	return resp, nil
}

// direct reports whether a URL is the endpoint's own, and refuses what nobody may be sent to.
func (b *base) direct(u *url.URL) (own bool, err error) {
	own = sameHost(u, b.ep.address, b.scheme)
	switch {
	case u.Scheme != "https" && u.Scheme != "http":
		return own, &Error{Kind: KindRedirect, Reason: fmt.Sprintf("it sends us on to a %s address, which is no https",
			said(u.Scheme)), Remedy: "tell the registry's owner"}
	case own && u.Scheme == "http" && b.scheme == "https" && u.Path == "/v2/":
		// go-containerregistry tries it by itself where a name looks like one of a local network.
		return own, errPlainPing
	case u.Scheme == "http" && b.scheme == "https":
		return own, &Error{Kind: KindRedirect, Reason: fmt.Sprintf("it sends us on from https to plain http (%s)",
			said(u.Host)), Remedy: "if a proxy in front of the registry ends TLS, let it set X-Forwarded-Proto"}
	case !own && !validHost.MatchString(u.Host):
		return own, &Error{Kind: KindRedirect, Reason: fmt.Sprintf("it sends us on to a host named %q", said(u.Host)),
			Remedy: "tell the registry's owner"}
	case u.User != nil:
		return own, &Error{Kind: KindRedirect, Reason: "it sends us on with a password in the address",
			Remedy: "tell the registry's owner"}
	}
	return own, nil
}

// errPlainPing is the answer to a ping by plain HTTP where that is not allowed. What counts is how that by https ended.
var errPlainPing = errors.New("plain HTTP is not allowed")

// plainHTTP says how plain HTTP is allowed.
func (b *base) plainHTTP(reason string, cause error) *Error {
	return &Error{Kind: KindPlainHTTP, Reason: reason, Cause: cause,
		Remedy: fmt.Sprintf(`if it may speak without encryption, write server = "http://%s" into %s/hosts.toml`,
			b.ep.address, b.ep.tls.where)}
}

// request is what is sent for a request of go-containerregistry's or ours.
func (b *base) request(in *http.Request, own, direct bool, w *watch) *http.Request {
	ctx := w.ctx
	if own && direct {
		var conn httptrace.GotConnInfo
		ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
			GotConn:              func(info httptrace.GotConnInfo) { conn = info },
			GotFirstResponseByte: func() { b.own.add(conn.Conn.RemoteAddr()) },
		})
	}
	out := in.Clone(ctx)
	out.Header.Del(contentMark)
	out.Header.Set("User-Agent", b.client.userAgent)
	if own {
		out.URL.Scheme = b.scheme
		if out.URL.Path == "/v2/" {
			out.URL.Path = b.ep.pingPath()
		}
		for key, values := range b.ep.header {
			if len(out.Header.Values(key)) == 0 {
				out.Header[http.CanonicalHeaderKey(key)] = values
			}
		}
	}
	if in.Body != nil && in.Body != http.NoBody {
		wrap := func(body io.ReadCloser) io.ReadCloser {
			settle := b.client.stall + time.Duration(in.ContentLength/settleRate)*time.Second
			return &sentBody{body, w, b.client.stall, settle}
		}
		out.Body = wrap(in.Body)
		if in.GetBody != nil {
			out.GetBody = func() (io.ReadCloser, error) {
				body, err := in.GetBody()
				if err != nil {
					return nil, err
				}
				return wrap(body), nil
			}
		}
	}
	return out
}

// pingPath is where a registry is asked whether it is one: the path to its first /v2, as a mirror's own path (Harbor's
// projects) may go on after it.
func (e *endpoint) pingPath() string {
	if before, _, ok := strings.Cut(e.base+"/", "/v2/"); ok {
		return before + "/v2/"
	}
	return e.base + "/"
}

// sameHost reports whether a URL is one of a host[:port] that is spoken to with a scheme.
func sameHost(u *url.URL, address, scheme string) bool {
	want := &url.URL{Host: address}
	port := u.Port()
	if port == "" {
		port = defaultPort(scheme) // go-containerregistry writes https where it is not told, and base puts it right
	}
	wantPort := want.Port()
	if wantPort == "" {
		wantPort = defaultPort(scheme)
	}
	return strings.EqualFold(u.Hostname(), want.Hostname()) && port == wantPort
}

func defaultPort(scheme string) string {
	if scheme == "http" {
		return "80"
	}
	return "443"
}

// pool is the transport with the settings of a URL's host.
func (b *base) pool(u *url.URL, own bool, proxy *url.URL) (*http.Transport, error) {
	key := poolKey{host: strings.ToLower(u.Host)}
	if own {
		key.host = b.ep.address
	}
	if proxy != nil {
		key.proxy = proxy.String()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if t := b.pools[key]; t != nil {
		return t, nil
	}
	settings, onward := b.ep.tls, (*reached)(nil)
	if !own {
		var err error
		if settings, err = b.client.settings.onward(key.host); err != nil {
			return nil, &brokenSettings{err}
		}
		if proxy == nil {
			onward = &b.own
		}
	}
	config, err := settings.config()
	if err != nil {
		return nil, &brokenSettings{err}
	}
	t := &http.Transport{
		TLSClientConfig: config, DialContext: dialer(onward).DialContext, TLSHandshakeTimeout: handshakeTimeout,
		MaxResponseHeaderBytes: maxHeader, IdleConnTimeout: idleConnection, ForceAttemptHTTP2: true,
		// A body is what its digest says; unpacked behind our back it would not be.
		DisableCompression: true,
		// Of a connection that is dead no other stream should be opened.
		HTTP2: &http.HTTP2Config{SendPingTimeout: b.client.stall / 4, PingTimeout: b.client.stall / 4},
	}
	if proxy != nil {
		t.Proxy = http.ProxyURL(proxy)
	}
	if b.pools == nil {
		b.pools = map[poolKey]*http.Transport{}
	}
	b.pools[key] = t
	return t, nil
}

// brokenSettings are files that cannot be used for a connection.
type brokenSettings struct{ err error }

func (b *brokenSettings) Error() string { return b.err.Error() }

// close closes idle connections.
func (b *base) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, t := range b.pools {
		t.CloseIdleConnections()
	}
}

// checkPing tells a registry from something else that listens there.
func (b *base) checkPing(in *http.Request, resp *http.Response) error {
	if in.URL.Path != "/v2/" || !sameHost(in.URL, b.ep.address, b.scheme) {
		return nil
	}
	switch {
	case resp.StatusCode == http.StatusNotFound || resp.StatusCode == http.StatusMethodNotAllowed:
		return noRegistry("has no %s", b.ep.pingPath())
	case resp.StatusCode == http.StatusOK && looksLikeHTML(resp.Header.Get("Content-Type"), nil):
		return noRegistry("answers with an HTML page")
	}
	return nil
}

func noRegistry(format string, args ...any) *Error {
	return &Error{Kind: KindNoRegistry, Reason: "what answers there is no registry: it " + fmt.Sprintf(format, args...),
		Remedy: "check the host and the port, and whether a proxy or a log-in page is between"}
}

// onward are the TLS settings of a host that a registry sends us on to: its own files, and nothing of the registry's.
func (s settings) onward(host string) (tlsSettings, error) {
	var t tlsSettings
	hosts, err := s.hosts(host)
	if err != nil {
		return t, err
	}
	if hosts != nil && !hosts.fallback {
		all, err := hosts.endpoints(reference{host: canonicalHost(host)}, false)
		if err != nil {
			return t, err
		}
		for _, e := range all {
			if e.address == host {
				t = e.tls
			}
		}
	}
	return s.certificates(host, t)
}

// checkRedirect is the policy for where we are sent on to. The scheme and the address are checked by base.
func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return &Error{Kind: KindRedirect, Reason: fmt.Sprintf("it sends us on more than %d times", maxRedirects),
			Remedy: "tell the registry's owner"}
	}
	if from := via[len(via)-1].URL; from.Scheme == "https" && req.URL.Scheme == "http" {
		return &Error{Kind: KindRedirect, Reason: fmt.Sprintf("it sends us on from https to plain http (%s)",
			said(req.URL.Host)), Remedy: "tell the registry's owner"}
	}
	if !strings.EqualFold(req.URL.Host, via[0].URL.Host) {
		req.Header.Del("Authorization")
	}
	req.Header.Del("Referer") // addresses of storage have secrets in them
	return nil
}

// call is one request of ours with all that it leads to: pings, tokens, where we are sent on to.
type call struct {
	mu   sync.Mutex
	last answer
}

// answer is what of an answer's head is needed to explain a failure.
type answer struct {
	host        string
	status      int
	contentType string
	header      http.Header
}

type (
	callKey    struct{} // a *call
	contentKey struct{} // an int64: how many bytes of content are read, negative for no limit
)

// contentMark tells requests of ours, and where they are sent on to, from those for tokens in between, which have their
// context: a token that is asked for in the middle of a blob is no blob. It is a header that is never sent.
const contentMark = "Vethloom-Content"

// note keeps the head of a failure.
func (c *call) note(host string, resp *http.Response) {
	if resp.StatusCode < 400 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = answer{host, resp.StatusCode, resp.Header.Get("Content-Type"), resp.Header}
}

func (c *call) lastAnswer() answer {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last
}

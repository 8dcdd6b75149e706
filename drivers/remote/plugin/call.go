package plugin

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	// mediaType is what bodies are, of both directions.
	mediaType = "application/vnd.docker.plugins.v1.2+json"
	maxAnswer = 1 << 20 // bytes of an answer
	maxText   = 300     // bytes of a plugin's words in an error
	dialWait  = 5 * time.Second
)

// Plugin is one that has been activated.
type Plugin struct {
	name       string
	at         place
	base       string
	client     *http.Client
	wait       time.Duration
	implements []string
	forget     func()
}

// Refusal is a plugin's answer that it does not do what it was asked.
type Refusal struct {
	Plugin, Method string
	Text           string // the plugin's words, as they may be printed
}

func (r *Refusal) Error() string {
	return fmt.Sprintf("plugin %s refuses %s: %s", r.Plugin, r.Method, r.Text)
}

// CallError is why a call has no answer that counts: what the plugin has done is not known.
type CallError struct {
	Plugin, Method string
	Err            error
}

func (e *CallError) Error() string {
	return fmt.Sprintf("ask plugin %s for %s: %v", e.Plugin, e.Method, e.Err)
}

func (e *CallError) Unwrap() error { return e.Err }

// errNoMethod is why a plugin does not know a method.
var errNoMethod = errors.New("the plugin does not have this method")

// checkAddr refuses addresses that no plugin can have.
func checkAddr(addr string) error {
	u, err := url.Parse(addr)
	if err != nil {
		return fmt.Errorf("address %q is no URL", clean(addr))
	}
	switch u.Scheme {
	case "unix":
		if u.Host == "" && filepath.IsAbs(u.Path) {
			return nil
		}
	case "tcp", "http", "https":
		if _, port, err := net.SplitHostPort(u.Host); err == nil && port != "" {
			return nil
		}
	}
	return fmt.Errorf("address %q: want unix:///PATH or tcp://HOST:PORT", clean(addr))
}

// dial makes the client of a plugin. Nothing is sent yet.
func dial(name string, at place, wait time.Duration) (*Plugin, error) {
	u, err := url.Parse(at.addr)
	if err != nil {
		return nil, err
	}
	dialer := &net.Dialer{Timeout: min(wait, dialWait)}
	// A connection for each call: one that was kept may be gone by the next, and then nobody knows what came of that.
	t := &http.Transport{DisableKeepAlives: true, MaxResponseHeaderBytes: 64 << 10, DisableCompression: true,
		DialContext: dialer.DialContext}
	p := &Plugin{name: name, at: at, base: "http://" + u.Host, wait: wait, forget: func() {}}
	switch {
	case u.Scheme == "unix":
		p.base = "http://plugin"
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", u.Path)
		}
	case at.has || u.Scheme == "https":
		p.base = "https://" + u.Host
		if t.TLSClientConfig, err = at.tls.load(); err != nil {
			return nil, fmt.Errorf("plugin %s: %w", name, err)
		}
	}
	p.client = &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error {
		return errors.New("it leads to another address, which is not followed")
	}}
	return p, nil
}

// load reads the files that a TLS configuration names.
func (c tlsConfig) load() (*tls.Config, error) {
	out := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: c.InsecureSkipVerify}
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("TLSConfig.CAFile: %w", err)
		}
		out.RootCAs = x509.NewCertPool()
		if !out.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("TLSConfig.CAFile %s has no certificate", c.CAFile)
		}
	}
	if c.CertFile != "" || c.KeyFile != "" {
		pair, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("TLSConfig.CertFile and KeyFile: %w", err)
		}
		out.Certificates = []tls.Certificate{pair}
	}
	return out, nil
}

// Name is the plugin's name.
func (p *Plugin) Name() string { return p.name }

// activate asks the plugin what it is.
func (p *Plugin) activate(ctx context.Context) error {
	var out struct{ Implements []string }
	if err := p.call(ctx, "Plugin.Activate", nil, &out); err != nil {
		return err
	}
	p.implements = slices.Clip(out.Implements)
	return nil
}

// failure is how an answer says that nothing was done: network drivers by Err, IPAM drivers by Error.
type failure struct{ Err, Error string }

// text is what of it can be printed; "" for none.
func (f failure) text() string {
	if f.Err == "" {
		f.Err = f.Error
	}
	if f.Err == "" {
		return ""
	}
	return fmt.Sprintf("%q", clean(f.Err))
}

// clean is the beginning of somebody's words.
func clean(text string) string {
	if len(text) > maxText {
		text = text[:maxText] + "…"
	}
	return strings.ToValidUTF8(text, "?")
}

// call posts one request and decodes its answer into out. The error is a [Refusal], or a [CallError] when what the
// plugin has done is not known. A nil in is an empty body.
func (p *Plugin) call(ctx context.Context, method string, in, out any) error {
	ctx, cancel := context.WithTimeoutCause(ctx, p.wait, fmt.Errorf("no answer within %s", p.wait))
	defer cancel()
	status, body, err := p.post(ctx, method, in)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		p.forget() // it may come back as another process, which has to be activated
		return &CallError{p.name, method, err}
	}
	var failed failure
	parsed := parse(body, &failed)
	switch {
	case parsed == nil && failed.text() != "":
		return &Refusal{p.name, method, failed.text()}
	case status == http.StatusNotFound:
		return &CallError{p.name, method, errNoMethod}
	case status != http.StatusOK:
		return &CallError{p.name, method, fmt.Errorf("status %d, %q", status, clean(string(body)))}
	case parsed != nil:
		return &CallError{p.name, method, parsed}
	}
	if err := parse(body, out); err != nil {
		return &CallError{p.name, method, err}
	}
	return nil
}

func (p *Plugin) post(ctx context.Context, method string, in any) (status int, body []byte, err error) {
	var sent []byte
	if in != nil {
		if sent, err = json.Marshal(in); err != nil {
			return 0, nil, fmt.Errorf("encode the request: %w", err)
		}
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, p.base+"/"+method, bytes.NewReader(sent))
	if err != nil {
		return 0, nil, err
	}
	r.Header.Set("Accept", mediaType)
	r.Header.Set("Content-Type", mediaType)
	resp, err := p.client.Do(r)
	if err != nil {
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err
		}
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return 0, nil, fmt.Errorf("read the answer: %w", err)
	}
	if len(body) > maxAnswer {
		return 0, nil, fmt.Errorf("the answer is longer than %d bytes", maxAnswer)
	}
	return resp.StatusCode, body, nil
}

// parse decodes one JSON object, and nothing but one.
func parse(body []byte, out any) error {
	text := bytes.TrimSpace(body)
	if len(text) == 0 {
		return errors.New("the answer is empty")
	}
	if text[0] != '{' || !utf8.Valid(text) {
		return fmt.Errorf("the answer is no JSON object: %q", clean(string(text)))
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fmt.Errorf("the answer is malformed: %w", err)
	}
	return nil
}

// Answered reports whether a plugin has said its word: it has done what it was asked, refuses it, or does not know it.
func Answered(err error) bool {
	_, refused := errors.AsType[*Refusal](err)
	return err == nil || refused || errors.Is(err, errNoMethod)
}

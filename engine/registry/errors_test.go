package registry

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/golden"
	"github.com/vethloom/vethloom/internal/registrytest"
)

const (
	jsonType = "application/json"
	htmlPage = "<!DOCTYPE html>\n<html><body>Log in to the hotel's network</body></html>"
)

// answers are bad answers to a request for a manifest, with the kind that their errors have.
var answers = []struct {
	name  string
	kind  Kind
	fault registrytest.Fault
}{
	{"401", KindUnauthorized, registrytest.Fault{Status: 401, Body: registryError("UNAUTHORIZED",
		"authentication required")}},
	{"403", KindForbidden, registrytest.Fault{Status: 403, Body: registryError("DENIED", "not yours")}},
	{"404", KindNotFound, registrytest.Fault{Status: 404, Body: registryError("MANIFEST_UNKNOWN", "manifest unknown")}},
	{"404 without words", KindNotFound, registrytest.Fault{Status: 404}},
	{"429", KindTooMany, registrytest.Fault{Status: 429, Body: registryError("TOOMANYREQUESTS", "pull rate limit"),
		Header: http.Header{"Retry-After": {"3600"}, "Ratelimit-Limit": {"100;w=21600"},
			"Ratelimit-Remaining": {"0;w=21600"}}}},
	{"500", KindServer, registrytest.Fault{Status: 500, Body: "disk full"}},
	{"502 by a proxy", KindServer, registrytest.Fault{Status: 502, Body: "<html><h1>Bad Gateway</h1></html>",
		Header: http.Header{"Content-Type": {"text/html"}}}},
	{"503", KindServer, registrytest.Fault{Status: 503}},
	{"418", KindRefused, registrytest.Fault{Status: 418, Body: `{"message":"I'm a teapot"}`}},
	{"words that are commands", KindForbidden, registrytest.Fault{Status: 403,
		Body: registryError("DEN\x1b[2JIED", "\x1b]0;title\a red\u202e dlrow \x00")}},
	{"words without end", KindForbidden, registrytest.Fault{Status: 403, Endless: true,
		Body: strings.Repeat("no, ", 1000)}},
	{"a page of a log-in", KindNoRegistry, registrytest.Fault{Body: htmlPage,
		Header: http.Header{"Content-Type": {"text/html"}}}},
	{"a page that says it is JSON", KindNoRegistry, registrytest.Fault{Body: htmlPage,
		Header: http.Header{"Content-Type": {jsonType}}}},
	{"other JSON", KindContent, registrytest.Fault{Body: `{"hello":"world"}`,
		Header: http.Header{"Content-Type": {jsonType}}}},
	{"no JSON", KindContent, registrytest.Fault{Body: "hello", Header: http.Header{"Content-Type": {"text/plain"}}}},
	{"a manifest without end", KindContent, registrytest.Fault{Endless: true}},
	{"a manifest that is an index too", KindContent,
		registrytest.Fault{Body: `{"config":{},"layers":[],"manifests":[]}`}},
	{"schema 1", KindContent, registrytest.Fault{Body: `{"schemaVersion":1,"fsLayers":[]}`}},
	{"two media types", KindContent,
		registrytest.Fault{Body: `{"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`,
			Header: http.Header{"Content-Type": {"application/vnd.oci.image.manifest.v1+json"}}}},
	{"another digest than announced", KindContent, registrytest.Fault{Edit: func(b []byte) []byte {
		return append(bytes.Clone(b), ' ')
	}}},
	{"headers without end", KindContent, registrytest.Fault{Header: http.Header{"X": {strings.Repeat("x", 100_000)}}}},
	{"cut", KindBroken, registrytest.Fault{Cut: true, At: 10}},
	{"no answer", KindStalled, registrytest.Fault{NoAnswer: true}},
	{"silence", KindStalled, registrytest.Fault{Stall: true, At: 10}},
	{"a file", KindRedirect, registrytest.Fault{Redirect: "file:///etc/passwd"}},
	{"a password", KindRedirect, registrytest.Fault{Redirect: "https://a:b@example.org/"}},
	{"round and round", KindRedirect, registrytest.Fault{Redirect: "/v2/a/b/manifests/1"}},
	{"a redirect to nowhere", KindRedirect, registrytest.Fault{Status: 302}},
	{"a metadata service", KindRedirect, registrytest.Fault{Redirect: "http://169.254.169.254/latest/meta-data/"}},
	{"a private address", KindRedirect, registrytest.Fault{Redirect: "http://" + privateAddress + "/"}},
	{"no address", KindRedirect, registrytest.Fault{Redirect: "http://0.0.0.0/"}},
	{"an address in another", KindRedirect, registrytest.Fault{Redirect: "http://[::ffff:10.0.0.1]/"}},
}

// registryError is an error as registries write it.
func registryError(code, message string) string {
	quote := strings.NewReplacer(`\x1b`, `\u001b`, `\a`, `\u0007`, `\x00`, `\u0000`)
	return quote.Replace(fmt.Sprintf(`{"errors":[{"code":%q,"message":%q}]}`, code, message))
}

// Every bad answer has an error that says who, what and what to do.
func TestWhatBadAnswersAreCalled(t *testing.T) {
	var text strings.Builder
	for _, a := range answers {
		t.Run(a.name, func(t *testing.T) {
			s := registrytest.Serve(t, registrytest.Options{})
			h := newHost(t)
			h.push(s.Host+"/a/b:1", newShelf(t, 100, 1))
			f := a.fault
			f.Path = "/manifests/"
			s.Fail(f)
			if f.Stall || f.NoAnswer {
				h.impatient()
			}
			start := time.Now()
			_, _, err := h.repository(s.Host+"/a/b:1").Manifest(t.Context(), "1")
			e := failure(t, err)
			if e.Kind != a.kind {
				t.Errorf("kind %q, want %q: %v", e.Kind, a.kind, err)
			}
			if took := time.Since(start); took > 20*time.Second {
				t.Errorf("took %s", took)
			}
			if len(e.Text) > maxText || len(err.Error()) > 3*maxText || strings.ContainsAny(err.Error(),
				"\x1b\x00\a\n\u202e") {
				t.Errorf("%d bytes: %q", len(err.Error()), err)
			}
			fmt.Fprintf(&text, "%s:\n\t%s\n", a.name, hide(err.Error(), s))
		})
	}
	golden.Equal(t, "errors.txt", text.String())
}

// hide puts names in the place of what differs from run to run.
func hide(text string, servers ...*registrytest.Server) string {
	for i, s := range servers {
		text = strings.ReplaceAll(text, s.Host, fmt.Sprintf("HOST%d", i))
	}
	words := strings.Split(text, "sha256:")
	for i := range words[1:] {
		words[i+1] = "…" + strings.TrimLeft(words[i+1], "0123456789abcdef")
	}
	return strings.Join(words, "sha256:")
}

// What callers branch on.
func TestErrorsAreWhatTheyMean(t *testing.T) {
	for kind, want := range map[Kind]error{
		KindNotFound: cnm.ErrNotFound, KindForbidden: cnm.ErrForbidden, KindUnauthorized: cnm.ErrForbidden,
		KindServer: cnm.ErrUnavailable, KindStalled: cnm.ErrUnavailable, KindTooMany: cnm.ErrUnavailable,
	} {
		if !errors.Is(&Error{Kind: kind}, want) {
			t.Errorf("%s is not %v", kind, want)
		}
	}
	cause := errors.New("cause")
	err := error(&Error{Kind: KindServer, Cause: cause, Mirrors: []*Error{{Kind: KindNotFound}}})
	if !errors.Is(err, cause) || errors.Is(err, cnm.ErrNotFound) {
		t.Error("the cause is lost, or a mirror's word counts")
	}
}

// A registry that asks for a pause gets it, within the bound and the context.
func TestRetryAfterIsObeyed(t *testing.T) {
	s := registrytest.Serve(t, registrytest.Options{})
	h := newHost(t)
	img := newShelf(t, 100, 1)
	h.push(s.Host+"/a/b:1", img)
	s.Fail(registrytest.Fault{Path: "/manifests/", Times: 1, Status: 429, Header: http.Header{"Retry-After": {"1"}}})
	start := time.Now()
	pulls(t, h.repository(s.Host+"/a/b:1"), "1", img)
	if took := time.Since(start); took < time.Second {
		t.Errorf("asked again after %s", took)
	}
	for value, want := range map[string]time.Duration{"7": 7 * time.Second, "-1": 0, "x": 0, "": 0,
		"Thu, 01 Jan 1970 00:01:00 GMT": time.Minute} {
		if got := retryAfter(http.Header{"Retry-After": {value}}, time.Unix(0, 0)); got != want {
			t.Errorf("%q: %s, want %s", value, got, want)
		}
	}
}

// Bad answers to a request for a blob: none of them is taken for the blob.
func TestBadBlobs(t *testing.T) {
	longer := func(b []byte) []byte { return append(bytes.Clone(b), 'x') }
	shorter := func(b []byte) []byte { return b[:len(b)-1] }
	for name, c := range map[string]struct {
		kind  Kind
		fault registrytest.Fault
		text  string
	}{
		"longer":             {KindContent, registrytest.Fault{Edit: longer}, "where the manifest says"},
		"longer, no length":  {KindContent, registrytest.Fault{Edit: longer, Unsized: true}, "has more than the"},
		"without end":        {KindContent, registrytest.Fault{Endless: true}, "has more than the"},
		"shorter":            {KindContent, registrytest.Fault{Edit: shorter}, "where the manifest says"},
		"shorter, no length": {KindContent, registrytest.Fault{Edit: shorter, Unsized: true}, ""},
		"a page": {KindNoRegistry, registrytest.Fault{Body: htmlPage,
			Header: http.Header{"Content-Type": {"text/html"}}}, "HTML"},
		"another range": {KindContent, registrytest.Fault{Status: 206, Body: "x",
			Header: http.Header{"Content-Range": {"bytes 5-5/9"}}}, "5-5/9"},
		"a range of no sense": {KindContent, registrytest.Fault{Status: 206, Body: "x",
			Header: http.Header{"Content-Range": {"\u202e"}}}, `u202e`},
		"gone": {KindNotFound, registrytest.Fault{Status: 404, Body: registryError("BLOB_UNKNOWN",
			"blob unknown")}, "BLOB_UNKNOWN"},
		"a file": {KindRedirect, registrytest.Fault{Redirect: "file:///etc/passwd"}, "no https"},
	} {
		t.Run(name, func(t *testing.T) {
			s := registrytest.Serve(t, registrytest.Options{})
			h := newHost(t)
			img := newShelf(t, 5000, 1)
			h.push(s.Host+"/a/b:1", img)
			d := img.layer(t)
			f := c.fault
			f.Path, f.Method = d.Digest.String(), http.MethodGet
			s.Fail(f)
			got, err := read(t, h.repository(s.Host+"/a/b:1"), d, 0)
			if name == "shorter, no length" { // the rest is asked for, and is not there
				if err == nil && bytes.Equal(got, img.blobs[d.Digest]) {
					t.Error("it is whole")
				}
				return
			}
			if e := failure(t, err); e.Kind != c.kind || !strings.Contains(err.Error(), c.text) ||
				int64(len(got)) > d.Size {
				t.Errorf("%d bytes, %s: %v", len(got), e.Kind, err)
			}
		})
	}
}

// Log-in tells what is wrong with the credential from what is wrong with the registry.
func TestLogin(t *testing.T) {
	h := newHost(t)
	cred := func(host string) Credential { return Credential{Host: host, Username: "alice", Password: "secret"} }
	basic := registrytest.Serve(t, registrytest.Options{User: "alice", Password: "secret"})
	bearer := registrytest.Serve(t, registrytest.Options{User: "alice", Password: "secret", Bearer: true})
	untrusted := registrytest.Serve(t, registrytest.Options{TLS: true})
	misnamed := registrytest.Serve(t, registrytest.Options{TLS: true, Names: []string{"other.example"}})
	h.trusts(misnamed)
	plain := registrytest.Serve(t, registrytest.Options{Address: publicAddress + ":0"})
	page := registrytest.Serve(t, registrytest.Options{})
	page.Fail(registrytest.Fault{Body: htmlPage, Header: http.Header{"Content-Type": {"text/html"}}})
	none := registrytest.Serve(t, registrytest.Options{})
	none.Fail(registrytest.Fault{Status: 404})
	broken := registrytest.Serve(t, registrytest.Options{User: "alice", Password: "secret", Bearer: true})
	broken.Fail(registrytest.Fault{Path: "/token", Body: "{}"})
	ssh := banner(t)
	for _, s := range []*registrytest.Server{basic, bearer} {
		if err := h.Login(t.Context(), cred(s.Host)); err != nil {
			t.Errorf("the right password: %v", err)
		}
	}
	for _, c := range []struct {
		name string
		cred Credential
		kind Kind
	}{
		{"wrong password", Credential{Host: basic.Host, Username: "alice", Password: "x"}, KindUnauthorized},
		{"wrong password for a token", Credential{Host: bearer.Host, Username: "alice", Password: "x"},
			KindUnauthorized},
		{"unknown CA", cred(untrusted.Host), KindCertificate},
		{"another name", cred(misnamed.Host), KindCertificate},
		{"no TLS", cred(plain.Host), KindPlainHTTP},
		{"a page", cred(page.Host), KindNoRegistry},
		{"no registry", cred(none.Host), KindNoRegistry},
		{"SSH", cred(ssh), KindNoRegistry},
		{"no token", cred(broken.Host), KindContent},
		{"nobody there", cred("127.0.0.1:1"), KindUnreachable},
		{"no such name", cred("registry.invalid"), KindUnreachable},
	} {
		err := h.Login(t.Context(), c.cred)
		if e := failure(t, err); e.Kind != c.kind || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: kind %q, want %q: %v", c.name, e.Kind, c.kind, err)
		} else {
			t.Logf("%s: %v", c.name, err)
		}
	}
	broken.Heal()
	broken.Fail(registrytest.Fault{Path: "/token", Status: 403, Body: registryError("DENIED", "the account is locked")})
	if e := failure(t, h.Login(t.Context(), cred(broken.Host))); e.Kind != KindForbidden || e.Code != "DENIED" ||
		e.Text != "the account is locked" {
		t.Errorf("the words of a server of tokens: %v", e)
	}
	if err := h.Login(t.Context(), cred("https://x/")); !errors.Is(err, cnm.ErrInvalid) {
		t.Errorf("what is no host: %v", err)
	}
}

// banner is a server that says something else than HTTP.
func banner(t *testing.T) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		fmt.Fprint(conn, "SSH-2.0-OpenSSH_9.2\r\n")
		conn.Close()
	}))
	s.Config.ErrorLog = discard()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func TestWhatServersSayIsCleaned(t *testing.T) {
	for in, want := range map[string]string{
		" a \n\t b ": "a b", "\x1b[31mred": `\x1b[31mred`, "caf\u00e9 \u202e": "café \\u202e", "\xff": `\xff`, "": "",
		strings.Repeat("é", 300): strings.Repeat("é", 254) + "…",
	} {
		if got := said(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	if got := slices.Max([]int{len(said(strings.Repeat("\x00", 1000))), len(said(strings.Repeat(" x",
		1000)))}); got > maxText {
		t.Errorf("%d bytes", got)
	}
	words := `{"errors":[{"code":"A","message":"b","detail":{"x":1}},{"message":"c"}]}`
	if _, text := registryWords([]byte(words)); text != `b {"x":1}; c` {
		t.Error(text)
	}
	if h := (v1.Hash{}); referrersTag(h) != "-" {
		t.Error("tag")
	}
}

package registry

import (
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
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// explain makes an Error of whatever a request of an endpoint failed with. The caller's own end stays what it is.
func (s *session) explain(ctx context.Context, op string, c *call, err error) error {
	if cause := ctx.Err(); cause != nil {
		return fmt.Errorf("%s of registry %s: %w", op, s.ep.Host, context.Cause(ctx))
	}
	var e *Error
	var answered *transport.Error
	var broken *brokenSettings
	switch {
	case errors.As(err, &broken):
		e = &Error{Kind: KindSettings, Reason: broken.err.Error(), Cause: broken.err}
	case errors.As(err, &e):
		copied := *e
		e = &copied
	case errors.As(err, &answered):
		e = s.libraryAnswer(c.lastAnswer(), answered)
	default:
		e = s.network(err)
	}
	e.Host = s.ep.Host
	if e.Op == "" {
		e.Op = op
	}
	return e
}

// libraryAnswer is a failure that go-containerregistry has read: of a ping or of a token.
func (s *session) libraryAnswer(head answer, t *transport.Error) *Error {
	var body []byte
	if len(t.Errors) > 0 {
		body, _ = json.Marshal(map[string]any{"errors": t.Errors}) // all of it was JSON before
	} else if _, raw, ok := strings.Cut(t.Error(), http.StatusText(t.StatusCode)+": "); ok {
		body = []byte(raw)
	}
	if head.status != t.StatusCode {
		head = answer{host: s.ep.address, status: t.StatusCode}
	}
	return s.refusal(head, body)
}

// refusal is an Error of an answer with a status that is not what was hoped for, and what of its body was read.
func (s *session) refusal(head answer, body []byte) *Error {
	e := &Error{Status: head.status, RetryAfter: retryAfter(head.header, time.Now())}
	who := "it"
	if head.host != "" && !strings.EqualFold(head.host, s.ep.address) {
		who = said(head.host) + ", which it sends us to,"
	}
	html := looksLikeHTML(head.contentType, body)
	if !html {
		e.Code, e.Text = registryWords(body)
	}
	switch {
	case head.status == http.StatusUnauthorized:
		e.Kind, e.Reason = KindUnauthorized, who+" wants a login"
		if s.known {
			e.Reason = who + " does not take the credential"
		}
		e.Remedy = s.loginRemedy()
	case head.status == http.StatusForbidden:
		e.Kind, e.Reason, e.Remedy = KindForbidden, who+" does not allow it", s.loginRemedy()
	case head.status == http.StatusNotFound:
		e.Kind, e.Reason = KindNotFound, "does not exist"
		if !s.known {
			e.Reason = "does not exist or may need a login"
			e.Remedy = s.loginRemedy()
		}
	case head.status == http.StatusTooManyRequests:
		e.Kind, e.Reason = KindTooMany, who+" has had too many requests"+limits(head.header)
		e.Remedy = "wait, or use another account ('net login " + s.ep.Host + "')"
	case head.status >= 500 || head.status == http.StatusRequestTimeout:
		e.Kind, e.Reason, e.Remedy = KindServer, who+" fails", "try again later"
	case head.status < 400:
		e.Kind, e.Reason = KindRedirect, who+" sends us on, and does not say where to"
	default:
		e.Kind, e.Reason = KindRefused, who+" refuses"
	}
	if html {
		e.Reason += ", with an HTML page, as a proxy or a log-in page would"
	}
	return e
}

func (s *session) loginRemedy() string {
	if s.known {
		return fmt.Sprintf("check the name, and that the account may do this ('net login %s')", s.ep.Host)
	}
	return fmt.Sprintf("check the name, and log in with 'net login %s' if it needs that", s.ep.Host)
}

// registryWords are the code and the message of an error body: OCI distribution specification, error codes. Tokens'
// servers have other forms.
func registryWords(body []byte) (code, text string) {
	var parsed struct {
		Errors []struct {
			Code    string          `json:"code"`
			Message string          `json:"message"`
			Detail  json.RawMessage `json:"detail"`
		} `json:"errors"`
		Details     string `json:"details"`
		Error       string `json:"error"`
		Description string `json:"error_description"`
		Message     string `json:"message"`
	}
	if json.Unmarshal(body, &parsed) != nil {
		return "", said(string(body))
	}
	var texts []string
	for i, e := range parsed.Errors {
		if i == 0 {
			code = said(e.Code)
		}
		text := e.Message
		if detail := string(e.Detail); detail != "" && detail != "null" && detail != "{}" && len(detail) < maxText/2 {
			text += " " + detail
		}
		texts = append(texts, text)
	}
	for _, other := range []string{parsed.Details, parsed.Error, parsed.Description, parsed.Message} {
		if other != "" {
			texts = append(texts, other)
		}
	}
	if len(texts) == 0 {
		return "", said(string(body))
	}
	return code, said(strings.Join(texts, "; "))
}

// limits says what a registry's headers say about its limits.
func limits(h http.Header) string {
	var all []string
	for _, key := range []string{"Retry-After", "RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset",
		"Docker-RateLimit-Source"} {
		if value := h.Get(key); value != "" {
			all = append(all, strings.ToLower(key)+": "+said(value))
		}
	}
	if len(all) == 0 {
		return ""
	}
	return " (" + strings.Join(all, ", ") + ")"
}

// retryAfter reads Retry-After: seconds or a date (RFC 9110, 10.2.3).
func retryAfter(h http.Header, now time.Time) time.Duration {
	value := h.Get("Retry-After")
	if n, err := strconv.ParseInt(value, 10, 32); err == nil {
		return max(0, time.Duration(n)*time.Second)
	}
	if t, err := http.ParseTime(value); err == nil {
		return max(0, t.Sub(now))
	}
	return 0
}

// network is an Error of a connection that brought no answer, or not all of it.
func (s *session) network(err error) *Error {
	e := &Error{Cause: err}
	// The library's wrapping repeats the address, with what is secret in it.
	shown := err
	for u, ok := shown.(*url.Error); ok; u, ok = shown.(*url.Error) {
		shown = u.Err
	}
	text := said(shown.Error())
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var verify *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var dns *net.DNSError
	var op *net.OpError
	switch {
	case errors.Is(err, errStalled):
		e.Kind, e.Reason = KindStalled, "it is silent: "+text
		e.Remedy = "check the network between, and try again"
	case errors.Is(err, errSlow), errors.Is(err, errLate):
		e.Kind, e.Reason = KindStalled, "it is too slow: "+text
		e.Remedy = "check the network between, try again, or name a mirror of it in a hosts.toml"
	case errors.As(err, &unknown) || errors.As(err, &name) || errors.As(err, &verify):
		e.Kind, e.Reason = KindCertificate, "its certificate is not trusted: "+text
		e.Remedy = fmt.Sprintf("put its CA's certificate into %s/ca.crt, or have its own corrected", s.ep.tls.where)
	case errors.As(err, &op) && op.Op == "remote error": // an alert of TLS
		e.Kind, e.Reason = KindCertificate, "it ends the TLS handshake: "+text
		e.Remedy = fmt.Sprintf("if it wants a client certificate, put it into %s/client.cert, and client.key",
			s.ep.tls.where)
	case errors.Is(err, http.ErrSchemeMismatch) || errors.As(err, &record):
		plain := s.base.plainHTTP("it does not speak TLS", err)
		e.Kind, e.Reason, e.Remedy = plain.Kind, plain.Reason, plain.Remedy
	case errors.As(err, &dns):
		e.Kind, e.Reason, e.Remedy = KindUnreachable, "no address: "+text, "check the name, and this machine's DNS"
	case errors.As(err, &op) && op.Op == "dial":
		e.Kind, e.Reason = KindUnreachable, "no connection: "+text
		e.Remedy = "check that it runs, the port, and HTTPS_PROXY of netd if there is a proxy"
	case errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF):
		e.Kind, e.Reason, e.Remedy = KindBroken, "the connection ended early", "try again"
	case errors.Is(err, errTooLong):
		e.Kind, e.Reason = KindContent, "its answer is longer than we read"
	case strings.Contains(text, "server response headers exceeded"):
		e.Kind, e.Reason = KindContent, fmt.Sprintf("its answer has more than %d bytes of headers", maxHeader)
	case strings.Contains(text, "malformed HTTP"):
		e.Kind, e.Reason = KindNoRegistry, "what answers there does not speak HTTP: "+text
	case strings.Contains(text, "www-authenticate"), strings.Contains(text, "realm"), strings.Contains(text, "token"):
		e.Kind, e.Reason = KindContent, "its challenge or token cannot be used: "+text
	default:
		e.Kind, e.Reason, e.Remedy = KindBroken, "the connection broke: "+text, "try again"
	}
	return e
}

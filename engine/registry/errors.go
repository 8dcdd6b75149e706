package registry

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/vethloom/vethloom/cnm"
)

// Kind is what sort of failure an [Error] is.
type Kind string

// The kinds of failure.
const (
	KindUnauthorized Kind = "unauthorized" // 401: no credential, or one that the registry does not take
	KindForbidden    Kind = "forbidden"    // 403
	KindNotFound     Kind = "not found"    // 404: no such repository, tag, manifest or blob
	KindTooMany      Kind = "too many"     // 429
	KindServer       Kind = "server"       // 5xx, 408
	KindRefused      Kind = "refused"      // another 4xx
	KindUnreachable  Kind = "unreachable"  // no address, no connection
	KindBroken       Kind = "broken"       // a connection that ended early
	KindStalled      Kind = "stalled"      // a connection that brings nothing, or hardly anything
	KindCertificate  Kind = "certificate"  // TLS: the server's certificate, or ours, is not taken
	KindPlainHTTP    Kind = "plain HTTP"   // the server does not speak TLS, and nobody allowed it not to
	KindNoRegistry   Kind = "no registry"  // what answers is something else
	KindRedirect     Kind = "redirect"     // sent on to where we do not go
	KindSettings     Kind = "settings"     // this host's files are not right
	KindContent      Kind = "content"      // an answer that is not what was asked for: digest, length, media type
)

// Error is what went wrong with a registry: who, doing what, what it answered and what to do. It unwraps to the errors
// of package cnm that callers branch on (ErrNotFound, ErrForbidden, ErrUnavailable), and to its cause.
type Error struct {
	Host       string // as Endpoint.Host
	Op         string // what was attempted, such as "get manifest library/busybox:latest"
	Kind       Kind
	Status     int           // of HTTP; 0 where there was no answer
	Code       string        // the registry's own code, such as MANIFEST_UNKNOWN; cleaned
	Text       string        // what the registry says, on one line, cleaned and cut to 512 bytes
	Reason     string        // what is wrong, in our words
	Remedy     string        // what to do; "" where nothing can be done
	RetryAfter time.Duration // what the registry asks for; 0 for nothing
	Mirrors    []*Error      // of the endpoints that were asked before
	Cause      error
}

// Error is one line: host: op: reason, the registry's words; remedy; what the mirrors answered.
func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "registry %s: ", e.Host)
	if e.Op != "" {
		fmt.Fprintf(&b, "%s: ", e.Op)
	}
	b.WriteString(e.short())
	for i, m := range e.Mirrors {
		if i == 0 {
			b.WriteString("; before it were asked")
		} else {
			b.WriteString(",")
		}
		fmt.Fprintf(&b, " %s (%s)", m.Host, m.short())
	}
	return b.String()
}

// short leaves out who was asked for what.
func (e *Error) short() string {
	var b strings.Builder
	b.WriteString(e.Reason)
	if e.Status != 0 && e.Kind != KindContent && e.Kind != KindNoRegistry {
		fmt.Fprintf(&b, " (%d %s)", e.Status, strings.ToLower(http.StatusText(e.Status)))
	}
	if words := strings.Trim(e.Code+": "+e.Text, ": "); words != "" {
		fmt.Fprintf(&b, `; it says "%s"`, words)
	}
	if e.Remedy != "" {
		b.WriteString("; ")
		b.WriteString(e.Remedy)
	}
	return b.String()
}

// Unwrap returns what the kind means to callers, and the cause. Errors of mirrors are not among them: what counts is
// what the registry itself says.
func (e *Error) Unwrap() []error {
	var all []error
	switch e.Kind {
	case KindNotFound:
		all = append(all, cnm.ErrNotFound)
	case KindUnauthorized, KindForbidden:
		all = append(all, cnm.ErrForbidden)
	case KindTooMany, KindServer, KindUnreachable, KindBroken, KindStalled:
		all = append(all, cnm.ErrUnavailable)
	}
	if e.Cause != nil {
		all = append(all, e.Cause)
	}
	return all
}

// passing reports whether the same may work a little later.
func (e *Error) passing() bool {
	switch e.Kind {
	case KindTooMany, KindServer, KindUnreachable, KindBroken, KindStalled:
		return true
	}
	return false
}

// content is an answer that is not what was asked for.
func contentError(format string, args ...any) *Error {
	return &Error{Kind: KindContent, Reason: fmt.Sprintf(format, args...)}
}

// settingError is a file of settings that cannot be used.
func settingError(file, field, value, reason, remedy string) error {
	what := file
	if field != "" {
		what += ": " + field
	}
	if value == "" {
		return &cnm.Error{Kind: cnm.ErrInvalid, Reason: what + " " + reason, Remedy: remedy}
	}
	return &cnm.Error{Kind: cnm.ErrInvalid, Field: what, Value: said(value), Reason: reason, Remedy: remedy}
}

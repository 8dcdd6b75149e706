package docker

import (
	"errors"
	"net/http"
	"regexp"
	"strings"

	"github.com/vethloom/vethloom/api/server"
	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine/image"
)

// refusal is an error with a status of its own, and a text that clients may know.
type refusal struct {
	status int
	text   string
}

// Error is the text.
func (r *refusal) Error() string { return r.text }

var errNoPage = &refusal{status: http.StatusNotFound, text: "page not found"}

// statuses tells what domain errors mean to a client. The first that matches wins.
var statuses = []struct {
	err    error
	status int
}{
	{cnm.ErrNotFound, http.StatusNotFound},
	{cnm.ErrPortTaken, http.StatusConflict},
	{cnm.ErrUnavailable, http.StatusServiceUnavailable},
	{cnm.ErrExhausted, http.StatusServiceUnavailable},
	{cnm.ErrInUse, http.StatusConflict},
	{cnm.ErrExists, http.StatusConflict},
	{cnm.ErrConflict, http.StatusConflict},
	{cnm.ErrForbidden, http.StatusForbidden},
	{cnm.ErrInvalid, http.StatusBadRequest},
	{errors.ErrUnsupported, http.StatusNotImplemented},
}

// statusOf is the status that an error is answered with.
func statusOf(err error) int {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r.status
	}
	for _, s := range statuses {
		if errors.Is(err, s.err) {
			return s.status
		}
	}
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		return http.StatusRequestEntityTooLarge
	}
	var exit server.ExitCoder
	if errors.As(err, &exit) {
		return http.StatusBadRequest // a command that there is not, as Docker has it
	}
	return http.StatusInternalServerError
}

// wordsOf are an error's text as clients of Docker know it, some of which go by it. Remedies that name commands of net
// are of no use to who has none at hand, but where nothing else does what was asked for.
func wordsOf(err error) string {
	text := err.Error()
	if missing, ok := errors.AsType[*image.NotFoundError](err); ok {
		return "No such image: " + missing.Ref
	}
	told, ok := errors.AsType[*cnm.Error](err)
	if !ok {
		return text
	}
	short := *told
	if netCommand.MatchString(told.Remedy) && !errors.Is(err, errors.ErrUnsupported) {
		short.Remedy = ""
	}
	return strings.Replace(text, told.Error(), short.Error(), 1)
}

// netCommand finds commands of net.
var netCommand = regexp.MustCompile(`\bnet [a-z]`)

// invalid refuses a field of a request.
func invalid(field, value, reason, remedy string) error {
	return &cnm.Error{Kind: cnm.ErrInvalid, Field: field, Value: value, Reason: reason, Remedy: remedy}
}

// unsupported refuses what Docker has and netd has not.
func unsupported(field, value, reason, remedy string) error {
	return &cnm.Error{Kind: errors.ErrUnsupported, Field: field, Value: value, Reason: reason, Remedy: remedy}
}

package docker

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// The versions of the API that are served. The newest is that of the module moby/moby/api.
const (
	MinVersion = "1.41"
	MaxVersion = "1.56"
	minMinor   = 41
	maxMinor   = 56
)

// handler answers a request. Its error is answered where nothing has been written.
type handler func(w *answer, r *http.Request) error

// route is what answers the requests of one pattern, of those of [http.ServeMux]. A {name} may have slashes in it.
type route struct {
	pattern string
	do      handler
	lasts   bool // until something happens: it ends when netd stops
}

func (s *Server) register() {
	for _, routes := range [][]route{
		systemRoutes(s), containerRoutes(s), imageRoutes(s), networkRoutes(s), volumeRoutes(s), absentRoutes(),
	} {
		for _, r := range routes {
			s.add(r)
		}
	}
	for before, byEnd := range s.named {
		s.mux.HandleFunc(before+"{name...}", func(w http.ResponseWriter, r *http.Request) {
			s.serveNamed(w.(*answer), r, byEnd)
		})
	}
}

func (s *Server) add(r route) {
	before, behind, named := strings.Cut(r.pattern, "{name}")
	if !named {
		s.mux.HandleFunc(r.pattern, func(w http.ResponseWriter, req *http.Request) { s.serve(w.(*answer), req, r) })
		return
	}
	if s.named[before] == nil {
		s.named[before] = map[string]route{}
	}
	s.named[before][behind] = r
}

// serveNamed takes the end of a path off the name before it.
func (s *Server) serveNamed(w *answer, r *http.Request, byEnd map[string]route) {
	whole := r.PathValue("name")
	for end, to := range byEnd {
		if name, ok := strings.CutSuffix(whole, end); ok && end != "" && name != "" {
			r.SetPathValue("name", name)
			s.serve(w, r, to)
			return
		}
	}
	if to, ok := byEnd[""]; ok && whole != "" {
		s.serve(w, r, to)
		return
	}
	w.err = errNoPage
}

func (s *Server) serve(w *answer, r *http.Request, to route) {
	if to.lasts {
		ctx, cancel := context.WithCancelCause(r.Context())
		defer cancel(nil)
		release := context.AfterFunc(s.stop, func() { cancel(errStopping) })
		defer release()
		r = r.WithContext(ctx)
	}
	w.err = to.do(w, r)
}

// minorKey is the key of the version that a request is of, in its context.
type minorKey struct{}

// minor is the second number of the version of the API that a request is of: the first is 1.
func minor(r *http.Request) int {
	if m, ok := r.Context().Value(minorKey{}).(int); ok {
		return m
	}
	return maxMinor
}

// versioned takes the version off a request's path, and refuses one that is not served.
func versioned(r *http.Request) (*http.Request, error) {
	rest, ok := strings.CutPrefix(r.URL.Path, "/v")
	if !ok {
		return r, nil
	}
	text, _, _ := strings.Cut(rest, "/")
	first, second, dotted := strings.Cut(text, ".")
	major, err := strconv.ParseUint(first, 10, 31)
	if err != nil {
		return r, nil // such as /volumes
	}
	m, err := strconv.ParseUint(second, 10, 31)
	switch {
	case err != nil && dotted:
		return nil, errNoPage
	case major < 1 || major == 1 && m < minMinor:
		return nil, &refusal{status: http.StatusBadRequest, text: fmt.Sprintf("client version %s is too old. Minimum "+
			"supported API version is %s, please upgrade your client to a newer version", text, MinVersion)}
	case major > 1 || m > maxMinor:
		return nil, &refusal{status: http.StatusBadRequest, text: fmt.Sprintf("client version %s is too new. Maximum "+
			"supported API version is %s", text, MaxVersion)}
	}
	r = r.WithContext(context.WithValue(r.Context(), minorKey{}, int(m)))
	u := new(url.URL)
	*u = *r.URL
	u.Path, u.RawPath = strings.TrimPrefix(u.Path, "/v"+text), strings.TrimPrefix(u.RawPath, "/v"+text)
	r.URL = u
	return r, nil
}

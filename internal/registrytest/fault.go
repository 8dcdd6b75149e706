package registrytest

import (
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"time"
)

// Fault is something wrong that a registry does on purpose.
type Fault struct {
	// Path and Method say which requests it is committed for: those whose path holds the text; "" is every one.
	Path, Method string
	// Times is how often it is committed; 0 is always.
	Times int

	// Status, Header and Body replace the answer. With a Body alone the status is 200.
	Status int
	Header http.Header
	Body   string
	// Edit changes the body of the answer, and its length with it.
	Edit func([]byte) []byte
	// Redirect sends on to an address.
	Redirect string
	// IgnoreRange sends all of a blob whatever was asked for.
	IgnoreRange bool
	// Unsized leaves out the length of the answer.
	Unsized bool
	// Endless goes on with zeros after the body, and does not say how many.
	Endless bool

	// At is where the body ends early, in bytes of it, for the faults below.
	At int64
	// Cut closes the connection; Reset has the kernel reset it; Stall keeps it and sends nothing any more.
	Cut, Reset, Stall bool
	// Pace is waited for after each Piece of the body, which has so many bytes; 0: 1 KiB.
	Pace  time.Duration
	Piece int
	// NoAnswer keeps even the header back.
	NoAnswer bool

	committed int
}

func (f *Fault) matches(r *http.Request) bool {
	return strings.Contains(r.URL.Path, f.Path) && (f.Method == "" || f.Method == r.Method) &&
		(f.Times == 0 || f.committed < f.Times)
}

// commit answers a request wrongly.
func (f *Fault) commit(w http.ResponseWriter, r *http.Request, s *Server) {
	if f.NoAnswer {
		f.hang(r, s)
		return
	}
	if f.IgnoreRange {
		r.Header.Del("Range")
	}
	whole := httptest.NewRecorder()
	s.answer(whole, r)
	body := whole.Body.Bytes()
	maps.Copy(w.Header(), whole.Header())
	status := whole.Code
	if f.Status != 0 || f.Body != "" || f.Redirect != "" {
		clear(w.Header())
		status, body = max(f.Status, http.StatusOK), []byte(f.Body)
	}
	if f.Redirect != "" {
		w.Header().Set("Location", f.Redirect)
		status = http.StatusTemporaryRedirect
		if f.Status != 0 {
			status = f.Status
		}
	}
	maps.Copy(w.Header(), f.Header)
	if f.Edit != nil {
		body = f.Edit(body)
	}
	if f.Endless || f.Unsized {
		w.Header().Del("Content-Length")
	} else if r.Method != http.MethodHead {
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	}
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		f.send(w, r, s, body)
	}
}

// send sends a body as far as the fault lets it.
func (f *Fault) send(w http.ResponseWriter, r *http.Request, s *Server, body []byte) {
	broken := f.Cut || f.Reset || f.Stall
	if broken {
		body = body[:min(int64(len(body)), f.At)]
	}
	piece := f.Piece
	if piece == 0 {
		piece = 1024
	}
	for f.Pace > 0 && len(body) > 0 {
		n := min(len(body), piece)
		if !write(w, body[:n]) || !pause(r, s, f.Pace) {
			return
		}
		body = body[n:]
	}
	if !write(w, body) {
		return
	}
	for zeros := make([]byte, 32<<10); f.Endless; {
		if !write(w, zeros) {
			return
		}
	}
	switch {
	case f.Reset:
		reset(w)
	case f.Cut:
		panic(http.ErrAbortHandler)
	case f.Stall:
		f.hang(r, s)
	}
}

// hang waits for the client to give up.
func (f *Fault) hang(r *http.Request, s *Server) {
	select {
	case <-r.Context().Done():
	case <-s.done:
	}
	panic(http.ErrAbortHandler)
}

func pause(r *http.Request, s *Server, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-r.Context().Done():
	case <-s.done:
	}
	return false
}

// write sends bytes at once.
func write(w http.ResponseWriter, data []byte) bool {
	if _, err := w.Write(data); err != nil {
		return false
	}
	return http.NewResponseController(w).Flush() == nil
}

// reset ends a connection of HTTP/1.1 by a reset; that of HTTP/2 has its stream reset.
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	inner := conn
	if t, ok := conn.(interface{ NetConn() net.Conn }); ok {
		inner = t.NetConn()
	}
	if tcp, ok := inner.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	inner.Close()
}

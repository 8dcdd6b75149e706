// Package relay answers dockerd at the plugin's socket: with what netd says, and with an error when that does not
// answer in time. dockerd itself waits for ever, at the boot too. It is the work of a process of its own, net-relay,
// which netd starts, and which outlives it.
package relay

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path"
	"time"
)

// AddressSpace is that of our pools: it tells them from those of Docker's own IPAM.
const AddressSpace = "vethloom"

const (
	answerTime = 1950 * time.Millisecond // each answer comes within 2 s; netd itself answers a little earlier
	againTime  = 50 * time.Millisecond   // between two tries while nobody listens
	MaxBody    = 1 << 20                 // bytes of a request or an answer
)

// Fixed are the answers that depend on nothing.
func Fixed(method string) (any, bool) {
	switch method {
	case "Plugin.Activate":
		return map[string][]string{"Implements": {"NetworkDriver", "IpamDriver"}}, true
	case "NetworkDriver.GetCapabilities":
		// Scope global would have dockerd look for a store of its own.
		return map[string]any{"Scope": "local", "ConnectivityScope": "global", "GwAllocChecker": true}, true
	case "IpamDriver.GetCapabilities":
		return map[string]bool{"RequiresMACAddress": false, "RequiresRequestReplay": false}, true
	case "IpamDriver.GetDefaultAddressSpaces":
		return map[string]string{"LocalDefaultAddressSpace": AddressSpace,
			"GlobalDefaultAddressSpace": AddressSpace}, true
	case "NetworkDriver.GwAllocCheck", "NetworkDriver.DiscoverNew", "NetworkDriver.DiscoverDelete",
		"NetworkDriver.AllocateNetwork", "NetworkDriver.FreeNetwork", "IpamDriver.ReleasePool":
		return struct{}{}, true
	}
	return nil, false
}

// Answer writes what dockerd is told. It expects code 200 even of an error, which has two names: it looks for one with
// network drivers, for the other with IPAM drivers.
func Answer(w http.ResponseWriter, answer any, err error) error {
	if err != nil {
		answer = map[string]string{"Err": err.Error(), "Error": err.Error()}
	}
	w.Header().Set("Content-Type", "application/vnd.docker.plugins.v1.2+json")
	return json.NewEncoder(w).Encode(answer)
}

// Serve answers at a socket until the context ends, and then for as long as an answer may take.
func Serve(ctx context.Context, l net.Listener, h http.Handler, log *slog.Logger) error {
	srv := &http.Server{Handler: h, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second,
		MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
	srv.SetKeepAlivesEnabled(false) // one that ends here while dockerd asks has it ask again, with nothing in it
	stopped := make(chan error, 1)
	defer context.AfterFunc(ctx, func() {
		bound, cancel := context.WithTimeout(context.WithoutCancel(ctx), answerTime)
		defer cancel()
		stopped <- errors.Join(srv.Shutdown(bound), srv.Close())
	})()
	err := srv.Serve(l)
	if errors.Is(err, http.ErrServerClosed) {
		if err = <-stopped; errors.Is(err, context.DeadlineExceeded) {
			err = nil
		}
	}
	return err
}

// Relay is a handler that hands requests to netd.
type Relay struct{ netd http.Client }

// New makes one for the netd at a socket.
func New(netd string) *Relay {
	return &Relay{http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", netd)
		}}}}
}

// ServeHTTP answers one call.
func (r *Relay) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	method := path.Base(q.URL.Path)
	if answer, ok := Fixed(method); ok && q.Method == http.MethodPost {
		_ = Answer(w, answer, nil)
		return
	}
	ctx, cancel := context.WithTimeout(q.Context(), answerTime)
	defer cancel()
	body, err := io.ReadAll(http.MaxBytesReader(w, q.Body, MaxBody))
	if err != nil {
		_ = Answer(w, nil, fmt.Errorf("read the request: %w", err))
		return
	}
	var last error
	for {
		answer, err := r.ask(ctx, q.Method, method, body)
		if err == nil {
			_ = Answer(w, answer, nil)
			return
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			if last == nil {
				last = errors.New("it was asked, and has said nothing")
			}
			_ = Answer(w, nil, fmt.Errorf("netd does not answer; see that it runs, and try again: %w", last))
			return
		case <-time.After(againTime): // it is being started again
		}
	}
}

// ask asks netd once. What it answers is for dockerd to judge, also an error.
func (r *Relay) ask(ctx context.Context, verb, method string, body []byte) (json.RawMessage, error) {
	q, err := http.NewRequestWithContext(ctx, verb, "http://netd/"+method, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	a, err := r.netd.Do(q)
	if err != nil {
		return nil, errors.Unwrap(err) // without the address, which is none
	}
	defer a.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(a.Body, MaxBody))
	if err == nil && !json.Valid(answer) {
		err = errors.New("its answer is no JSON")
	}
	return answer, err
}

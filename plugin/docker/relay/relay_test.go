package relay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/internal/rootsocket"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// post asks as dockerd does, each time by a connection of its own.
func post(socket, method, body string) (map[string]any, error) {
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		}}}
	r, err := c.Post("http://plugin/"+method, "application/json", strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	var out map[string]any
	if err == nil {
		err = json.Unmarshal(text, &out)
	}
	if err == nil && r.StatusCode != http.StatusOK {
		err = fmt.Errorf("code %d", r.StatusCode)
	}
	return out, err
}

// listen serves until the test ends.
func listen(t *testing.T, path string, h http.Handler) {
	t.Helper()
	l, err := rootsocket.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, rootsocket.Only(l), h, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

type handler func(http.ResponseWriter, *http.Request)

func (h handler) ServeHTTP(w http.ResponseWriter, r *http.Request) { h(w, r) }

// Each call has an answer, whatever netd does: what it says, or an error that names it.
func TestAnswers(t *testing.T) {
	dir := t.TempDir()
	front, netd := filepath.Join(dir, "front"), filepath.Join(dir, "netd")
	listen(t, front, New(netd))
	says := func(what, method, body, want string) {
		t.Helper()
		a, err := post(front, method, body)
		text, _ := a["Err"].(string)
		if err != nil || !strings.Contains(text, want) || a["Error"] != a["Err"] {
			t.Errorf("%s: %v, %v, want %q", what, a, err, want)
		}
	}
	says("without a netd", "NetworkDriver.Join", "{}", "netd does not answer")
	if a, err := post(front, "Plugin.Activate", ""); err != nil || a["Implements"] == nil {
		t.Errorf("activation without a netd: %v, %v", a, err)
	}
	says("too much", "NetworkDriver.Join", strings.Repeat("x", MaxBody+1), "too large")
	asked := make(chan struct{}, 1)
	go func() { // it comes while somebody waits
		<-asked
		listen(t, netd, handler(func(w http.ResponseWriter, r *http.Request) {
			switch body, _ := io.ReadAll(r.Body); r.URL.Path {
			case "/hang":
				<-r.Context().Done() // the relay has given up
			case "/garbage":
				_, _ = w.Write([]byte("<html>"))
			case "/die":
				panic(http.ErrAbortHandler)
			default:
				_, _ = fmt.Fprintf(w, `{"Said": %q}`, body)
			}
		}))
	}()
	asked <- struct{}{}
	if a, err := post(front, "NetworkDriver.Join", "hello"); err != nil || a["Said"] != "hello" {
		t.Errorf("of a netd that comes: %v, %v", a, err)
	}
	says("a netd that hangs", "hang", "{}", "it was asked, and has said nothing")
	says("a netd that says what is none", "garbage", "{}", "its answer is no JSON")
	says("a netd that ends", "die", "{}", "EOF")
}

// A connection ends with its answer. On one that is kept, dockerd may ask at the moment when the relay ends: it tries
// again then, and sends an empty body.
func TestConnectionsAreNotKept(t *testing.T) {
	front := filepath.Join(t.TempDir(), "front")
	listen(t, front, New(front+"-netd"))
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", front)
	}}
	defer tr.CloseIdleConnections()
	r, err := (&http.Client{Transport: tr}).Post("http://plugin/Plugin.Activate", "application/json", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if !r.Close {
		t.Error("the connection is kept for another call")
	}
}

// FuzzRelay sends what dockerd, or somebody in its place, might, and hears one JSON object.
func FuzzRelay(f *testing.F) {
	f.Add("NetworkDriver.Join", []byte(`{"NetworkID":"x"}`), []byte(`{}`))
	f.Add("x/../Plugin.Activate", []byte("{"), []byte("{"))
	f.Fuzz(func(t *testing.T, method string, body, answer []byte) {
		r := &Relay{http.Client{Transport: transport(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader(string(answer)))}, nil
		})}}
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // one try, and no waiting
		q, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://plugin/", strings.NewReader(string(body)))
		if err != nil {
			t.Fatal(err)
		}
		q.URL.Path = "/" + method
		w := &recorder{header: http.Header{}}
		r.ServeHTTP(w, q)
		var out map[string]any
		if err := json.Unmarshal(w.body, &out); err != nil && !json.Valid(answer) {
			t.Fatalf("%q is answered %q: %v", body, w.body, err)
		}
	})
}

type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

type recorder struct {
	header http.Header
	body   []byte
}

func (r *recorder) Header() http.Header { return r.header }

func (r *recorder) Write(b []byte) (int, error) {
	r.body = append(r.body, b...)
	return len(b), nil
}

func (r *recorder) WriteHeader(int) {}

// program builds net-relay.
func program(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "net-relay")
	out, err := exec.Command("go", "build", "-o", path, "github.com/vethloom/vethloom/cmd/net-relay").CombinedOutput()
	if err != nil {
		t.Fatalf("build net-relay: %v: %s", err, out)
	}
	return path
}

// pids are the relays of a socket.
func pids(socket string) (out []int) {
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range all {
		text, _ := os.ReadFile(p)
		var pid int
		if strings.Contains(string(text), "--path\x00"+socket+"\x00") {
			if _, err := fmt.Sscanf(p, "/proc/%d/", &pid); err == nil {
				out = append(out, pid)
			}
		}
	}
	return out
}

// A relay that is killed is back. One whose place is taken ends, and one whose netd is gone goes on until then.
func TestOneRelayHasThePlace(t *testing.T) {
	dir := t.TempDir()
	cfg := Config{Path: filepath.Join(dir, "plugins", "v.sock"), Netd: filepath.Join(dir, "netd"), Program: program(t),
		Log: slog.New(slog.DiscardHandler)}
	open := func() *Keeper {
		t.Helper()
		k, err := Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	answers := func(when string) {
		t.Helper()
		if a, err := post(cfg.Path, "Plugin.Activate", ""); err != nil || a["Implements"] == nil {
			t.Fatalf("%s: %v, %v", when, a, err)
		}
	}
	first := open()
	answers("at first")
	if st, err := os.Stat(cfg.Path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode of the socket: %v, %v", st, err)
	}
	old := pids(cfg.Path)
	if len(old) != 1 {
		t.Fatalf("relays: %v", old)
	}
	if err := syscall.Kill(old[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	answers("after it was killed")
	if err := os.Remove(cfg.Path); err != nil {
		t.Fatal(err)
	}
	await.True(t, "a socket that was removed is there again", func() bool {
		_, err := post(cfg.Path, "Plugin.Activate", "")
		return err == nil
	})
	now := pids(cfg.Path)
	if len(now) != 1 {
		t.Fatalf("relays: %v", now)
	}
	if err := syscall.Kill(now[0], syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	answers("after it had stopped")
	second := open()
	answers("of the second netd")
	await.True(t, "the first's relay goes", func() bool { return len(pids(cfg.Path)) == 1 })
	await.True(t, "the first says so", func() bool { return errors.Is(first.Trouble(), errTaken) })
	if err := second.Close(); err != nil {
		t.Error(err)
	}
	await.True(t, "the first has its place again", func() bool { return first.Trouble() == nil })
	answers("after the second netd's end")
	third := open()
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	answers("after the first netd's end")
	if err := third.Close(); err != nil {
		t.Error(err)
	}
	if left := pids(cfg.Path); len(left) > 0 {
		t.Errorf("relays are left: %v", left)
	}
	if _, err := os.Stat(cfg.Path); !os.IsNotExist(err) {
		t.Errorf("the socket is left: %v", err)
	}
	cfg.Program = "/nonexistent"
	if _, err := Open(cfg); err == nil {
		t.Error("a relay without a program")
	}
	if _, err := os.Stat(cfg.Path); !os.IsNotExist(err) {
		t.Errorf("a socket without a relay: %v", err)
	}
}

// What is no listener, or no place, is refused.
func TestHowItIsStarted(t *testing.T) {
	path := program(t)
	for args, says := range map[string]string{"": "started by netd", "--place x": "--place", "--place 1:2": "socket",
		"--dance": "dance"} {
		out, err := exec.Command(path, strings.Fields(args)...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), says) {
			t.Errorf("net-relay %s: %v, %s, want %q", args, err, out, says)
		}
	}
	if p, err := ParsePlace("12:34"); err != nil || p.String() != "12:34" {
		t.Errorf("a place: %v, %v", p, err)
	}
	ctx, stop := Hold(t.Context(), filepath.Join(t.TempDir(), "x"), Place{})
	defer stop()
	<-ctx.Done() // a place that was never taken
}

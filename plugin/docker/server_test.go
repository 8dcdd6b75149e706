package docker

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/internal/rootsocket"
	"github.com/vethloom/vethloom/internal/store/mem"
	"github.com/vethloom/vethloom/plugin/docker/relay"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve starts a server that has nothing to answer with yet, and returns a client of its socket.
func serve(t *testing.T) (path string, post func(method, body string) map[string]any) {
	t.Helper()
	_, path, post = server(t)
	return path, post
}

func server(t *testing.T) (s *Server, path string, post func(method, body string) map[string]any) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "s.sock")
	l, err := rootsocket.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	s = New(slog.New(slog.DiscardHandler))
	go func() { done <- s.Serve(ctx, rootsocket.Only(l)) }()
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}
	t.Cleanup(func() {
		tr.CloseIdleConnections()
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s, path, func(method, body string) map[string]any {
		t.Helper()
		c := http.Client{Transport: tr}
		r, err := c.Post("http://plugin/"+method, "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatalf("%s: %v", method, err)
		}
		defer r.Body.Close()
		text, err := io.ReadAll(r.Body)
		var out map[string]any
		if err != nil || r.StatusCode != http.StatusOK || json.Unmarshal(text, &out) != nil {
			t.Fatalf("%s: %d, %v, %s", method, r.StatusCode, err, text)
		}
		return out
	}
}

const id64 = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// What is asked wrongly is answered with 200 and both names of an error, and what netd cannot do yet within 2 s.
func TestRequestsThatAreRefused(t *testing.T) {
	_, post := serve(t)
	for _, c := range []struct{ method, body, says string }{
		{"NetworkDriver.CreateNetwork", "", "EOF"},
		{"NetworkDriver.CreateNetwork", "{", "unexpected EOF"},
		{"NetworkDriver.CreateNetwork", "{}", "not an ID"},
		{"NetworkDriver.CreateNetwork", `{"NetworkID": "../x"}`, "not an ID"},
		{"NetworkDriver.CreateNetwork", `{"NetworkID": "` + id64 + `"} {}`, "more than one"},
		{"NetworkDriver.CreateNetwork", `{"NetworkID": "` + id64 + `", "IPv4Data": 5}`, "cannot unmarshal"},
		{"NetworkDriver.Join", `{"NetworkID": "` + id64 + `"}`, "not an ID"},
		{"NetworkDriver.CreateNetwork", `{"x": "` + strings.Repeat("a", relay.MaxBody) + `"}`, "too large"},
		{"IpamDriver.RequestPool", `{}`, "--ipam-opt net=NAME"},
		{"IpamDriver.RequestAddress", `{"PoolID": "a/5"}`, "no pool of this driver"},
		{"NetworkDriver.Dance", `{}`, "no such method"},
		{"NetworkDriver.DeleteEndpoint", `{"NetworkID": "` + id64 + `", "EndpointID": "` + id64 + `"}`,
			"netd is starting"},
	} {
		begin := time.Now()
		a := post(c.method, c.body)
		if text, _ := a["Err"].(string); !strings.Contains(text, c.says) || a["Error"] != a["Err"] {
			t.Errorf("%s %.60s: %v, want %q", c.method, c.body, a, c.says)
		}
		if took := time.Since(begin); took > 10*answerTime {
			t.Errorf("%s: answered after %s", c.method, took)
		}
	}
	if a := post("Plugin.Activate", ""); len(a["Implements"].([]any)) != 2 {
		t.Errorf("activation: %v", a)
	}
}

// Only root's processes are answered, whatever the socket's mode has become.
func TestOthersAreNotAnswered(t *testing.T) {
	path, _ := serve(t)
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode of the socket: %v, %v", st, err)
	}
	for p := path; len(p) > len(os.TempDir()); p = filepath.Dir(p) {
		if err := os.Chmod(p, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	ask := exec.Command("curl", "-s", "-m", "5", "--unix-socket", path, "-X", "POST", "http://p/Plugin.Activate")
	ask.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := ask.CombinedOutput(); err == nil || bytes.Contains(out, []byte("Implements")) {
		t.Errorf("an answer for nobody: %v, %s", err, out)
	}
}

// slow is a netd that does what it is asked for only when it may.
type slow struct {
	Controller
	asked, may chan struct{}
	undone     chan string

	mu    sync.Mutex
	given int
}

func (w *slow) Network(context.Context, string) (cnm.Network, error) {
	return cnm.Network{ID: id("8"), Name: "web", Pools: []cnm.Pool{{Subnet: netip.MustParsePrefix("10.7.0.0/24")}}}, nil
}

func (w *slow) HandsOver(string) error { return nil }

func (w *slow) Reservations(context.Context, string) ([]cnm.Reservation, error) { return nil, nil }

func (w *slow) Reserve(_ context.Context, q cnm.ReservationRequest) (cnm.Reservation, error) {
	w.asked <- struct{}{}
	<-w.may
	w.mu.Lock()
	defer w.mu.Unlock()
	w.given++
	return cnm.Reservation{Network: q.Network, Key: q.Key,
		Addr: netip.MustParsePrefix(fmt.Sprintf("10.7.0.%d/24", w.given))}, nil
}

func (w *slow) CreateSandbox(_ context.Context, r cnm.SandboxRequest) (cnm.Sandbox, []cnm.Endpoint, error) {
	w.asked <- struct{}{}
	<-w.may
	return cnm.Sandbox{ID: r.ID}, []cnm.Endpoint{{Addrs: []netip.Prefix{netip.MustParsePrefix("10.7.0.2/24")}}}, nil
}

func (w *slow) DeleteSandbox(_ context.Context, id string) error {
	w.undone <- id
	return nil
}

// behind is a server before a slow netd that knows one network of Docker's.
func behind(t *testing.T) (s *Server, w *slow, path string, post func(method, body string) map[string]any) {
	t.Helper()
	s, path, post = server(t)
	w = &slow{asked: make(chan struct{}, 8), may: make(chan struct{}), undone: make(chan string, 1)}
	store := mem.New()
	if err := store.Commit(t.Context(), cnm.Write{Key: keyOf(id64),
		Value: []byte(`{"network": "` + id("8") + `"}`)}); err != nil {
		t.Fatal(err)
	}
	s.Use(Backend{Controller: w, Store: store})
	return s, w, path, post
}

// What took longer than dockerd waits is taken back: dockerd does not know it.
func TestWhatComesTooLate(t *testing.T) {
	s, w, path, post := behind(t)
	body := `{"NetworkID": "` + id64 + `", "EndpointID": "` + id64 + `"}`
	a := post("NetworkDriver.CreateEndpoint", body)
	if text, _ := a["Err"].(string); !strings.Contains(text, "still at it") {
		t.Errorf("answered: %v", a)
	}
	close(w.may)
	if got := <-w.undone; got != sandboxID(id64) {
		t.Errorf("taken back: %s", got)
	}
	w.may = make(chan struct{})
	<-w.asked
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "POST /NetworkDriver.CreateEndpoint HTTP/1.1\r\nHost: p\r\nContent-Length: %d\r\n\r\n%s",
		len(body), body)
	<-w.asked
	conn.Close() // dockerd was killed
	await.True(t, "nobody waits any more", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, under := range s.under {
			return under.waiters == 0
		}
		return false
	})
	close(w.may)
	if got := <-w.undone; got != sandboxID(id64) {
		t.Errorf("taken back: %s", got)
	}
}

// Two that ask for any address at once get two. A request that comes twice is carried out once.
func TestRequestsAtOnce(t *testing.T) {
	_, w, _, post := behind(t)
	answers := make(chan map[string]any, 2)
	twice := func(method, body string) {
		for range 2 {
			go func() { answers <- post(method, body) }()
		}
	}
	twice("IpamDriver.RequestAddress", `{"PoolID": "`+id("8")+`/4"}`)
	<-w.asked
	<-w.asked
	close(w.may)
	if one, two := (<-answers)["Address"], (<-answers)["Address"]; one == two || one == nil || two == nil {
		t.Errorf("two addresses: %v, %v", one, two)
	}
	w.may = make(chan struct{})
	twice("NetworkDriver.CreateEndpoint", `{"NetworkID": "`+id64+`", "EndpointID": "`+id64+`"}`)
	<-w.asked
	select {
	case a := <-answers:
		t.Errorf("answered before it is done: %v", a)
	case <-w.asked:
		t.Error("carried out twice")
	case <-time.After(100 * time.Millisecond):
	}
	close(w.may)
	for range 2 {
		if a := <-answers; a["Interface"] == nil {
			t.Errorf("answered: %v", a)
		}
	}
}

// FuzzRequest decodes what dockerd, or somebody in its place, might send.
func FuzzRequest(f *testing.F) {
	f.Add("NetworkDriver.CreateEndpoint", []byte(`{"NetworkID":"`+id64+`","EndpointID":"`+id64+
		`","Interface":{"Address":"10.7.0.2/24"},"Options":{"com.docker.network.portmap":[{"Proto":6,"Port":80}]}}`))
	f.Add("IpamDriver.RequestAddress", []byte(`{"PoolID":"`+id64+`/4","Address":"10.7.0.9"}`))
	s := New(slog.New(slog.DiscardHandler))
	f.Fuzz(func(t *testing.T, method string, body []byte) {
		if todo, err := s.decode(method, body); err == nil && todo.do == nil {
			t.Fatal("nothing to do, and no error")
		}
	})
}

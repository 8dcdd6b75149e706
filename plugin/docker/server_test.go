package docker

import (
	"bytes"
	"context"
	"encoding/json"
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
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve starts a server that has nothing to answer with yet, and returns a client of its socket.
func serve(t *testing.T) (path string, post func(method, body string) map[string]any) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "s.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	s := New(slog.New(slog.DiscardHandler))
	go func() { done <- s.Serve(ctx, l) }()
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
	return path, func(method, body string) map[string]any {
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
		{"NetworkDriver.CreateNetwork", `{"x": "` + strings.Repeat("a", maxBody) + `"}`, "too large"},
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

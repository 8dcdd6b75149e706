package daemon_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/internal/await"
)

// get fetches a page from the node's own loopback.
func (n *node) get(path string) (int, string) {
	n.t.Helper()
	tr := &http.Transport{DialContext: func(_ context.Context, _, addr string) (net.Conn,
		error) {
		return n.dialFrom("", addr)
	}}
	defer tr.CloseIdleConnections()
	r, err := (&http.Client{Transport: tr}).Get("http://" + n.cfg.HTTP + path)
	if err != nil {
		n.t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		n.t.Fatal(err)
	}
	return r.StatusCode, string(b)
}

func TestHealthAndMetrics(t *testing.T) {
	n := newNode(t)
	n.cfg.HTTP = "127.0.0.1:7470"
	n.start()
	n.network("web")
	for _, path := range []string{"/healthz", "/readyz"} {
		if code, body := n.get(path); code != 200 || body != "ok\n" {
			t.Errorf("%s: %d %q", path, code, body)
		}
	}
	// A port that is lost while netd is down keeps its endpoint from converging.
	var l net.Listener
	if _, err := n.client.Sandboxes.Create(t.Context(), &apiv1.CreateSandboxRequest{Id: sandboxID,
		Networks: []*apiv1.ConnectRequest{{Network: "web"}},
		Ports:    []*apiv1.PortMapping{{Proto: "tcp", HostPort: 8080, ContainerPort: 80}}}); err != nil {
		t.Fatal(err)
	}
	n.kill()
	if err := n.Do("", func() (err error) { l, err = net.Listen("tcp", "0.0.0.0:8080"); return err }); err != nil {
		t.Fatal(err)
	}
	n.start()
	code, body := n.get("/readyz")
	if code != 503 || !strings.Contains(body, "8080") {
		t.Errorf("/readyz with a lost port: %d %q", code, body)
	}
	l.Close()
	await.True(t, "the port is held again", func() bool { code, _ := n.get("/readyz"); return code == 200 })
	_, page := n.get("/metrics")
	for _, want := range []string{
		`vethloom_objects{kind="network"} 4`, `vethloom_objects{kind="endpoint"} 1`,
		"vethloom_owners_not_converged 0", `vethloom_passes_total{result="error"}`, "go_goroutines",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("/metrics lacks %s", want)
		}
	}
	if _, err := n.client.Sandboxes.Remove(t.Context(), &apiv1.RemoveSandboxRequest{Id: sandboxID}); err != nil {
		t.Fatal(err)
	}
	n.removeNetwork("web")
	n.stop()
	n.idle()
}

// Connections that say nothing keep nobody out for long.
func TestSilentConnectionsKeepNobodyOut(t *testing.T) {
	n := newNode(t)
	n.cfg.HTTP = "127.0.0.1:7470"
	n.start()
	for range 100 {
		c, err := n.dialFrom("", n.cfg.HTTP)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	if code, body := n.get("/healthz"); code != 200 || body != "ok\n" {
		t.Errorf("/healthz: %d %q", code, body)
	}
}

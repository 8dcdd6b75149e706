package docker_test

import (
	"context"
	"net"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/moby/moby/client"
	"github.com/vethloom/vethloom/api/docker"
	"github.com/vethloom/vethloom/api/server/fake"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve serves a domain on a unix socket; the client and plain HTTP lead there.
func serve(t testing.TB, d *fake.Domain) (*client.Client, *http.Client) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "docker.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	srv := docker.New(docker.Config{Networks: d, Containers: d, Images: d, Volumes: d, Builds: d, System: d,
		ID:    "one",
		Grace: 5 * time.Second})
	go func() { served <- srv.Serve(ctx, l) }()
	c, err := client.New(client.WithHost("unix://" + path))
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
		d.Close()
	})
	return c, &http.Client{Transport: transport}
}

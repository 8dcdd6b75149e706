package etcd_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/vethloom/vethloom/internal/etcd"
	"github.com/vethloom/vethloom/internal/etcd/etcdtest"
)

// hostEtcd starts the etcd that the host has installed, which may be years older than the client.
func hostEtcd(t *testing.T) (endpoint string) {
	t.Helper()
	// A loopback address of its own, so that nobody else takes a port that was free a moment ago.
	host := fmt.Sprintf("127.%d.%d.%d", 1+rand.N(250), rand.N(250), 2+rand.N(250))
	endpoint = "http://" + host + ":2379"
	cmd := exec.Command("etcd", "--data-dir", filepath.Join(t.TempDir(), "data"), "--listen-peer-urls",
		"http://"+host+":2380", "--listen-client-urls", endpoint,
		"--advertise-client-urls", endpoint, "--logger", "zap", "--log-level", "error")
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // says that it was killed
	})
	return endpoint
}

// An etcd that checks the token of a request for a token (before 3.5) lets a user in, and a password that is
// changed, here and there, is read again.
func TestLoginAtTheHostsEtcd(t *testing.T) {
	endpoint := hostEtcd(t)
	admin := etcdtest.Dial(t, etcd.Config{Endpoints: []string{endpoint}})
	put(t, admin, "/d/a", "1")
	if _, err := admin.UserAdd(t.Context(), "root", "first"); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.UserGrantRole(t.Context(), "root", "root"); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.AuthEnable(t.Context()); err != nil {
		t.Fatal(err)
	}
	file := write(t, filepath.Join(t.TempDir(), "password"), []byte("first\n"))
	client := etcdtest.Dial(t, etcd.Config{Endpoints: []string{endpoint}, Username: "root", PasswordFile: file})
	put(t, client, "/d/b", "1")
	m := follow(t, client, "/d/")
	m.matches(t, client, "/d/")

	if _, err := client.UserChangePassword(t.Context(), "root", "second"); err != nil {
		t.Fatal(err)
	}
	write(t, file, []byte("second\n"))
	eventually(t, "a call with the new password", func(ctx context.Context) error {
		_, err := client.Put(ctx, "/d/c", "1")
		return err
	})
	m.matches(t, client, "/d/")
}

package etcd_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vethloom/vethloom/internal/etcd"
	"github.com/vethloom/vethloom/internal/etcd/embedded"
	"github.com/vethloom/vethloom/internal/etcd/etcdtest"
)

func write(t *testing.T, path string, text []byte) string {
	t.Helper()
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestCheck(t *testing.T) {
	dir := t.TempDir()
	password := write(t, filepath.Join(dir, "password"), []byte("secret\n"))
	empty := write(t, filepath.Join(dir, "empty"), nil)
	pki := newPKI(t, dir)
	https := []string{"https://10.0.0.1:2379"}
	for name, c := range map[string]struct {
		c    etcd.Config
		flag string // "": right
		text string
	}{
		"nothing": {etcd.Config{}, "--etcd", "no endpoint"},
		"plain": {
			etcd.Config{Endpoints: []string{"http://10.0.0.1:2379", "http://[fd00::1]:2379"}}, "", ""},
		"host and port":       {etcd.Config{Endpoints: []string{"127.0.0.1:2379"}}, "", ""},
		"socket":              {etcd.Config{Endpoints: []string{"unix:///run/etcd.sock"}}, "", ""},
		"TLS of the system's": {etcd.Config{Endpoints: https}, "", ""},
		"TLS": {etcd.Config{Endpoints: https, CAFile: pki.ca, CertFile: pki.cert,
			KeyFile: pki.key}, "", ""},
		"not a URL": {etcd.Config{Endpoints: []string{"http://10.0.0.1:x"}}, "--etcd", "not a URL"},
		"scheme":    {etcd.Config{Endpoints: []string{"ftp://10.0.0.1"}}, "--etcd", "scheme"},
		"no host":   {etcd.Config{Endpoints: []string{"https://"}}, "--etcd", "host"},
		"path": {etcd.Config{Endpoints: []string{"https://10.0.0.1:2379/v2"}}, "--etcd",
			"only a scheme"},
		"user in the URL": {etcd.Config{Endpoints: []string{"https://me:secret@10.0.0.1:2379"}}, "--etcd",
			"--etcd-user"},
		"half TLS": {etcd.Config{Endpoints: []string{"https://10.0.0.1:2379",
			"http://10.0.0.2:2379"}}, "--etcd", "some endpoints"},
		"TLS files without TLS": {etcd.Config{Endpoints: []string{"http://10.0.0.1:2379"}, CAFile: pki.ca},
			"--etcd", "--etcd-cafile"},
		"password over the network": {etcd.Config{Endpoints: []string{"http://10.0.0.1:2379"}, Username: "u",
			PasswordFile: password}, "--etcd", "https://"},
		"password over the loopback": {etcd.Config{Endpoints: []string{"http://[::1]:2379", "http://localhost:2379"},
			Username: "u", PasswordFile: password}, "", ""},
		"password over TLS": {etcd.Config{Endpoints: https, Username: "u", PasswordFile: password}, "", ""},
		"certificate alone": {etcd.Config{Endpoints: https, CertFile: pki.cert}, "--etcd-certfile",
			"--etcd-keyfile"},
		"key alone": {etcd.Config{Endpoints: https, KeyFile: pki.key}, "--etcd-keyfile",
			"--etcd-certfile"},
		"certificate missing": {etcd.Config{Endpoints: https, CertFile: dir + "/none", KeyFile: pki.key},
			"--etcd-certfile", "none"},
		"CA missing":           {etcd.Config{Endpoints: https, CAFile: dir + "/none"}, "--etcd-cafile", "none"},
		"CA is no certificate": {etcd.Config{Endpoints: https, CAFile: password}, "--etcd-cafile", "no PEM"},
		"user alone": {etcd.Config{Endpoints: https, Username: "u"}, "--etcd-user",
			"--etcd-password-file"},
		"password alone": {etcd.Config{Endpoints: https, PasswordFile: password}, "--etcd-password-file",
			"--etcd-user"},
		"password missing": {etcd.Config{Endpoints: https, Username: "u", PasswordFile: dir + "/none"},
			"--etcd-password-file", "none"},
		"password empty": {etcd.Config{Endpoints: https, Username: "u", PasswordFile: empty},
			"--etcd-password-file", "1 to"},
		"password file without an end": {etcd.Config{Endpoints: https, Username: "u", PasswordFile: "/dev/zero"},
			"--etcd-password-file", "1 to"},
		"negative timeout": {etcd.Config{Endpoints: https, DialTimeout: -time.Second},
			"--etcd-dial-timeout", "negative"},
	} {
		err := c.c.Check()
		if c.flag == "" {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		var e *etcd.ConfigError
		if !errors.As(err, &e) || e.Flag != c.flag || e.Remedy == "" || !errors.Is(err, etcd.ErrConfig) ||
			!strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v; want %s and %q", name, err, c.flag, c.text)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the error gives the password away: %v", name, err)
		}
		if _, derr := etcd.Dial(c.c); derr == nil {
			t.Errorf("%s: dialled", name)
		}
	}
}

// TestDialDoesNotWait dials where nobody listens, with a password, which the client's own
// constructor would return at once.
func TestDialDoesNotWait(t *testing.T) {
	password := write(t, filepath.Join(t.TempDir(), "password"), []byte("x"))
	begin := time.Now()
	etcdtest.Dial(t, etcd.Config{Endpoints: []string{"unix://" + socket(t)}, Username: "u", PasswordFile: password})
	if d := time.Since(begin); d > 4*time.Second { // a call gives up after 5 s
		t.Errorf("Dial took %v", d)
	}
}

func TestTLSWithClientCertificate(t *testing.T) {
	pki := newPKI(t, t.TempDir())
	s := etcdtest.Serve(t, embedded.Config{
		Dir: t.TempDir(), ClientURLs: []string{"https://127.0.0.1:0"},
		CAFile: pki.ca, CertFile: pki.serverCert, KeyFile: pki.serverKey,
	})
	c := etcdtest.Dial(t, etcd.Config{Endpoints: s.Endpoints(), CAFile: pki.ca, CertFile: pki.cert, KeyFile: pki.key})
	put(t, c, "/d/a", "1")
	m := follow(t, c, "/d/")
	m.matches(t, s.Client(), "/d/")
	for name, bad := range map[string]struct {
		c    etcd.Config
		text string
	}{
		// The server refuses after the client's part of the handshake is over: it may just hang up.
		"no certificate":  {etcd.Config{Endpoints: s.Endpoints(), CAFile: pki.ca}, s.Endpoints()[0]},
		"a CA unheard of": {etcd.Config{Endpoints: s.Endpoints(), CertFile: pki.cert, KeyFile: pki.key}, "certificate"},
	} {
		m := follow(t, etcdtest.Dial(t, bad.c), "/d/")
		m.disconnected(t)
		if err := m.reasons[0]; err == nil || !strings.Contains(err.Error(), bad.text) {
			t.Errorf("%s: the reason is %v", name, err)
		}
		if m.count() != 0 {
			t.Errorf("%s: followed nevertheless", name)
		}
	}
}

func TestUserAndPassword(t *testing.T) {
	path, dir := socket(t), t.TempDir()
	cfg := embedded.Config{Dir: t.TempDir(), ClientURLs: []string{"unix://" + path}}
	s := etcdtest.Serve(t, cfg)
	user := etcd.Config{
		Endpoints: []string{"unix://" + path}, Username: "root", PasswordFile: write(t, filepath.Join(dir, "good"),
			[]byte("correct horse\n")),
	}
	early := etcdtest.Dial(t, user) // before there are users, and it goes on
	put(t, early, "/d/a", "1")
	m := follow(t, early, "/d/")
	m.matches(t, s.Client(), "/d/")
	if _, err := s.Client().UserAdd(t.Context(), "root", "correct horse"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Client().UserGrantRole(t.Context(), "root", "root"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Client().AuthEnable(t.Context()); err != nil {
		t.Fatal(err)
	}
	put(t, early, "/d/b", "1")
	m.matches(t, early, "/d/")
	late := etcdtest.Dial(t, user)
	put(t, late, "/d/c", "1")
	n := follow(t, late, "/d/")
	n.matches(t, late, "/d/")
	lease := etcd.NewLease(late, time.Minute, 0, nil)
	run(t, lease)
	changed(t, lease)

	etcdtest.Stop(t, s) // tokens do not outlive the server
	etcdtest.Serve(t, cfg)
	put(t, late, "/d/d", "1")
	m.matches(t, late, "/d/")
	n.matches(t, late, "/d/")

	user.PasswordFile = write(t, filepath.Join(dir, "bad"), []byte("wrong"))
	bad := follow(t, etcdtest.Dial(t, user), "/d/")
	bad.wait(t, "an answer to a wrong password", func() bool { // a busy etcd may be too slow to answer at first
		return slices.ContainsFunc(bad.reasons,
			func(err error) bool { return err != nil && strings.Contains(err.Error(), "authentication failed") })
	})
	if n := bad.count(); n > 0 {
		t.Errorf("a wrong password gets to see %d updates", n)
	}
}

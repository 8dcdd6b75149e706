package registrytest

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"github.com/vethloom/vethloom/internal/await"
)

// DebianOptions say what a docker-registry is like.
type DebianOptions struct {
	Address        string // IP address to listen at; "": 127.0.0.1
	Port           int    // 0: a free one
	TLS            bool
	Names          []string // of the certificate, besides the address
	User, Password string   // if a user is given, nobody else is let in
	Dir            string   // where it keeps images; "": a folder of the test's
	Proxy          string   // URL of a registry that it is a pull-through mirror of; "": none
}

// Process is a docker-registry that runs.
type Process struct {
	Host string // address:port
	URL  string
	CA   *CA // of its certificate; nil without TLS
	Dir  string
}

// Debian starts Debian's docker-registry in the network namespace of the caller's thread and waits until it answers. It
// ends with the test. When the test fails, its log is shown.
func Debian(tb testing.TB, o DebianOptions) *Process {
	tb.Helper()
	if o.Address == "" {
		o.Address = "127.0.0.1"
	}
	if o.Port == 0 {
		o.Port = freePort(tb, o.Address)
	}
	dir := tb.TempDir()
	p := &Process{Host: net.JoinHostPort(o.Address, fmt.Sprint(o.Port)), Dir: o.Dir}
	if p.Dir == "" {
		p.Dir = filepath.Join(dir, "images")
	}
	p.URL = "http://" + p.Host
	config := p.config(tb, dir, o)
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		tb.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command("docker-registry", "serve", Write(tb, []byte(config), dir, "config.yml"))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none")
	if err := cmd.Start(); err != nil {
		tb.Fatalf("start Debian's docker-registry ('make deps' installs it): %v", err)
	}
	tb.Cleanup(func() {
		if err := cmd.Process.Kill(); err != nil {
			tb.Errorf("the registry has ended by itself: %v", err)
		}
		_ = cmd.Wait() // it was killed
		if tb.Failed() {
			text, _ := os.ReadFile(log.Name())
			tb.Logf("log of the registry at %s:\n%s", p.Host, text)
		}
	})
	await.Done(tb, "the registry answers", func() error {
		conn, err := net.Dial("tcp", p.Host)
		if err != nil {
			return err
		}
		return conn.Close()
	})
	return p
}

// config is its configuration, with files beside it.
func (p *Process) config(tb testing.TB, dir string, o DebianOptions) string {
	text := fmt.Sprintf("version: 0.1\nlog:\n  level: info\n"+
		"storage:\n  filesystem:\n    rootdirectory: %s\n  delete:\n    enabled: true\n"+
		"http:\n  addr: %q\n", p.Dir, p.Host)
	if o.TLS {
		p.CA, p.URL = NewCA(tb), "https://"+p.Host
		pair := p.CA.Issue(tb, append([]string{o.Address}, o.Names...)...)
		text += fmt.Sprintf("  tls:\n    certificate: %s\n    key: %s\n",
			Write(tb, pair.Cert, dir, "cert.pem"), Write(tb, pair.Key, dir, "key.pem"))
	}
	if o.User != "" {
		hash, err := bcrypt.GenerateFromPassword([]byte(o.Password), bcrypt.MinCost)
		if err != nil {
			tb.Fatal(err)
		}
		text += fmt.Sprintf("auth:\n  htpasswd:\n    realm: test\n    path: %s\n",
			Write(tb, []byte(o.User+":"+string(hash)+"\n"), dir, "htpasswd"))
	}
	if o.Proxy != "" {
		text += fmt.Sprintf("proxy:\n  remoteurl: %s\n", o.Proxy)
	}
	return text
}

// freePort is a port that nobody listens at now.
func freePort(tb testing.TB, address string) int {
	tb.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

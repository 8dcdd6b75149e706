package etcd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

// DefaultEndpoint is where an etcd on the same host listens.
const DefaultEndpoint = "http://127.0.0.1:2379"

// How a connection is watched and made again. A peer that is gone without a message is
// noticed after keepaliveTime and keepaliveTimeout; etcd refuses clients
// that ask more often than every 5 s (its --grpc-keepalive-min-time).
const (
	keepaliveTime    = 6 * time.Second
	keepaliveTimeout = 3 * time.Second
	connectTimeout   = 3 * time.Second
	maxBackoff       = 2 * time.Second
)

// maxAnswer is the largest answer to a call that is taken, in bytes. What a watch brings has no limit: it would end
// there again and again. Fragments are no way out: etcd takes time for them that grows with the square of the events.
const maxAnswer = 64 << 20

// maxPassword bounds the password file, in bytes.
const maxPassword = 4096

// Config says where etcd is and who this node is to it.
type Config struct {
	Endpoints    []string      // https://host:port, http://host:port, unix:///path or host:port; of one cluster
	CAFile       string        // PEM certificates that the servers' are checked with; "": the system's
	CertFile     string        // PEM certificate of this client, with KeyFile
	KeyFile      string        // PEM key of CertFile
	Username     string        // of etcd's own authentication, with PasswordFile
	PasswordFile string        // holds the password; one line end at its end is not part of it
	DialTimeout  time.Duration // of one attempt to connect; 0: 3 s
	Log          *slog.Logger  // nil: silent
}

// Check finds what cannot be right before anything is dialled: it names the flag,
// its value and the remedy.
func (c Config) Check() error {
	if len(c.Endpoints) == 0 {
		return refuse("--etcd", "", "no endpoint of etcd is given", "give its URL, for example https://10.0.0.1:2379")
	}
	secure := 0
	for _, e := range c.Endpoints {
		u, err := parseEndpoint(e)
		if err != nil {
			return err
		}
		if u.Scheme == "https" || u.Scheme == "unixs" {
			secure++
		}
		if err := c.checkPlain(e, u); err != nil {
			return err
		}
	}
	if secure != 0 && secure != len(c.Endpoints) {
		return refuse("--etcd", strings.Join(c.Endpoints, ","), "some endpoints use TLS and some do not",
			"use https:// for all of them")
	}
	if err := c.checkPairs(); err != nil {
		return err
	}
	if _, err := c.tls(); err != nil {
		return err
	}
	_, err := c.password()
	return err
}

// checkPlain keeps secrets off connections that anybody on the way can read.
func (c Config) checkPlain(endpoint string, u *url.URL) error {
	if u.Scheme != "http" {
		return nil
	}
	if c.CAFile != "" || c.CertFile != "" || c.KeyFile != "" {
		return refuse("--etcd", endpoint, "TLS files are given for an endpoint without TLS",
			"use https://, or leave out --etcd-cafile, --etcd-certfile and --etcd-keyfile")
	}
	if c.Username != "" && !loopback(u.Hostname()) {
		return refuse("--etcd", endpoint, "the password of --etcd-user would cross the network readable",
			"use https://")
	}
	return nil
}

func (c Config) checkPairs() error {
	switch {
	case c.CertFile != "" && c.KeyFile == "":
		return refuse("--etcd-certfile", c.CertFile, "a certificate is of no use without its key",
			"give --etcd-keyfile as well")
	case c.KeyFile != "" && c.CertFile == "":
		return refuse("--etcd-keyfile", c.KeyFile, "a key is of no use without its certificate",
			"give --etcd-certfile as well")
	case c.Username != "" && c.PasswordFile == "":
		return refuse("--etcd-user", c.Username, "the user has no password", "give --etcd-password-file as well")
	case c.PasswordFile != "" && c.Username == "":
		return refuse("--etcd-password-file", c.PasswordFile, "a password is of no use without a user",
			"give --etcd-user as well")
	case c.DialTimeout < 0:
		return refuse("--etcd-dial-timeout", c.DialTimeout.String(), "a timeout cannot be negative",
			"give a duration such as 3s")
	}
	return nil
}

func parseEndpoint(e string) (*url.URL, error) {
	text := e
	if !strings.Contains(e, "://") && !strings.HasPrefix(e, "unix:") && !strings.HasPrefix(e, "unixs:") {
		text = "http://" + e
	}
	u, err := url.Parse(text)
	if err != nil {
		return nil, refuse("--etcd", e, "not a URL", "give it as https://10.0.0.1:2379")
	}
	switch u.Scheme {
	case "unix", "unixs":
		if u.Host+u.Path+u.Opaque == "" {
			return nil, refuse("--etcd", e, "the socket has no path", "give it as unix:///run/etcd.sock")
		}
	case "http", "https":
		if u.Hostname() == "" {
			return nil, refuse("--etcd", e, "the host is missing", "give it as https://10.0.0.1:2379")
		}
		if strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil {
			return nil, refuse("--etcd", u.Redacted(), "only a scheme, a host and a port belong here",
				"give it as https://10.0.0.1:2379; a user goes to --etcd-user")
		}
	default:
		return nil, refuse("--etcd", e, "the scheme is unknown", "use https://, http:// or unix://")
	}
	return u, nil
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.Unmap().IsLoopback()
}

// tls is nil when no endpoint uses TLS.
func (c Config) tls() (*tls.Config, error) {
	if len(c.Endpoints) == 0 || !strings.HasPrefix(c.Endpoints[0], "https:") &&
		!strings.HasPrefix(c.Endpoints[0], "unixs:") {
		return nil, nil
	}
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, refuseFile("--etcd-cafile", c.CAFile, err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, refuse("--etcd-cafile", c.CAFile, "the file holds no PEM certificate",
				"give the certificate of etcd's CA in PEM")
		}
	}
	if c.CertFile == "" || c.KeyFile == "" {
		return t, nil
	}
	if _, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile); err != nil {
		return nil, refuseFile("--etcd-certfile", c.CertFile, err)
	}
	// Read at each handshake: certificates are renewed while the node runs.
	t.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("read the client certificate for etcd: %w", err)
		}
		return &pair, nil
	}
	return t, nil
}

func (c Config) password() (string, error) {
	if c.PasswordFile == "" {
		return "", nil
	}
	f, err := os.Open(c.PasswordFile)
	if err != nil {
		return "", refuseFile("--etcd-password-file", c.PasswordFile, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxPassword+1))
	if err != nil {
		return "", refuseFile("--etcd-password-file", c.PasswordFile, err)
	}
	p := strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")
	if p == "" || len(b) > maxPassword {
		return "", refuse("--etcd-password-file", c.PasswordFile,
			fmt.Sprintf("the password must have 1 to %d bytes", maxPassword), "write the password alone into the file")
	}
	return p, nil
}

// Dial makes a client. It never waits for etcd: the connection is made, and made again, in
// the background, and calls fail while there is none. The caller closes it.
func Dial(c Config) (*clientv3.Client, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	tlsConfig, err := c.tls()
	if err != nil {
		return nil, err
	}
	members := newFailover(c)
	unary := []grpc.UnaryClientInterceptor{failEarly, members.unary}
	stream := []grpc.StreamClientInterceptor{members.stream}
	if c.Username != "" {
		l := &login{c: c}
		unary, stream = append(unary, l.unary), append(stream, l.stream)
	}
	cfg := clientv3.Config{
		Endpoints:            c.Endpoints[members.at : members.at+1],
		TLS:                  tlsConfig,
		DialTimeout:          c.dialTimeout(),
		DialKeepAliveTime:    keepaliveTime,
		DialKeepAliveTimeout: keepaliveTimeout,
		// Not without a stream: etcd takes such pings for abuse and hangs up. A follower has one.
		PermitWithoutStream: false,
		Logger:              zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2,
				MaxDelay: maxBackoff},
			MinConnectTimeout: c.dialTimeout(),
		}), grpc.WithChainUnaryInterceptor(unary...), grpc.WithChainStreamInterceptor(stream...)},
	}
	client, err := clientv3.New(cfg)
	if err != nil {
		return nil, fmt.Errorf("make a client of etcd at %s: %w", strings.Join(c.Endpoints, ", "), err)
	}
	members.use(client)
	return client, nil
}

// failEarly has a call fail with the reason when connecting failed, as is usual in gRPC. Etcd's client would
// rather wait for the end of the context, and know no reason. It is called for each attempt of a call.
func failEarly(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker,
	opts ...grpc.CallOption) error {
	return invoke(ctx, method, req, reply, cc, append(opts[:len(opts):len(opts)], grpc.WaitForReady(false),
		grpc.MaxCallRecvMsgSize(maxAnswer))...)
}

func (c Config) dialTimeout() time.Duration {
	if c.DialTimeout > 0 {
		return c.DialTimeout
	}
	return connectTimeout
}

// ErrConfig is what every error of [Config.Check] unwraps to.
var ErrConfig = errors.New("invalid configuration of etcd")

// ConfigError is a flag that cannot be right.
type ConfigError struct {
	Flag   string
	Value  string
	Reason string
	Remedy string
}

// Error is one line: flag "value": reason; remedy.
func (e *ConfigError) Error() string {
	return fmt.Sprintf("%s %q: %s; %s", e.Flag, e.Value, e.Reason, e.Remedy)
}

// Unwrap returns [ErrConfig].
func (e *ConfigError) Unwrap() error { return ErrConfig }

func refuse(flag, value, reason, remedy string) error {
	return &ConfigError{Flag: flag, Value: value, Reason: reason, Remedy: remedy}
}

func refuseFile(flag, path string, err error) error {
	return refuse(flag, path, err.Error(), "give a readable file")
}

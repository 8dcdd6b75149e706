package daemon

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	dockerapi "github.com/vethloom/vethloom/api/docker"
	"github.com/vethloom/vethloom/api/server"
)

// dockerAPI is where Docker's API is served.
type dockerAPI []net.Listener

// listenDocker listens for users of Docker's API.
func listenDocker(ctx context.Context, cfg Config) (dockerAPI, error) {
	var out dockerAPI
	if err := clearBuilds(cfg.Run); err != nil { // before there are new ones
		return nil, err
	}
	if path, ok := strings.CutPrefix(cfg.DockerHost, "unix://"); ok {
		l, err := server.Listen(ctx, path)
		if err != nil {
			return nil, fmt.Errorf("--docker-host: %w", err)
		}
		out = append(out, l)
	}
	if cfg.DockerTCP.Address == "" {
		return out, nil
	}
	l, err := cfg.DockerTCP.listen(ctx)
	if err != nil {
		return nil, errors.Join(err, out.Close())
	}
	return append(out, l), nil
}

// Close closes every listener.
func (a dockerAPI) Close() error {
	var errs []error
	for _, l := range a {
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}

// serve serves what c has until the context ends.
func (a dockerAPI) serve(ctx context.Context, cfg Config, c server.Config) error {
	// The same over restarts, and another for each state directory of the host's.
	id := uuid.NewSHA1(uuid.NameSpaceOID, []byte(machineID()+cfg.Root)).String()
	g, ctx := errgroup.WithContext(ctx)
	for _, l := range a {
		g.Go(func() error {
			return dockerapi.New(dockerapi.Config{Networks: c.Networks, Containers: c.Containers, Images: c.Images,
				Volumes: c.Volumes, Builds: builds{cfg}, System: c.System, ID: id, Log: c.Log}).Serve(ctx, l)
		})
	}
	return g.Wait()
}

// TLSAddress is an address of TCP at which both sides show a certificate: who may use an API of netd is root on the
// host, so nobody gets that far without one.
type TLSAddress struct {
	Address string // host:port; "": none
	CA      string // file with the certificates of who signs those of clients
	Cert    string // file with the server's own
	Key     string // file with its key
}

// check refuses an address without all of the files.
func (a TLSAddress) check() error {
	if a.Address == "" {
		if a.CA+a.Cert+a.Key != "" {
			return errors.New("--docker-tlscacert, --docker-tlscert and --docker-tlskey are for --docker-tcp: " +
				"give it too")
		}
		return nil
	}
	if _, _, err := net.SplitHostPort(a.Address); err != nil {
		return fmt.Errorf("--docker-tcp %q: want ADDRESS:PORT, such as 192.0.2.1:2376", a.Address)
	}
	for flag, file := range map[string]string{"tlscacert": a.CA, "tlscert": a.Cert, "tlskey": a.Key} {
		if file == "" {
			return fmt.Errorf("--docker-tcp %s: --docker-%s is missing: without certificates, everybody who reaches "+
				"the address would be root here", a.Address, flag)
		}
	}
	return nil
}

// listen listens for clients with a certificate.
func (a TLSAddress) listen(ctx context.Context) (net.Listener, error) {
	own, err := tls.LoadX509KeyPair(a.Cert, a.Key)
	if err != nil {
		return nil, fmt.Errorf("--docker-tlscert: %w", err)
	}
	text, err := os.ReadFile(a.CA)
	if err != nil {
		return nil, fmt.Errorf("--docker-tlscacert: %w", err)
	}
	clients := x509.NewCertPool()
	if !clients.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("--docker-tlscacert %s: no certificate in it", a.CA)
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", a.Address)
	if err != nil {
		return nil, fmt.Errorf("--docker-tcp %s: %w", a.Address, err)
	}
	return tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{own}, ClientCAs: clients,
		ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12,
		NextProtos: []string{"http/1.1"}}), nil // connections are taken over, which HTTP/2 does not have
}

// Package builder finds the buildkitd that a build is given to, or starts one for the time of the build.
package builder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/client"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/vethloom/vethloom/internal/build/request"
)

// Socket is where a buildkitd of the host listens unless it was told otherwise.
const Socket = "unix:///run/buildkit/buildkitd.sock"

// Variable is the environment variable that names a builder, as buildctl reads it.
const Variable = "BUILDKIT_HOST"

// answerTime is how long a buildkitd may take until it answers.
const answerTime = 15 * time.Second

// Config is what a builder is looked for with.
type Config struct {
	Request *request.Request
	Env     func(string) (string, bool)
	Say     io.Writer // for who waits
	// Networks is netd's socket for attachments; "": one that is reached by other means than a socket of this host
	Networks string
}

// Builder is a buildkitd that answers.
type Builder struct {
	*client.Client
	own *own // nil: somebody else's
}

// Open finds a buildkitd: the one that is named, one that runs, or one that is started. The error says what to
// install, and how to name one, where there is none.
func Open(ctx context.Context, c Config) (*Builder, error) {
	r := c.Request
	address := r.Builder
	if address == "" {
		address, _ = c.Env(Variable)
	}
	named := address != "" && address != request.Own
	if ofVethloom(r.Network) && named {
		return nil, fmt.Errorf("--network %q: the buildkitd at %s was started by somebody else and has networks of "+
			"its own: use --builder own, or default, none or host", r.Network, address)
	}
	if address == "" && !ofVethloom(r.Network) && runs(ctx, Socket) {
		address, named = Socket, true
	}
	if named {
		return dial(ctx, c, address)
	}
	o, err := start(ctx, c)
	if err != nil {
		return nil, err
	}
	return &Builder{o.client, o}, nil
}

// ofVethloom reports whether a network is neither of the three that every buildkitd has.
func ofVethloom(network string) bool {
	return network != "default" && network != "none" && network != "host"
}

// runs reports whether somebody listens at a unix socket.
func runs(ctx context.Context, address string) bool {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", strings.TrimPrefix(address, "unix://"))
	if err != nil {
		return false
	}
	c.Close()
	return true
}

// dial connects to somebody else's buildkitd.
func dial(ctx context.Context, c Config, address string) (*Builder, error) {
	r := c.Request
	where, err := url.Parse(address)
	if err != nil || where.Scheme == "" {
		return nil, fmt.Errorf("builder %q: want unix:///PATH, tcp://HOST:PORT, or own", address)
	}
	var opts []client.ClientOpt
	if r.CACert != "" || r.Cert != "" || r.Key != "" || r.ServerName != "" {
		name := r.ServerName
		if name == "" {
			name = where.Hostname()
		}
		opts = append(opts, client.WithServerConfig(name, r.CACert), client.WithCredentials(r.Cert, r.Key))
	}
	cl, err := client.New(ctx, address, opts...)
	if err != nil {
		return nil, fmt.Errorf("builder %s: %w", address, err)
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	if _, err := cl.Info(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("builder %s does not answer: %w; see that buildkitd runs there, or name "+
			"another with --builder or %s", address, err, Variable), cl.Close())
	}
	return &Builder{Client: cl}, nil
}

// within connects to a buildkitd that is starting, by a dialer, and returns when it answers.
func within(ctx context.Context, dial func(context.Context) (net.Conn, error)) (*client.Client, error) {
	cl, err := client.New(ctx, "passthrough:///buildkitd",
		client.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return dial(ctx) }),
		client.WithGRPCDialOption(grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: answerTime,
			Backoff: backoff.Config{BaseDelay: 10 * time.Millisecond, Multiplier: 1.2,
				MaxDelay: 50 * time.Millisecond}})))
	if err != nil {
		return nil, err
	}
	if _, err := cl.ControlClient().Info(ctx, &controlapi.InfoRequest{}, grpc.WaitForReady(true)); err != nil {
		return nil, errors.Join(err, cl.Close())
	}
	return cl, nil
}

// Explain adds to an error of the build what a buildkitd said that ended meanwhile.
func (b *Builder) Explain(err error) error {
	if b.own == nil || err == nil {
		return err
	}
	return b.own.explain(err)
}

// Close ends the connection, and the buildkitd that was started for it with all it has made but its cache.
func (b *Builder) Close() error {
	err := b.Client.Close()
	if b.own != nil {
		err = errors.Join(err, b.own.close())
	}
	return err
}

// programs are what an own buildkitd needs.
type programs struct{ buildkitd, runtime, cni string }

func findPrograms() (p programs, err error) {
	const how = "; or name a buildkitd that runs elsewhere with --builder or " + Variable
	if p.buildkitd, err = exec.LookPath("buildkitd"); err != nil {
		return p, fmt.Errorf("there is no buildkitd: none listens at %s, and none is in PATH: install BuildKit "+
			"(github.com/moby/buildkit) with runc%s", Socket, how)
	}
	for _, name := range []string{"buildkit-runc", "runc", "crun"} {
		if p.runtime, err = exec.LookPath(name); err == nil {
			break
		}
	}
	if err != nil {
		return p, fmt.Errorf("%s runs build steps by runc, and neither runc nor crun is in PATH: install one%s",
			p.buildkitd, how)
	}
	if os.Geteuid() != 0 {
		return p, fmt.Errorf("there is no buildkitd that runs at %s, and only root can start %s: use sudo%s", Socket,
			p.buildkitd, how)
	}
	p.cni, err = request.Beside("vethloom-cni")
	return p, err
}

package client

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/vethloom/vethloom/api/stdio"
	apiv1 "github.com/vethloom/vethloom/api/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
)

// DefaultHost is where netd listens unless it is told otherwise.
const DefaultHost = "unix:///run/vethloom/netd.sock"

// HostVariable is the environment variable that names another host.
const HostVariable = "VETHLOOM_HOST"

// DefaultTimeout bounds the connection set-up: a socket that answers nothing
// within it is reported as such.
const DefaultTimeout = 5 * time.Second

// MaxMessage is the largest message either side accepts, in bytes. Streams
// carry chunks far below it; it bounds lists.
const MaxMessage = 16 << 20

// How many bytes netd may send ahead, on one stream and in all, and how many go through the socket in one call.
const (
	streamWindow = 512 << 10
	connWindow   = 1 << 20
	socketBuffer = 64 << 10
)

// Client is a connection to one netd, and its services.
type Client struct {
	Networks   apiv1.NetworksClient
	Nodes      apiv1.NodesClient
	Leases     apiv1.LeasesClient
	Names      apiv1.NamesClient
	Sandboxes  apiv1.SandboxesClient
	Containers apiv1.ContainersClient
	Images     apiv1.ImagesClient
	Volumes    apiv1.VolumesClient
	System     apiv1.SystemClient

	conn *grpc.ClientConn
	path string
}

// Options tune [Dial]; the zero value is ready to use.
type Options struct {
	Timeout time.Duration // connection set-up; 0: DefaultTimeout
}

// Host resolves the host to dial: the flag's value, else that of VETHLOOM_HOST,
// else the default.
func Host(flag string) string {
	if flag != "" {
		return flag
	}
	if env := os.Getenv(HostVariable); env != "" {
		return env
	}
	return DefaultHost
}

// Dial connects to netd and returns once it has answered. Errors are of type
// [*DialError] and say what to do.
func Dial(ctx context.Context, host string, o Options) (*Client, error) {
	path, err := SocketPath(host)
	if err != nil {
		return nil, err
	}
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	// The first connection is made here rather than in gRPC's own goroutine, so
	// that its error arrives as it is instead of as text within a retry loop.
	var d net.Dialer
	dialCtx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	first, err := d.DialContext(dialCtx, "unix", path)
	if err != nil {
		return nil, dialError(ctx, path, o.Timeout, err)
	}
	conns := make(chan net.Conn, 1)
	conns <- first
	dial := func(ctx context.Context, _ string) (net.Conn, error) {
		select {
		case c := <-conns:
			return c, nil
		default:
			return d.DialContext(ctx, "unix", path)
		}
	}
	conn, err := grpc.NewClient("passthrough:///netd", append(settings(o), grpc.WithContextDialer(dial))...)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("prepare a connection to %s: %w", path, err), first.Close())
	}
	if err := ready(dialCtx, conn); err != nil {
		err = errors.Join(err, conn.Close())
		select { // gRPC may never have asked for it
		case c := <-conns:
			err = errors.Join(err, c.Close())
		default:
		}
		return nil, dialError(ctx, path, o.Timeout, err)
	}
	return &Client{
		Networks: apiv1.NewNetworksClient(conn),
		Nodes:    apiv1.NewNodesClient(conn),
		Leases:   apiv1.NewLeasesClient(conn), Names: apiv1.NewNamesClient(conn),
		Sandboxes:  apiv1.NewSandboxesClient(conn),
		Containers: apiv1.NewContainersClient(conn),
		Images:     apiv1.NewImagesClient(conn),
		Volumes:    apiv1.NewVolumesClient(conn),
		System:     apiv1.NewSystemClient(conn),
		conn:       conn,
		path:       path,
	}, nil
}

// settings are how a connection is made and used, however it is dialled.
func settings(o Options) []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDisableServiceConfig(),
		grpc.WithIdleTimeout(0),
		// A restart of netd takes a moment; who waits for it should not wait longer.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.5, Jitter: 0.2,
				MaxDelay: time.Second},
			// Longer than the wait above: who answers nothing is to be told from who answers something else.
			MinConnectTimeout: 2 * max(o.Timeout, DefaultTimeout),
		}),
		grpc.WithInitialWindowSize(streamWindow),
		grpc.WithInitialConnWindowSize(connWindow),
		grpc.WithReadBufferSize(socketBuffer),
		grpc.WithWriteBufferSize(socketBuffer),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MaxMessage), grpc.MaxCallSendMsgSize(MaxMessage),
			grpc.ForceCodecV2(stdio.NewCodec())),
	}
}

// ready waits for the HTTP/2 settings of the other side, which only a gRPC
// server sends.
func ready(ctx context.Context, conn *grpc.ClientConn) error {
	conn.Connect()
	for {
		s := conn.GetState()
		switch s {
		case connectivity.Ready:
			return nil
		case connectivity.TransientFailure, connectivity.Shutdown:
			return errNotGRPC
		}
		if !conn.WaitForStateChange(ctx, s) {
			return ctx.Err()
		}
	}
}

// Close ends the connection and everything that runs over it.
func (c *Client) Close() error { return c.conn.Close() }

// SocketPath is the path of a unix:// host. A bare absolute path is taken too.
func SocketPath(host string) (string, error) {
	if strings.HasPrefix(host, "/") {
		return host, nil
	}
	u, err := url.Parse(host)
	if err != nil || u.Scheme != "unix" || u.Host != "" || !strings.HasPrefix(u.Path, "/") {
		return "", &DialError{Host: host, Problem: "not an address netd can be reached at",
			Remedy: "give --host or " + HostVariable + " as unix:///absolute/path, by default " + DefaultHost}
	}
	return u.Path, nil
}

var errNotGRPC = errors.New("the other side does not speak gRPC, or hung up")

// DialError says why netd could not be reached, and what to do about it.
type DialError struct {
	Host    string // socket path, or the host as given when it is malformed
	Problem string
	Remedy  string
	Err     error
}

// Error is one line: what was dialled, what was found, what to do.
func (e *DialError) Error() string {
	return fmt.Sprintf("cannot reach netd at %s: %s: %s", e.Host, e.Problem, e.Remedy)
}

// Unwrap gives the system's own error.
func (e *DialError) Unwrap() error { return e.Err }

func dialError(ctx context.Context, path string, timeout time.Duration, err error) error {
	e := &DialError{Host: path, Err: err}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		e.Problem = "the daemon is not running"
		e.Remedy = "start it with 'systemctl start netd', or run 'netd' as root; a netd elsewhere is reached with " +
			"--host or " + HostVariable
	case errors.Is(err, fs.ErrPermission):
		e.Problem = "permission denied"
		e.Remedy = "run as root, or join the group that owns the socket: 'usermod -aG vethloom $USER', then log " +
			"in again"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded),
		errors.Is(err, syscall.EAGAIN):
		e.Problem = fmt.Sprintf("the socket accepts connections but answered nothing for %s", timeout)
		e.Remedy = "netd hangs or something else holds the socket: see 'journalctl -u netd' and 'ss -xlp'"
	case errors.Is(err, errNotGRPC):
		e.Problem = "what answers there is not netd"
		e.Remedy = "see who holds the socket with 'ss -xlp', and check --host and " + HostVariable
	default:
		e.Problem = err.Error()
		e.Remedy = "check that --host or " + HostVariable + " names netd's socket"
	}
	return e
}

package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/vethloom/vethloom/api/stdio"
	apiv1 "github.com/vethloom/vethloom/api/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
)

// maxMessage is the largest message accepted or sent, in bytes. Clients send
// files in chunks far below it; it bounds lists.
const maxMessage = 16 << 20

// How many bytes a client may send ahead, on one stream and in all, and how many go through the socket in one call.
const (
	streamWindow = 512 << 10
	connWindow   = 1 << 20
	socketBuffer = 64 << 10
)

// Config is what a server is made of. A nil service is not served.
type Config struct {
	Networks   Networks
	Nodes      Nodes
	Leases     Leases
	Names      Names
	Sandboxes  Sandboxes
	Containers Containers
	Images     Images
	Volumes    Volumes
	System     System
	Log        *slog.Logger          // nil: nothing is logged
	Metrics    prometheus.Registerer // nil: nothing is exported
	Grace      time.Duration         // how long a stop waits for calls that change something; 0: 10 s
}

// Server serves the API.
type Server struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics
	grpc    *grpc.Server
	stop    context.Context // ends, with errStopping, when the server stops
	stopNow context.CancelCauseFunc
}

var errStopping = errors.New("netd is stopping")

// New makes a server. It fails when its metrics are registered already.
func New(cfg Config) (*Server, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Grace == 0 {
		cfg.Grace = 10 * time.Second
	}
	m, err := newMetrics(cfg.Metrics)
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, log: cfg.Log, metrics: m}
	s.stop, s.stopNow = context.WithCancelCause(context.Background())
	s.grpc = grpc.NewServer(
		grpc.Creds(peerCredentials{}),
		grpc.ForceServerCodecV2(stdio.NewCodec()),
		grpc.MaxRecvMsgSize(maxMessage),
		// Fixed: what is on the way when a connection breaks off is bounded, and nobody measures a socket's latency.
		grpc.InitialWindowSize(streamWindow),
		grpc.InitialConnWindowSize(connWindow),
		grpc.ReadBufferSize(socketBuffer),
		grpc.WriteBufferSize(socketBuffer),
		grpc.MaxSendMsgSize(maxMessage),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: time.Minute, Timeout: 20 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second,
			PermitWithoutStream: true}),
		grpc.ConnectionTimeout(10*time.Second),
		grpc.WaitForHandlers(true),
		grpc.ChainUnaryInterceptor(s.unary),
		grpc.ChainStreamInterceptor(s.stream),
	)
	s.register()
	return s, nil
}

func (s *Server) register() {
	if s.cfg.Networks != nil {
		apiv1.RegisterNetworksServer(s.grpc, &networksService{networks: s.cfg.Networks})
	}
	if s.cfg.Nodes != nil {
		apiv1.RegisterNodesServer(s.grpc, &nodesService{nodes: s.cfg.Nodes})
	}
	if s.cfg.Leases != nil {
		apiv1.RegisterLeasesServer(s.grpc, &leasesService{leases: s.cfg.Leases})
	}
	if s.cfg.Names != nil {
		apiv1.RegisterNamesServer(s.grpc, &namesService{names: s.cfg.Names})
	}
	if s.cfg.Sandboxes != nil {
		apiv1.RegisterSandboxesServer(s.grpc, &sandboxesService{sandboxes: s.cfg.Sandboxes})
	}
	if s.cfg.Containers != nil {
		apiv1.RegisterContainersServer(s.grpc, &containersService{containers: s.cfg.Containers})
	}
	if s.cfg.Images != nil {
		apiv1.RegisterImagesServer(s.grpc, &imagesService{images: s.cfg.Images})
	}
	if s.cfg.Volumes != nil {
		apiv1.RegisterVolumesServer(s.grpc, &volumesService{volumes: s.cfg.Volumes})
	}
	if s.cfg.System != nil {
		apiv1.RegisterSystemServer(s.grpc, &systemService{system: s.cfg.System})
	}
}

// Serve answers calls on l, which it closes, until ctx ends. Then streams and waits end at once
// (their clients connect again to the next daemon), and other calls get
// the configured grace. A server serves once.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	served := make(chan error, 1)
	go func() { served <- s.grpc.Serve(l) }()
	select {
	case err := <-served:
		s.stopNow(errStopping)
		s.grpc.Stop()
		return fmt.Errorf("serve the API on %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	s.stopNow(errStopping)
	err := s.drain()
	if serveErr := <-served; serveErr != nil && !errors.Is(serveErr, grpc.ErrServerStopped) {
		err = errors.Join(err, fmt.Errorf("serve the API on %s: %w", l.Addr(), serveErr))
	}
	return err
}

// drain ends what runs: politely, then by cancelling it.
func (s *Server) drain() error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.grpc.GracefulStop()
	}()
	if within(done, s.cfg.Grace) {
		return nil
	}
	s.log.Warn("calls still run after the grace period and are cancelled", "grace", s.cfg.Grace)
	forced := make(chan struct{})
	go func() {
		defer close(forced)
		s.grpc.Stop()
	}()
	if within(forced, s.cfg.Grace) {
		<-done
		return nil
	}
	return fmt.Errorf("stop the API: a call ignores its cancellation since %s", s.cfg.Grace)
}

func within(done <-chan struct{}, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-done:
		return true
	case <-t.C:
		return false
	}
}

// untilStop ends a call's context when the server stops, too.
func (s *Server) untilStop(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	release := context.AfterFunc(s.stop, func() { cancel(errStopping) })
	return ctx, func() {
		release()
		cancel(nil)
	}
}

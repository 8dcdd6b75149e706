package embedded

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.uber.org/zap"
)

// Config says where the data are and who may connect.
type Config struct {
	Dir string // holds the data; made when missing, of mode 0700
	// to listen on: https://host:port, http://host:port or unix:///path; none: only this process is served
	ClientURLs []string
	CAFile     string // with https: clients must show a certificate of this CA; "": none is asked for
	CertFile   string // with https: PEM certificate of this server
	KeyFile    string // of CertFile
	Log        *slog.Logger

	ReadyTimeout time.Duration // how long it may take until it serves; 0: 20 s
}

// Why a server does not start.
var (
	ErrInUse   = errors.New("the directory is in use by another process")
	ErrDamaged = errors.New("the data are damaged")
	ErrNoRoom  = errors.New("the disk is full")
)

// What a member is tuned for: few records, one writer, little memory.
const (
	tick         = 50  // ms; more often costs a node that is idle too much
	election     = 250 // ms: the member has nobody to wait for
	snapshots    = 1000
	catchUp      = 100
	maxRequest   = 4 << 20 // bytes
	quota        = 1 << 30 // bytes of the database
	retention    = "10000" // revisions
	memberName   = "local"
	unusedPeer   = "http://127.0.0.1:1" // members have a peer URL; this one neither listens nor calls
	lockName     = "lock"
	readyTimeout = 20 * time.Second

	// Bytes that must be free: etcd ends its process when it cannot write, and it reserves 128 MB for its log at once.
	roomForNew = 144 << 20
	roomForOld = 16 << 20
)

// Server is a running etcd.
type Server struct {
	etcd   *embed.Etcd
	client *clientv3.Client
	lock   *os.File
	close  sync.Once
}

// Start starts etcd on the directory and returns once it serves.
func Start(ctx context.Context, c Config) (*Server, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	cfg, err := c.embed()
	if err != nil {
		return nil, err
	}
	lock, err := lockDir(c.Dir)
	if err != nil {
		return nil, err
	}
	old, err := checkData(c.Dir)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	if err := checkRoom(c.Dir, old); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	e, err := start(cfg, c.Dir)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	s := &Server{etcd: e, lock: lock}
	if err := s.await(ctx, c, old); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	s.client = v3client.New(e.Server)
	return s, nil
}

// await waits until the server serves. Old says that it had data to begin with.
func (s *Server) await(ctx context.Context, c Config, old bool) error {
	if c.ReadyTimeout == 0 {
		c.ReadyTimeout = readyTimeout
	}
	timeout := time.NewTimer(c.ReadyTimeout)
	defer timeout.Stop()
	var err error
	select {
	case <-s.etcd.Server.ReadyNotify():
		return nil
	case err = <-s.etcd.Err():
	case <-s.etcd.Server.StopNotify():
		err = errors.New("it stopped")
	case <-timeout.C:
		err = fmt.Errorf("not ready after %v", c.ReadyTimeout)
		if old { // a log that lacks its end leaves etcd waiting
			return damaged(c.Dir, err)
		}
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	return fmt.Errorf("start etcd in %s: %w", c.Dir, err)
}

// Dir is where the data are.
func (s *Server) Dir() string { return s.etcd.Config().Dir }

// Client is one that calls the server directly. It is closed with the server.
func (s *Server) Client() *clientv3.Client { return s.client }

// Endpoints are the URLs that clients reach the server at, with the port that was picked for port 0.
func (s *Server) Endpoints() []string {
	out := []string{}
	for _, u := range s.etcd.Config().ListenClientUrls {
		if u.Port() == "0" {
			u.Host = s.picked(u)
		}
		out = append(out, u.String())
	}
	return out
}

// picked is the listening address for a URL with port 0. Listeners are in no order; etcd has one for each
// host and port.
func (s *Server) picked(u url.URL) string {
	var fixed []string
	for _, other := range s.etcd.Config().ListenClientUrls {
		fixed = append(fixed, other.Host)
	}
	for _, l := range s.etcd.Clients {
		a, ok := l.Addr().(*net.TCPAddr)
		if ok && !slices.Contains(fixed, a.String()) && (a.IP.String() == u.Hostname() || u.Hostname() == "localhost") {
			return a.String()
		}
	}
	return u.Host
}

// Close stops the server and frees its directory.
func (s *Server) Close() error {
	var err error
	s.close.Do(func() {
		if s.client != nil {
			err = s.client.Close()
			if errors.Is(err, context.Canceled) {
				err = nil // of the client's own context
			}
		}
		s.etcd.Close()
		err = errors.Join(err, s.lock.Close())
	})
	return err
}

// lockDir keeps a second server out. The lock ends with the process.
func lockDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of etcd: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the directory of etcd: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("start etcd in %s: %w; stop it, or give another directory", dir, ErrInUse)
		}
		return nil, fmt.Errorf("lock the directory of etcd %s: %w", dir, err)
	}
	return f, nil
}

// start turns the panics that etcd answers damaged files with into an error. What etcd had begun by then
// stays until the process ends.
func start(cfg *embed.Config, dir string) (e *embed.Etcd, err error) {
	defer func() {
		r := recover()
		if _, bug := r.(runtime.Error); bug { // it trips over what it does not expect in a log
			r = "the logs cannot be read"
		}
		if r != nil {
			e, err = nil, damaged(dir, fmt.Errorf("%v", r))
		}
	}()
	e, err = embed.StartEtcd(cfg)
	if err != nil {
		return nil, fmt.Errorf("start etcd in %s: %w", dir, err)
	}
	return e, nil
}

func damaged(dir string, cause error) error {
	return fmt.Errorf("start etcd in %s: %w: %w; restore the directory from a backup, or move it away to begin "+
		"with an empty cluster",
		dir, ErrDamaged, cause)
}

func (c Config) embed() (*embed.Config, error) {
	if c.Dir == "" {
		return nil, errors.New("start etcd: no directory is given; give one for its data")
	}
	cfg := embed.NewConfig()
	cfg.Name, cfg.Dir = memberName, c.Dir
	cfg.TickMs, cfg.ElectionMs = tick, election
	cfg.SnapshotCount, cfg.SnapshotCatchUpEntries = snapshots, catchUp
	cfg.MaxSnapFiles, cfg.MaxWalFiles = 2, 2
	cfg.MaxRequestBytes, cfg.QuotaBackendBytes = maxRequest, quota
	cfg.AutoCompactionMode, cfg.AutoCompactionRetention = embed.CompactorModeRevision, retention
	cfg.EnableGRPCGateway = false
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.New(&core{log: c.Log}, zap.WithFatalHook(panicHook{})))
	peer, err := url.Parse(unusedPeer)
	if err != nil {
		return nil, fmt.Errorf("parse the peer URL: %w", err)
	}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = nil, []url.URL{*peer}
	cfg.InitialCluster = memberName + "=" + unusedPeer
	cfg.InitialClusterToken = rand.Text() // what begins anew is another cluster, and clients are to see that
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = nil, nil
	for _, text := range c.ClientURLs {
		u, err := url.Parse(text)
		if err != nil {
			return nil, fmt.Errorf("start etcd: listen on %q: %w; give https://host:port", text, err)
		}
		cfg.ListenClientUrls = append(cfg.ListenClientUrls, *u)
	}
	cfg.AdvertiseClientUrls = cfg.ListenClientUrls
	cfg.ClientTLSInfo = transport.TLSInfo{
		CertFile: c.CertFile, KeyFile: c.KeyFile, TrustedCAFile: c.CAFile, ClientCertAuth: c.CAFile != "",
	}
	return cfg, nil
}

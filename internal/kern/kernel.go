package kern

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/vethloom/vethloom/internal/plan"
	"golang.org/x/sys/unix"
)

// Config says what a [Kernel] is bound to.
type Config struct {
	RunDir string       // namespaces are pinned under <RunDir>/netns
	Log    *slog.Logger // nil discards
	// Tunnels carries the packets of TUN links. It outlives the Kernel: whoever made it
	// ends it. Nil: a plan with a tunnel is unsupported.
	Tunnels TunnelHost
}

// Kernel is the network state of one network namespace and of those pinned
// under its run directory. Its methods may be called concurrently.
type Kernel struct {
	log     *slog.Logger
	pins    string   // directory of pinned namespaces
	self    *os.File // the fabric's own namespace
	rules   *rules
	tunnels TunnelHost
	buffer  int  // bytes of notifications that may wait
	ipv6    bool // whether the kernel has IPv6 at all

	mu    sync.Mutex
	idle  []*conn // spare sockets in the fabric's namespace
	shut  bool
	tasks sync.WaitGroup // watchers
	stop  context.CancelFunc
	life  context.Context

	drops  atomic.Uint32 // groups of links removed so far
	ports  ports
	shadow shadow
	purges purges
}

// Open binds to the network namespace of the calling thread. The run
// directory is made when it is missing.
func Open(cfg Config) (*Kernel, error) {
	if cfg.RunDir == "" {
		return nil, errors.New("open the kernel: the run directory is empty")
	}
	log := cfg.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	k := &Kernel{log: log, buffer: noticeBuffer, tunnels: cfg.Tunnels, pins: filepath.Join(cfg.RunDir, "netns")}
	k.ports.held = map[string]*hold{}
	k.life, k.stop = context.WithCancel(context.Background())
	if err := k.open(); err != nil {
		return nil, errors.Join(err, k.Close())
	}
	return k, nil
}

func (k *Kernel) open() error {
	self, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return fmt.Errorf("open the network namespace: %w", err)
	}
	k.self = self
	if _, err := os.Stat("/proc/sys/net/ipv6"); err == nil {
		k.ipv6 = true
	}
	if err := preparePins(k.pins); err != nil {
		return err
	}
	if k.rules, err = openRules(k.fd()); err != nil {
		return fmt.Errorf("open nf_tables: %w", err)
	}
	c, err := dial(k.fd())
	if err != nil {
		return err
	}
	k.idle = append(k.idle, c)
	return nil
}

// fd is the descriptor of the fabric's own namespace.
func (k *Kernel) fd() int { return int(k.self.Fd()) }

// NetNSPath is where a namespace can be opened; for the fabric's own, a path that is
// valid in this process.
func (k *Kernel) NetNSPath(ns plan.NetNS) string {
	if ns == "" {
		return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), k.fd())
	}
	return filepath.Join(k.pins, string(ns))
}

// Close ends the watchers, waits for them, and lets go of sockets and held
// ports. What is in the kernel stays.
func (k *Kernel) Close() error {
	k.mu.Lock()
	if k.shut {
		k.mu.Unlock()
		return nil
	}
	k.shut = true
	idle := k.idle
	k.idle = nil
	k.mu.Unlock()

	k.stop()
	k.tasks.Wait()
	var errs []error
	for _, c := range idle {
		errs = append(errs, c.close())
	}
	k.ports.close()
	if k.rules != nil {
		errs = append(errs, k.rules.close())
	}
	if k.self != nil {
		errs = append(errs, k.self.Close())
	}
	releasePins(k.pins)
	return errors.Join(errs...)
}

// errClosed tells that the kernel was used after its end.
var errClosed = fmt.Errorf("kernel closed: %w", os.ErrClosed)

// borrow takes a socket in the fabric's namespace; give it back with giveBack.
func (k *Kernel) borrow() (*conn, error) {
	k.mu.Lock()
	if k.shut {
		k.mu.Unlock()
		return nil, errClosed
	}
	if n := len(k.idle); n > 0 {
		c := k.idle[n-1]
		k.idle = k.idle[:n-1]
		k.mu.Unlock()
		return c, nil
	}
	k.mu.Unlock()
	return dial(k.fd())
}

// maxIdle bounds the spare sockets kept after a burst of concurrent calls.
const maxIdle = 4

func (k *Kernel) giveBack(c *conn) {
	k.mu.Lock()
	if !c.broken && !k.shut && len(k.idle) < maxIdle {
		k.idle = append(k.idle, c)
		c = nil
	}
	k.mu.Unlock()
	if c != nil {
		c.close()
	}
}

// errnoIs tells whether err is one of the given error numbers.
func errnoIs(err error, any ...unix.Errno) bool {
	var e unix.Errno
	if !errors.As(err, &e) {
		return false
	}
	for _, a := range any {
		if e == a {
			return true
		}
	}
	return false
}

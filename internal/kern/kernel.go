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

	"github.com/vethloom/vethloom/internal/kern/conntrack"
	"github.com/vethloom/vethloom/internal/kern/host"
	"github.com/vethloom/vethloom/internal/kern/netns"
	"github.com/vethloom/vethloom/internal/kern/nftables"
	"github.com/vethloom/vethloom/internal/kern/rtnetlink"
)

// Config says what a [Kernel] is bound to.
type Config struct {
	RunDir string       // namespaces are pinned under <RunDir>/netns
	Log    *slog.Logger // nil discards
	// Tunnels carries the packets of TUN links. It outlives the Kernel: what made it
	// ends it. Nil: a plan with a tunnel is unsupported.
	Tunnels TunnelHost
	// Firewall is what has the rules: Nftables, which "" is too, or Iptables.
	Firewall string
	// Variant is the one of iptables: nft, legacy, or "" for what the host's own command is.
	Variant string
	// Names answers questions about names. It outlives the Kernel too. Nil: a plan with names is unsupported.
	Names NameHost
}

// Kernel is the network state of one network namespace and of those pinned
// under its run directory. Its methods may be called concurrently.
type Kernel struct {
	*host.Host
	*rulers
	*Fast
	handlers map[string]handler // by kind of object
	log      *slog.Logger
	namespaces
	rules   *nftables.Rules
	tunnels TunnelHost
	names   NameHost
	buffer  int  // bytes of notifications that may wait
	ipv6    bool // whether the kernel has IPv6 at all

	mu    sync.Mutex
	idle  []*rtnetlink.Conn // spare sockets in the fabric's namespace
	shut  bool
	tasks sync.WaitGroup // watchers
	stop  context.CancelFunc
	life  context.Context

	drops  atomic.Uint32 // groups of links removed so far
	ports  ports
	shadow shadow
	flows  *conntrack.Flows
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
	k := &Kernel{log: log, buffer: noticeBuffer, tunnels: cfg.Tunnels, names: cfg.Names}
	k.ports.held, k.ports.byPort = map[string]*hold{}, map[heldPort][]*hold{}
	k.Fast = &Fast{k: k}
	k.handlers = k.handlerTable()
	k.life, k.stop = context.WithCancel(context.Background())
	if err := k.open(cfg); err != nil {
		return nil, errors.Join(err, k.Close())
	}
	return k, nil
}

func (k *Kernel) open(cfg Config) error {
	self, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return fmt.Errorf("open the network namespace: %w", err)
	}
	k.self = self
	k.flows = conntrack.Open(k.fd(), k.log)
	if _, err := os.Stat("/proc/sys/net/ipv6"); err == nil {
		k.ipv6 = true
	}
	if k.pins, err = netns.OpenPins(filepath.Join(cfg.RunDir, "netns")); err != nil {
		return err
	}
	if k.rules, err = nftables.Open(k.fd()); err != nil {
		return fmt.Errorf("open nf_tables: %w", err)
	}
	if k.rulers, err = openRulers(k.life, k.fd(), k.ipv6, k.rules, cfg); err != nil {
		return err
	}
	k.Host = k.rulers.host
	c, err := rtnetlink.Dial(k.fd())
	if err != nil {
		return err
	}
	k.idle = append(k.idle, c)
	return nil
}

// fd is the descriptor of the fabric's own namespace.
func (k *Kernel) fd() int { return int(k.self.Fd()) }

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
	if k.flows != nil {
		k.flows.Close()
	}
	var errs []error
	for _, c := range idle {
		errs = append(errs, c.Close())
	}
	k.ports.close()
	errs = append(errs, k.Fast.leave())
	if k.rules != nil {
		errs = append(errs, k.rules.Close())
	}
	if k.self != nil {
		errs = append(errs, k.self.Close())
	}
	k.pins.Close()
	return errors.Join(errs...)
}

// errClosed tells that the kernel was used after its end.
var errClosed = fmt.Errorf("kernel closed: %w", os.ErrClosed)

// socket takes a socket in the fabric's namespace; give it back with giveBack.
func (k *Kernel) socket() (*rtnetlink.Conn, error) {
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
	return rtnetlink.Dial(k.fd())
}

// maxIdle bounds the spare sockets kept after a burst of concurrent calls.
const maxIdle = 4

func (k *Kernel) giveBack(c *rtnetlink.Conn) {
	k.mu.Lock()
	if !c.Broken && !k.shut && len(k.idle) < maxIdle {
		k.idle = append(k.idle, c)
		c = nil
	}
	k.mu.Unlock()
	if c != nil {
		c.Close()
	}
}

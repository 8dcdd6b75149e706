package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"syscall"
	"time"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/cluster/clustertest"
	"github.com/vethloom/vethloom/internal/store/bolt"
)

// config is the command line.
type config struct {
	nodes     int
	endpoints int
	only      string
	timeout   time.Duration
	profile   string
}

func main() {
	if dir := os.Getenv(etcdVariable); dir != "" {
		if err := serveEtcd(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	var c config
	flag.IntVar(&c.nodes, "nodes", 1000, "members that join at once, and nodes known in the end")
	flag.IntVar(&c.endpoints, "endpoints", 10000, "endpoints of the overlay network")
	flag.StringVar(&c.only, "only", "join,event,overlay,kernel,endpoints,blocks", "some of these")
	flag.DurationVar(&c.timeout, "timeout", 30*time.Minute, "end here, whatever is left to do")
	flag.StringVar(&c.profile, "cpuprofile", "", "file for a profile of the processor's time, for go tool pprof")
	flag.Parse()
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	ctx, cancel = context.WithTimeout(ctx, c.timeout)
	defer cancel()
	if err := profiled(c.profile, func() error { return run(ctx, c) }); err != nil {
		fmt.Fprintln(os.Stderr, "scale:", err)
		os.Exit(1)
	}
}

// profiled calls f, with a profile written when a file is named.
func profiled(file string, f func() error) error {
	if file == "" {
		return f()
	}
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	if err := pprof.StartCPUProfile(out); err != nil {
		return errors.Join(err, out.Close())
	}
	err = f()
	pprof.StopCPUProfile()
	return errors.Join(err, out.Close())
}

func run(ctx context.Context, c config) error {
	parts := map[string]func(context.Context, *bench) error{"join": join, "event": event, "overlay": overlay,
		"kernel": kernel, "endpoints": endpoints, "blocks": blocks}
	for _, name := range strings.Split(c.only, ",") {
		part, ok := parts[name]
		if !ok {
			return fmt.Errorf("-only %q: it takes join, event, overlay, kernel, endpoints and blocks", name)
		}
		if err := fresh(ctx, c, part); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// bench is what a part measures with.
type bench struct {
	config
	dir   string
	etcd  *server
	count int
}

// fresh runs a part with an etcd of its own.
func fresh(ctx context.Context, c config, part func(context.Context, *bench) error) (err error) {
	dir, err := os.MkdirTemp("", "vethloom-scale-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	srv, err := startEtcd(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, srv.stop()) }()
	return part(ctx, &bench{config: c, dir: dir, etcd: srv})
}

// node starts a node.
func (b *bench) node(ctx context.Context, c clustertest.Config) (*clustertest.Node, error) {
	c.Endpoint, c.Number = endpoint(b.dir), b.count
	c.Dir = filepath.Join(b.dir, fmt.Sprintf("n%d", c.Number))
	if err := os.Mkdir(c.Dir, 0o700); err != nil {
		return nil, err
	}
	b.count++
	return clustertest.Start(ctx, c)
}

// store opens a store on disk, as netd's.
func (b *bench) store(ctx context.Context) (*bolt.Store, error) {
	dir, err := os.MkdirTemp(b.dir, "store-")
	if err != nil {
		return nil, err
	}
	return bolt.Open(ctx, bolt.Config{StateFile: filepath.Join(dir, "state.db"),
		RuntimeFile: filepath.Join(dir, "runtime.db"), BootID: "boot"})
}

// network makes a network as soon as the node is a member.
func network(ctx context.Context, n *clustertest.Node, driver, subnet string) (cnm.Network, error) {
	return clustertest.CreateNetwork(ctx, n, driver, netip.MustParsePrefix(subnet))
}

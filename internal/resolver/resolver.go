package resolver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/internal/descriptor"
	"github.com/vethloom/vethloom/internal/dns"
	"github.com/vethloom/vethloom/internal/resolver/control"
	"github.com/vethloom/vethloom/plan"
)

// acceptPause is before a connection is taken that there was no descriptor for.
const acceptPause = 20 * time.Millisecond

// lonely is how long a resolver that serves no sandbox waits for a netd.
const lonely = 10 * time.Second

// Config is what a [Resolver] works with.
type Config struct {
	Build  string   // of the program
	Resolv []string // the files that name the host's servers; the first with one counts
	// Place is the control socket's file, opened with O_PATH: once it is removed nobody will come any more.
	Place *os.File
	Log   *slog.Logger
}

// Resolver answers at the sockets that it was given.
type Resolver struct {
	cfg   Config
	names *dns.Names
	dns   *dns.Server

	mu      sync.Mutex
	servers map[string]served
	conns   map[*descriptor.Conn]bool
	quiet   time.Time // since when nobody is connected
	quit    chan struct{}
	once    sync.Once
}

// served is a server with its sockets. They are kept for netd, which asks for them when it comes back.
type served struct {
	plan.NameServer
	control.Sockets
}

// New makes a resolver that answers nothing yet.
func New(cfg Config) *Resolver {
	r := &Resolver{cfg: cfg, names: dns.NewNames(), servers: map[string]served{}, conns: map[*descriptor.Conn]bool{},
		quiet: time.Now(), quit: make(chan struct{})}
	r.dns = dns.New(dns.Config{Names: r.names, Resolv: cfg.Resolv, Log: cfg.Log})
	return r
}

// Run takes connections from netd until one says that it is enough, or nobody needs it any more.
func (r *Resolver) Run(ctx context.Context, l *net.UnixListener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var tasks sync.WaitGroup
	defer tasks.Wait()
	tasks.Go(func() {
		r.wait(ctx)
		r.dns.Close()
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, s := range r.servers {
			s.Close()
		}
		clear(r.servers)
		// Last: who waits for the end of a connection finds the sockets closed.
		l.Close()
		for c := range r.conns {
			c.Close()
		}
	})
	defer cancel()
	for {
		c, err := l.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			break
		}
		if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOMEM) {
			select { // it passes, and those who ask for names are not to blame
			case <-ctx.Done():
			case <-time.After(acceptPause):
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("take a connection: %w", err)
		}
		conn := descriptor.NewConn(c)
		r.connected(conn, true)
		tasks.Go(func() {
			defer r.connected(conn, false)
			defer conn.Close()
			if err := r.serve(ctx, conn); ctx.Err() == nil && !errors.Is(err, io.EOF) {
				r.cfg.Log.Warn("a connection ended", "error", err)
			}
		})
	}
	return nil
}

func (r *Resolver) connected(c *descriptor.Conn, is bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if is {
		r.conns[c] = true
		return
	}
	delete(r.conns, c)
	r.quiet = time.Now()
}

// wait returns when it is time to end.
func (r *Resolver) wait(ctx context.Context) {
	t := time.NewTicker(lonely / 4)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.quit:
			return
		case <-t.C:
			if r.useless() {
				return
			}
		}
	}
}

// useless reports whether nobody is here, and nobody can come or asks.
func (r *Resolver) useless() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.conns) > 0 || time.Since(r.quiet) < lonely {
		return false
	}
	if r.cfg.Place != nil {
		var st unix.Stat_t
		if unix.Fstat(int(r.cfg.Place.Fd()), &st) == nil && st.Nlink == 0 {
			return true
		}
	}
	for _, s := range r.servers {
		if s.NS != "" {
			return false
		}
	}
	return true
}

// serve answers one connection's requests until it ends, and tells why it did.
func (r *Resolver) serve(ctx context.Context, c *descriptor.Conn) error {
	for {
		var q control.Request
		files, err := c.Receive(&q)
		if err != nil {
			return err
		}
		if q.Serve == nil {
			descriptor.Close(files)
			files = nil
		}
		if err := r.answer(ctx, c, q, files); err != nil {
			return err
		}
	}
}

func (r *Resolver) answer(ctx context.Context, c *descriptor.Conn, q control.Request,
	files []descriptor.Descriptor) error {
	switch {
	case q.Hello != nil:
		return c.Send(control.Answer{Hello: &control.Hello{Version: control.Version, Build: r.cfg.Build}})
	case q.Names != nil:
		r.apply(*q.Names)
		return c.Send(control.Answer{Done: true})
	case q.Serve != nil:
		return reply(c, r.begin(*q.Serve, files))
	case q.Stop != "":
		r.end(q.Stop)
		return c.Send(control.Answer{Done: true})
	case q.List:
		return r.list(c)
	case q.Lookup != nil:
		return r.lookup(ctx, c, *q.Lookup)
	case q.Watch != nil:
		return r.watch(ctx, c, *q.Watch)
	case q.Quit:
		err := c.Send(control.Answer{Done: true})
		r.once.Do(func() { close(r.quit) })
		return err
	}
	return c.Send(control.Answer{Error: "no such request"})
}

func reply(c *descriptor.Conn, err error) error {
	if err != nil {
		return c.Send(control.Answer{Error: err.Error()})
	}
	return c.Send(control.Answer{Done: true})
}

func (r *Resolver) apply(n control.Names) {
	var put, gone []plan.Object
	for _, z := range n.Zones {
		put = append(put, z)
	}
	for _, m := range n.Members {
		put = append(put, m)
	}
	for _, id := range n.GoneZones {
		gone = append(gone, plan.NameZone{ID: id})
	}
	for _, m := range n.GoneMembers {
		gone = append(gone, m)
	}
	r.names.Apply(put, gone)
}

// begin answers at sockets, and keeps further descriptors of them.
func (r *Resolver) begin(n plan.NameServer, all []descriptor.Descriptor) error {
	socks, err := control.SocketsOf(all)
	if err != nil {
		descriptor.Close(all)
		return err
	}
	kept, err := socks.Duplicate()
	if err != nil {
		socks.Close()
		return err
	}
	files := dns.Sockets{UDP: socks.UDP.File("udp"), TCP: socks.TCP.File("tcp")}
	for _, d := range socks.AskUDP {
		files.AskUDP = append(files.AskUDP, d.File("udp"))
	}
	for _, d := range socks.AskTCP {
		files.AskTCP = append(files.AskTCP, d.File("tcp"))
	}
	if err := r.dns.Serve(n, files); err != nil {
		kept.Close()
		return err
	}
	r.mu.Lock()
	old := r.servers[n.Key()]
	r.servers[n.Key()] = served{n, kept}
	r.mu.Unlock()
	old.Close()
	return nil
}

func (r *Resolver) end(key string) {
	r.dns.Stop(key)
	r.mu.Lock()
	old := r.servers[key]
	delete(r.servers, key)
	r.mu.Unlock()
	old.Close()
}

// list tells all there is.
func (r *Resolver) list(c *descriptor.Conn) error {
	zones, members := r.names.List()
	for part := range slices.Chunk(zones, control.MaxObjects) {
		if err := c.Send(control.Answer{Names: &control.Names{Zones: part}}); err != nil {
			return err
		}
	}
	for part := range slices.Chunk(members, control.MaxObjects) {
		if err := c.Send(control.Answer{Names: &control.Names{Members: part}}); err != nil {
			return err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.servers {
		if err := c.Send(control.Answer{Server: &s.NameServer}, s.All()...); err != nil {
			return err
		}
	}
	return c.Send(control.Answer{Done: true})
}

// lookup says what a server would answer.
func (r *Resolver) lookup(ctx context.Context, c *descriptor.Conn, q control.Lookup) error {
	e, err := r.dns.Lookup(ctx, q.Server, q.Name, q.Type)
	if err != nil {
		return c.Send(control.Answer{Error: err.Error()})
	}
	return c.Send(control.Answer{Explain: &control.Explanation{Rcode: e.Rcode, Answers: e.Answers, Steps: e.Steps}})
}

// watch tells of questions until the connection ends.
func (r *Resolver) watch(ctx context.Context, c *descriptor.Conn, q control.Watch) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // the other side says nothing more
		defer cancel()
		var q control.Request
		all, _ := c.Receive(&q)
		descriptor.Close(all)
	}()
	want := func(n plan.NameServer) bool { return len(q.Servers) == 0 || slices.Contains(q.Servers, n.Key()) }
	for e := range r.dns.Watch(ctx, want) {
		if err := c.Send(control.Answer{Query: &control.Query{Time: e.Time, Server: e.Server, Client: e.Client,
			Name: e.Name, Type: e.Type, Rcode: e.Rcode, Answers: e.Answers, Source: e.Source, Took: e.Took,
			Lost: e.Lost}}); err != nil {
			return err
		}
	}
	return io.EOF
}

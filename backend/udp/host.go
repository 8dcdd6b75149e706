package udp

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vethloom/vethloom/internal/descriptor"
	"github.com/vethloom/vethloom/plan"
)

// Config is what a [Host] needs of its surroundings.
type Config struct {
	Log *slog.Logger // nil: nothing is logged
	// Died is told of a tunnel that ended by itself, because its link was deleted or its socket
	// failed, so that a pass can be woken. It runs on a goroutine of the Host and must not call
	// the Host. Optional.
	Died func(link string, err error)
	// Keeper has what is open in another process too, for the next Host. Nil: nobody does.
	Keeper Keeper
}

// Host runs the tunnels of one network namespace. Its methods may be called at the same time.
type Host struct {
	cfg Config

	mu    sync.Mutex // guards links and what is in them, apart from table and count
	links map[string]*link
	later sync.WaitGroup // tables that are yet to be built
}

// link is everything known of one TUN link. Its remotes and counters outlive its tunnel.
type link struct {
	tunnel  *tunnel
	inside  []netip.Prefix
	remotes map[netip.Prefix]netip.Addr
	table   atomic.Pointer[table]
	count   counters

	built   time.Time // when the table was
	cost    time.Duration
	pending *time.Timer   // the next build
	noting  *time.Timer   // the next note to the Keeper
	noted   time.Duration // what the last one took
}

// New returns a Host without tunnels.
func New(cfg Config) *Host {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Died == nil {
		cfg.Died = func(string, error) {}
	}
	if cfg.Keeper == nil {
		cfg.Keeper = nobody{}
	}
	return &Host{cfg: cfg, links: make(map[string]*link)}
}

func (h *Host) link(name string) *link {
	l := h.links[name]
	if l == nil {
		l = &link{remotes: make(map[netip.Prefix]netip.Addr)}
		h.links[name] = l
	}
	return l
}

// Open makes or changes the tunnel of a TUN link that exists in the calling thread's network
// namespace. Remotes stay as they are. A tunnel whose link was deleted is opened anew.
// The error wraps [ErrNoLink] when there is no such link, and EADDRINUSE when another socket
// has the port: the caller knows how to find out whose. After an error the link has no tunnel.
func (h *Host) Open(ctx context.Context, t plan.Tunnel) error {
	if err := checkTunnel(t); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("open tunnel %s: %w", t.Link, err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	l := h.link(t.Link)
	l.inside = slices.Clone(t.Inside)
	if old := l.tunnel; old != nil {
		if !old.dead.Load() && same(old.spec, t) {
			l.build()
			h.noteSoon(l)
			return nil
		}
		h.end(l)
	}
	if err := h.begin(l, t, nil); err != nil {
		return err
	}
	h.hold(l)
	return nil
}

// begin starts a link's tunnel, with what is open of it already where there is something, which it takes over.
func (h *Host) begin(l *link, t plan.Tunnel, files []descriptor.Descriptor) error {
	l.table.Store(newTable(t.Local, t.Port, l.inside, l.remotes))
	opened, err := openTunnel(t, files, l, h.cfg.Log, func(err error) {
		h.cfg.Keeper.Drop(t.Link)
		h.cfg.Log.Warn("tunnel ended", "link", t.Link, "error", err)
		h.cfg.Died(t.Link, err)
	})
	if err != nil {
		return err
	}
	l.tunnel = opened
	return nil
}

// end ends a link's tunnel, of which nothing is open then.
func (h *Host) end(l *link) {
	h.cancel(&l.noting)
	l.tunnel.close()
	h.cfg.Keeper.Drop(l.tunnel.spec.Link)
	l.tunnel = nil
}

func checkTunnel(t plan.Tunnel) error {
	switch {
	case t.Link == "" || len(t.Link) > 15:
		return fmt.Errorf("tunnel link %q: a link name has 1 to 15 bytes", t.Link)
	case !t.Local.IsValid() || t.Local.IsUnspecified() || t.Local.IsMulticast() || t.Local.Is4In6():
		return fmt.Errorf("tunnel %s: local address %s: give an address of this host", t.Link, t.Local)
	case t.Port == 0:
		return fmt.Errorf("tunnel %s: port 0: give the port that every node uses", t.Link)
	}
	for _, p := range t.Inside {
		if !p.IsValid() {
			return fmt.Errorf("tunnel %s: inside prefix %s is not valid", t.Link, p)
		}
	}
	return nil
}

// Close ends a link's tunnel and waits for it. The TUN link and the remotes stay. Closing what
// is not open is no error.
func (h *Host) Close(name string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if l := h.links[name]; l != nil && l.tunnel != nil {
		h.end(l)
		h.forget(name)
	}
	return nil
}

// forget drops a link of which nothing is wanted any more.
func (h *Host) forget(name string) {
	if l := h.links[name]; l.tunnel == nil && len(l.remotes) == 0 {
		h.cancel(&l.pending)
		delete(h.links, name)
	}
}

// Add makes a prefix reachable by a remote, in place of any other the prefix has had. The
// data path knows at once, or a few milliseconds later when many come one after another.
func (h *Host) Add(r plan.TunnelPeer) error {
	if err := checkRemote(r); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	l := h.link(r.Link)
	if t := l.tunnel; t != nil && t.spec.Local.Is4() != r.Dst.Is4() {
		return fmt.Errorf("remote %s of %s: destination %s is not of the family of the tunnel's address %s", r.Prefix,
			r.Link, r.Dst, t.spec.Local)
	}
	l.remotes[r.Prefix] = r.Dst
	h.changed(l)
	return nil
}

func checkRemote(r plan.TunnelPeer) error {
	switch {
	case r.Link == "":
		return fmt.Errorf("remote %s: it names no link", r.Prefix)
	case !r.Prefix.IsValid() || r.Prefix != r.Prefix.Masked():
		return fmt.Errorf("remote of %s: prefix %s: it must have no host bits", r.Link, r.Prefix)
	case !r.Dst.IsValid() || r.Dst.Is4In6():
		return fmt.Errorf("remote %s of %s: destination %s is not an address", r.Prefix, r.Link, r.Dst)
	}
	return nil
}

// Remove undoes Add, by link and prefix. Removing what is not there is no error.
func (h *Host) Remove(r plan.TunnelPeer) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	l := h.links[r.Link]
	if l == nil || !l.remotes[r.Prefix].IsValid() {
		return nil
	}
	delete(l.remotes, r.Prefix)
	h.changed(l)
	h.forget(r.Link)
	return nil
}

// List returns what is open and the remotes, in order. The data path knows all of it: a build
// that is yet to come is done here. A tunnel that has ended by itself is not in it, so that a
// pass finds it missing.
func (h *Host) List() ([]plan.Tunnel, []plan.TunnelPeer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var (
		tunnels []plan.Tunnel
		remotes []plan.TunnelPeer
	)
	for name, l := range h.links {
		if h.cancel(&l.pending) {
			l.build()
		}
		if l.tunnel != nil && !l.tunnel.dead.Load() {
			t := l.tunnel.spec
			t.Inside = slices.Clone(l.inside)
			tunnels = append(tunnels, t)
		}
		for p, dst := range l.remotes {
			remotes = append(remotes, plan.TunnelPeer{Link: name, Prefix: p, Dst: dst})
		}
	}
	slices.SortFunc(tunnels, func(a, b plan.Tunnel) int { return cmp.Compare(a.Link, b.Link) })
	slices.SortFunc(remotes, func(a, b plan.TunnelPeer) int {
		return cmp.Or(cmp.Compare(a.Link, b.Link), a.Prefix.Addr().Compare(b.Prefix.Addr()),
			cmp.Compare(a.Prefix.Bits(), b.Prefix.Bits()))
	})
	return tunnels, remotes
}

// Stats returns a link's counters; a link without tunnel and remotes has none.
func (h *Host) Stats(name string) Counters {
	h.mu.Lock()
	defer h.mu.Unlock()
	if l := h.links[name]; l != nil {
		return l.count.snapshot()
	}
	return new(counters).snapshot()
}

// Shutdown closes every tunnel and waits for all goroutines. The TUN links stay, and with
// them their addresses and routes. What is open stays with the Keeper.
func (h *Host) Shutdown() {
	h.mu.Lock()
	for _, l := range h.links {
		if l.tunnel != nil {
			l.tunnel.close()
		}
		if h.cancel(&l.noting) {
			h.note(l)
		}
		h.cancel(&l.pending)
	}
	clear(h.links)
	h.mu.Unlock()
	h.later.Wait()
}

// Builds are kept to a fifth of the time, so that adding n remotes one by one costs about
// as much as building the table a few times, not n times.
const (
	buildGap   = time.Millisecond
	buildShare = 4
)

// changed publishes the remotes now, or soon when that was done just before.
func (h *Host) changed(l *link) {
	if l.tunnel == nil {
		return
	}
	h.noteSoon(l)
	if l.pending != nil {
		return
	}
	wait := max(buildGap, buildShare*l.cost) - time.Since(l.built)
	if wait <= 0 {
		l.build()
		return
	}
	h.after(&l.pending, wait, l.build)
}

// after has something done later, once, with mu held.
func (h *Host) after(slot **time.Timer, wait time.Duration, do func()) {
	h.later.Add(1)
	var timer *time.Timer // set under mu, before the function can read it
	timer = time.AfterFunc(wait, func() {
		defer h.later.Done()
		h.mu.Lock()
		defer h.mu.Unlock()
		if *slot != timer { // cancelled when it had fired already
			return
		}
		*slot = nil
		do()
	})
	*slot = timer
}

// cancel drops what has not begun, and reports whether there was something.
func (h *Host) cancel(slot **time.Timer) bool {
	if *slot == nil {
		return false
	}
	if (*slot).Stop() {
		h.later.Done()
	}
	*slot = nil
	return true
}

func (l *link) build() {
	if l.tunnel == nil {
		return
	}
	start := time.Now()
	t := l.tunnel.spec
	l.table.Store(newTable(t.Local, t.Port, l.inside, l.remotes))
	l.built = time.Now()
	l.cost = l.built.Sub(start)
}

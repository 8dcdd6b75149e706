package kern

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/mdlayher/netlink"
	"github.com/vethloom/vethloom/internal/kern/rtnetlink"
	"github.com/vethloom/vethloom/plan"
	"golang.org/x/sys/unix"
)

// How long a watcher waits for a burst to end before it judges.
const (
	driftDelay = 20 * time.Millisecond
	hostDelay  = 100 * time.Millisecond
)

// tablesInterval is how often the rules of iptables are looked at.
const tablesInterval = 2 * time.Second

// watcher collects the last event about each object, and judges them together
// when it has been quiet for a moment and no run of Apply is under way. What our own
// changes went through on the way is not seen that way.
type watcher struct {
	k     *Kernel
	delay time.Duration
	judge func(*watcher, []event) bool // reports whether to wake
	out   chan struct{}
	poke  chan struct{}

	all     bool              // whether to look for stragglers and sysctls too
	deviant map[string]string // values of sysctls that others have set, by path; the loop's own

	mu      sync.Mutex
	pending map[string]event
	order   []string
	certain bool // to be told whatever the events say
	relist  bool // links may have come and gone unseen
	entries map[entryKey]entryEvent
	recount bool // entries may have, or too many have

	links map[uint32]rtnetlink.Link // the last known, by index; the judge's own
}

// Drift tells when somebody else has changed an object of ours in the fabric's
// namespace: links, addresses, routes, neighbours, forwarding entries, rules. Wakes are
// coalesced. What Apply does is no drift. Inside sandboxes nothing is watched, as each would need sockets of its own: a
// container that deletes its link deletes our end too, and the rest is for the
// next full pass. Sysctls are looked at each second. The watch ends with ctx or Close.
func (k *Kernel) Drift(ctx context.Context) (<-chan struct{}, error) {
	w := k.newWatcher(driftDelay, (*watcher).drifted)
	w.all = true
	tables, err := listen(k.fd(), unix.NETLINK_NETFILTER, k.buffer, nfnlGroupTables)
	if err != nil {
		return nil, fmt.Errorf("watch the rules: %w", err)
	}
	entries, err := k.listenEntries()
	if err != nil {
		tables.Close()
		return nil, fmt.Errorf("watch the entries: %w", err)
	}
	gens := genFilter{table: plan.Table, port: w.k.rules.Port()}
	err = w.start(ctx,
		source{tables, func(m netlink.Message) {
			if gens.foreign(m) {
				w.surely()
			}
		}, w.surely},
		source{entries, func(m netlink.Message) {
			if e, ok := parseEntry(m); ok {
				w.addEntry(e)
			} else if isTraffic(m) {
				w.lostEntries() // they are few: all are looked at
			}
		}, w.lostEntries})
	if err != nil {
		tables.Close()
		entries.Close()
		return nil, err
	}
	return w.out, nil
}

// HostChanged tells when routes, addresses or link MTUs that are not ours have changed, so that
// EgressMTU and HostPrefixes may give other answers. The watch ends with ctx or Close.
func (k *Kernel) HostChanged(ctx context.Context) (<-chan struct{}, error) {
	w := k.newWatcher(hostDelay, (*watcher).hostChanged)
	if err := w.start(ctx); err != nil {
		return nil, err
	}
	return w.out, nil
}

func (k *Kernel) newWatcher(delay time.Duration, judge func(*watcher, []event) bool) *watcher {
	return &watcher{
		k: k, delay: delay, judge: judge,
		out: make(chan struct{}, 1), poke: make(chan struct{}, 1),
		pending: map[string]event{}, entries: map[entryKey]entryEvent{}, links: map[uint32]rtnetlink.Link{},
		deviant: map[string]string{},
	}
}

// source is a socket that notifications come from.
type source struct {
	conn *netlink.Conn
	each func(netlink.Message)
	lost func() // some were not read in time
}

// start listens first and then reads the links, so that no change falls between.
func (w *watcher) start(ctx context.Context, more ...source) error {
	routes, err := w.k.listenRoutes()
	if err != nil {
		return fmt.Errorf("watch the links: %w", err)
	}
	if err := w.readLinks(); err != nil {
		routes.Close()
		return fmt.Errorf("watch the links: %w", err)
	}
	k := w.k
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.shut {
		routes.Close()
		return errClosed
	}
	sources := append(more, source{routes, func(m netlink.Message) {
		if e, ok := parseEvent(m); ok {
			w.add(e)
		}
	}, w.lostLinks})
	k.tasks.Go(func() { w.run(ctx, sources) })
	return nil
}

func (w *watcher) readLinks() error {
	c, err := w.k.socket()
	if err != nil {
		return err
	}
	defer w.k.giveBack(c)
	links := map[uint32]rtnetlink.Link{}
	if err := c.DumpLinks(func(l rtnetlink.Link) { links[l.Index] = l }); err != nil {
		return err
	}
	w.links = links
	return nil
}

// run owns the goroutines of the watch and ends when they have.
func (w *watcher) run(ctx context.Context, sources []source) {
	var readers sync.WaitGroup
	for _, s := range sources {
		readers.Go(func() { follow(s.conn, s.each, s.lost) })
	}
	w.loop(ctx)
	for _, s := range sources {
		s.conn.Close()
	}
	readers.Wait()
}

func (w *watcher) add(e event) {
	w.mu.Lock()
	k := e.key()
	old, ok := w.pending[k]
	if !ok {
		w.order = append(w.order, k)
	} else if e.link != nil {
		e.flapped = old.flapped || old.link.Up != e.link.Up
	}
	w.pending[k] = e
	w.mu.Unlock()
	w.nudge()
}

// surely notes a change that needs no judgement.
func (w *watcher) surely() {
	w.mu.Lock()
	w.certain = true
	w.mu.Unlock()
	w.nudge()
}

// lostLinks notes that links, addresses or routes have changed unseen: a watcher that is told
// looks at everything, and so does the watcher at the links.
func (w *watcher) lostLinks() {
	w.mu.Lock()
	w.certain, w.relist = true, true
	w.mu.Unlock()
	w.nudge()
}

func (w *watcher) nudge() {
	select {
	case w.poke <- struct{}{}:
	default:
	}
}

func (w *watcher) loop(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	stragglers := time.NewTicker(goingTime / 2)
	defer stragglers.Stop()
	sysctls := time.NewTicker(sysctlInterval)
	defer sysctls.Stop()
	tables := time.NewTicker(tablesInterval)
	defer tables.Stop()
	armed := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.k.life.Done():
			return
		case <-w.poke:
			if !armed {
				timer.Reset(w.delay)
				armed = true
			}
		case <-stragglers.C:
			if w.straggling() {
				w.surely()
			}
		case <-tables.C:
			if w.rewritten() {
				w.surely()
			}
		case <-sysctls.C:
			if w.deviates() {
				w.surely()
			}
		case <-timer.C:
			if armed = w.k.shadow.busy(); armed {
				timer.Reset(w.delay)
			} else if w.settle() {
				select {
				case w.out <- struct{}{}:
				default:
				}
			}
		}
	}
}

// rewritten reports whether somebody has changed our rules in iptables, which tells nobody.
func (w *watcher) rewritten() bool {
	if !w.all || w.k.tables == nil || w.k.shadow.busy() {
		return false
	}
	deviates, err := w.k.tables.Deviates(w.k.life)
	if err != nil && w.k.life.Err() == nil {
		w.k.log.Warn("could not look at the rules of iptables", "error", err)
	}
	return deviates
}

// straggling reports whether a link is still there whose peer's namespace we let go
// of a while ago. Then something else keeps that namespace: often a TCP connection of a
// process that was killed, whose kernel waits for an answer that will not come. Nobody
// wants the link, so the next full pass removes it by itself.
func (w *watcher) straggling() bool {
	if !w.all {
		return false
	}
	for _, name := range w.k.shadow.overdue() {
		for _, l := range w.links {
			if l.Name == name {
				return true
			}
		}
	}
	return false
}

// settle judges what has come in.
func (w *watcher) settle() bool {
	w.mu.Lock()
	events := make([]event, 0, len(w.order))
	for _, k := range w.order {
		events = append(events, w.pending[k])
	}
	entries, recount := w.entries, w.recount
	w.entries, w.recount = map[entryKey]entryEvent{}, false
	certain, relist := w.certain, w.relist
	w.order, w.certain, w.relist = w.order[:0], false, false
	clear(w.pending)
	w.mu.Unlock()
	woke := w.judge(w, events) || certain
	if relist {
		if err := w.readLinks(); err != nil {
			w.k.log.Warn("links could not be read after notifications were lost", "error", err)
			w.lostLinks() // again, and a watcher that is told now learns by looking
		}
	}
	// Entries go with their links, so those come first.
	return w.entriesDrifted(entries, recount) || woke
}

// drifted compares events with what we made.
func (w *watcher) drifted(events []event) bool {
	drift := false
	for _, e := range events {
		if e.link != nil && !e.gone {
			if old, known := w.links[e.link.Index]; known && (e.flapped || old.Up != e.link.Up) {
				drift = w.k.shadow.leadsBy(old.Name) || drift
			}
			w.links[e.link.Index] = *e.link
		}
	}
	for _, e := range events {
		switch {
		case e.link != nil:
			master := w.links[e.link.MasterIndex].Name
			drift = w.k.shadow.linkDrifted(*e.link, master, e.gone) || drift
		case e.addr != nil:
			a := plan.Addr{Link: w.links[e.addr.Index].Name, Prefix: e.addr.Prefix}
			drift = w.k.shadow.addrDrifted(a, e.gone) || drift
		case e.route.Proto == plan.Protocol:
			r := e.route.Route
			r.Link = w.links[e.route.Index].Name
			drift = w.k.shadow.routeDrifted(r, e.gone) || drift
		case e.route.Proto == unix.RTPROT_KERNEL && e.gone:
			drift = w.k.shadow.cutOff(w.links[e.route.Index].Name, e.route.Dst) || drift
		}
	}
	w.forget(events)
	return drift
}

// hostChanged looks for what is not ours.
func (w *watcher) hostChanged(events []event) bool {
	changed := false
	for _, e := range events {
		if e.link == nil {
			continue
		}
		old, known := w.links[e.link.Index]
		if _, _, ours := e.link.Owner(); !ours && (e.gone || !known || old.Name != e.link.Name ||
			old.MTU != e.link.MTU || old.Up != e.link.Up || e.flapped) {
			changed = true
		}
		w.links[e.link.Index] = *e.link
	}
	for _, e := range events {
		switch {
		case e.addr != nil:
			changed = changed || e.addr.Proto != plan.Protocol && !w.ours(e.addr.Index)
		case e.route != nil:
			changed = changed || e.route.Proto != plan.Protocol && !w.ours(e.route.Index)
		}
	}
	w.forget(events)
	return changed
}

func (w *watcher) ours(index uint32) bool {
	l := w.links[index]
	_, _, ok := l.Owner()
	return ok
}

// forget drops links that have gone, after all events about them were judged.
func (w *watcher) forget(events []event) {
	for _, e := range events {
		if e.link != nil && e.gone {
			delete(w.links, e.link.Index)
		}
	}
}

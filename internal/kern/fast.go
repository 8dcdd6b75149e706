package kern

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"github.com/vethloom/vethloom/internal/kern/fastpath"
	"github.com/vethloom/vethloom/internal/kern/rtnetlink"
	"github.com/vethloom/vethloom/plan"
)

// Fast is the fast path of the fabric's namespace, found at first use.
type Fast struct {
	k *Kernel

	mu   sync.Mutex
	path *fastpath.Path
}

// find finds the fast path by what is at the namespace's links.
func (f *Fast) find() (*fastpath.Path, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.path != nil {
		return f.path, nil
	}
	names, err := f.links()
	if err != nil {
		return nil, err
	}
	indexes := make([]uint32, 0, len(names))
	for i := range names {
		indexes = append(indexes, i)
	}
	p, err := fastpath.Open(func(do func() error) error { return f.k.enter("", do) }, indexes)
	if err != nil {
		return nil, fmt.Errorf("find the fast path: %w", errors.Join(err, p.Close()))
	}
	f.path = p
	return p, nil
}

func (f *Fast) leave() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.path == nil {
		return nil
	}
	return f.path.Close()
}

// FastPath reports why there is no fast path on this host; nil when there is. The error is a [plan.ErrUnsupported].
func (f *Fast) FastPath() error {
	p, err := f.find()
	if err == nil {
		err = p.Load()
	}
	return unsupportedFast(err)
}

func unsupportedFast(err error) error {
	if errors.Is(err, fastpath.ErrUnsupported) {
		return fmt.Errorf("%w: %w", plan.ErrUnsupported, err)
	}
	return err
}

// FastCounts is how much of a network took which path since netd has counted it.
func (f *Fast) FastCounts(n plan.FastNetwork) (fastpath.Counts, error) {
	p, err := f.find()
	if err != nil {
		return fastpath.Counts{}, err
	}
	return p.Count(n)
}

// links are the names of the fabric's links by their indexes.
func (f *Fast) links() (map[uint32]string, error) {
	c, err := f.k.socket()
	if err != nil {
		return nil, err
	}
	defer f.k.giveBack(c)
	out := map[uint32]string{}
	if err := c.DumpLinks(func(l rtnetlink.Link) { out[l.Index] = l.Name }); err != nil {
		return nil, fmt.Errorf("list the links: %w", err)
	}
	return out, nil
}

// observe reads the tables and programs.
func (f *Fast) observe(_ context.Context, s *plan.State) error {
	p, err := f.find()
	if err != nil || !p.Found() {
		return err
	}
	names, err := f.links()
	if err != nil {
		return err
	}
	hops := map[netip.Addr]fastpath.Hop{}
	next := func(node netip.Addr) fastpath.Hop {
		now, ok := hops[node]
		if !ok {
			now = f.hop(node)
			hops[node] = now
		}
		return now
	}
	var errs [6]error
	s.Fast.Counters, errs[0] = p.Counters()
	s.Fast.Ports, errs[1] = p.Ports()
	s.Fast.Endpoints, errs[2] = p.Endpoints(names)
	s.Fast.Peers, errs[3] = p.Peers(names, next)
	s.Fast.Tunnels, errs[4] = p.Tunnels(names)
	s.Fast.Programs, errs[5] = p.Programs(names)
	return unsupportedFast(errors.Join(errs[:]...))
}

// hop is where packets for a node go next; the zero value when there is no way to it.
func (f *Fast) hop(node netip.Addr) fastpath.Hop {
	index, via, err := f.k.Way(node)
	if err != nil {
		return fastpath.Hop{}
	}
	if !via.IsValid() {
		via = node
	}
	return fastpath.Hop{Link: index, Addr: via}
}

// tabled is the handler of a kind of entries.
func tabled[T plan.Object](put, drop func(*fastpath.Path, *session, T) error) handler {
	return handler{apply: one(func(_ context.Context, s *session, op plan.Op, o T) error {
		p, err := s.k.Fast.find()
		if err != nil {
			return err
		}
		switch op.Verb {
		case plan.Create, plan.Modify:
			return unsupportedFast(put(p, s, o))
		case plan.Delete:
			return drop(p, s, o)
		}
		return badVerb(op)
	})}
}

// fastHandlers are those of what the fast path has. All of it is observed with the programs.
func (f *Fast) handlers(add func(kind string, h handler)) {
	add("fast-counter", tabled(
		func(p *fastpath.Path, _ *session, c plan.FastCounter) error { return p.PutCounter(c) },
		func(p *fastpath.Path, _ *session, c plan.FastCounter) error { return p.DeleteCounter(c) }))
	add("fast-port", tabled(
		func(p *fastpath.Path, _ *session, f plan.FastPort) error { return p.PutPort(f) },
		func(p *fastpath.Path, _ *session, f plan.FastPort) error { return p.DeletePort(f) }))
	add("fast-endpoint", tabled(
		func(p *fastpath.Path, s *session, e plan.FastEndpoint) error { return p.PutEndpoint(e, inFabric(s)) },
		func(p *fastpath.Path, _ *session, e plan.FastEndpoint) error { return p.DeleteEndpoint(e) }))
	add("fast-peer", tabled(putPeer,
		func(p *fastpath.Path, _ *session, f plan.FastPeer) error { return p.DeletePeer(f) }))
	add("fast-tunnel", tabled(
		func(p *fastpath.Path, s *session, t plan.FastTunnel) error { return p.PutTunnel(t, inFabric(s)) },
		func(p *fastpath.Path, _ *session, t plan.FastTunnel) error { return p.DeleteTunnel(t) }))
	programs := tabled(attach, detach)
	programs.observe = f.observe
	add("fast-program", programs)
}

func putPeer(p *fastpath.Path, s *session, f plan.FastPeer) error {
	uplink, err := inFabric(s)(f.Link)
	if err != nil {
		return err
	}
	return p.PutPeer(f, uplink, s.k.Fast.hop(f.Node))
}

func attach(p *fastpath.Path, s *session, f plan.FastProgram) error {
	index, err := inFabric(s)(f.Link)
	if err != nil {
		return err
	}
	return p.Attach(index, f)
}

func detach(p *fastpath.Path, s *session, f plan.FastProgram) error {
	index, err := p.Index(f.Link, inFabric(s))
	if err != nil {
		return err
	}
	if index == 0 || f.Leaves {
		return p.Forget(index, f)
	}
	return p.Detach(index)
}

// inFabric finds links of the fabric's own namespace.
func inFabric(s *session) fastpath.Resolve {
	return func(name string) (uint32, error) { return s.lookup("", name) }
}

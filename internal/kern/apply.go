package kern

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/vethloom/vethloom/internal/plan"
	"golang.org/x/sys/unix"
)

// Apply carries out the operations in their order and stops at the first that
// fails, with a *[plan.OpError]; those on nftables objects that follow each other are one
// transaction. Removing what is not there succeeds. Operations on links, addresses and
// routes are sent many at a time, so when one of them fails, some
// of those after it may have been carried out; the next pass finds out.
//
// A link that has lost our mark since it was planned is not removed.
func (k *Kernel) Apply(ctx context.Context, ops []plan.Op) error {
	if len(ops) == 0 {
		return nil
	}
	k.shadow.begin(ops)
	defer k.shadow.end()
	s := &session{k: k, ops: ops, conns: map[plan.NetNS]*conn{}, files: map[plan.NetNS]*os.File{}, index: map[end]uint32{}}
	defer s.close()
	for s.next = 0; s.next < len(ops); {
		if err := ctx.Err(); err != nil {
			return s.fail(s.next, err)
		}
		if err := s.step(ctx); err != nil {
			return err
		}
	}
	return s.flush()
}

// end names one end of a link.
type end struct {
	ns   plan.NetNS
	name string
}

// session is one run of [Kernel.Apply].
type session struct {
	k     *Kernel
	ops   []plan.Op
	next  int // the operation to carry out
	conns map[plan.NetNS]*conn
	files map[plan.NetNS]*os.File
	index map[end]uint32 // link indexes found in this run

	queue   []request // not yet sent
	queueNS plan.NetNS
}

func (s *session) close() {
	for ns, c := range s.conns {
		s.k.giveBackNS(ns, c)
	}
	for _, f := range s.files {
		f.Close()
	}
}

// fail blames an operation. An error that does so already stays as it is.
func (s *session) fail(op int, err error) error {
	var blamed *plan.OpError
	if err == nil || errors.As(err, &blamed) {
		return err
	}
	return &plan.OpError{Op: s.ops[op], Err: err}
}

// step carries out, or queues, the next operation, or as many as belong together.
func (s *session) step(ctx context.Context) error {
	op := s.ops[s.next]
	switch op.Object.(type) {
	case plan.Link, plan.Addr, plan.Route, plan.Neigh, plan.FDBEntry:
		if _, ok := op.Object.(plan.Link); ok && op.Verb == plan.Delete {
			return s.deleteLinks()
		}
		if err := s.enqueue(op); err != nil {
			return s.fail(s.next, err)
		}
		s.next++
		return nil
	}
	if err := s.flush(); err != nil {
		return err
	}
	first, n := s.next, s.run()
	part := s.ops[first : first+n]
	s.next += n
	switch o := op.Object.(type) {
	case plan.Namespace:
		return s.fail(first, s.namespace(op))
	case plan.ForeignAccept:
		return s.fail(first, s.k.applyAccept(ctx, op, o))
	case plan.PortHold:
		return s.fail(first, s.k.port(op))
	case plan.Tunnel:
		return s.fail(first, s.k.tunnel(ctx, op, o))
	case plan.Remote:
		return s.fail(first, s.k.remote(op, o))
	case plan.Sysctl:
		return s.sysctls(first, part)
	case plan.Set, plan.Chain, plan.Element:
		return s.fail(first, s.k.rules.apply(ctx, part))
	case plan.Flow:
		return s.fail(first, s.k.purge(part))
	}
	return s.fail(first, fmt.Errorf("no way to apply a %s", op.Kind()))
}

// run is how many operations from the next one on belong together.
func (s *session) run() int {
	group := func(o plan.Op) int {
		switch o.Object.(type) {
		case plan.Set, plan.Chain, plan.Element:
			return 1
		case plan.Flow:
			return 2
		case plan.Sysctl:
			return 3
		}
		return 0
	}
	first := s.ops[s.next]
	g, n := group(first), 1
	if g == 0 {
		return 1
	}
	for s.next+n < len(s.ops) {
		o := s.ops[s.next+n]
		if group(o) != g || g == 3 && o.NS() != first.NS() {
			break
		}
		n++
	}
	return n
}

// conn is the run's socket in a namespace.
func (s *session) conn(ns plan.NetNS) (*conn, error) {
	if c := s.conns[ns]; c != nil && !c.broken {
		return c, nil
	}
	var c *conn
	var err error
	if ns == "" {
		c, err = s.k.borrow()
	} else {
		var fd int
		if fd, err = s.fd(ns); err == nil {
			c, err = dial(fd)
		}
	}
	if err != nil {
		return nil, err
	}
	s.conns[ns] = c
	return c, nil
}

// fd is a descriptor of a namespace, open for as long as the run.
func (s *session) fd(ns plan.NetNS) (int, error) {
	if ns == "" {
		return s.k.fd(), nil
	}
	if f := s.files[ns]; f != nil {
		return int(f.Fd()), nil
	}
	f, err := s.k.openPin(ns)
	if err != nil {
		return 0, err
	}
	s.files[ns] = f
	return int(f.Fd()), nil
}

// leave lets go of a namespace, which must not be kept alive.
func (s *session) leave(ns plan.NetNS) {
	if c := s.conns[ns]; c != nil {
		c.close()
		delete(s.conns, ns)
	}
	if f := s.files[ns]; f != nil {
		f.Close()
		delete(s.files, ns)
	}
	for e := range s.index {
		if e.ns == ns {
			delete(s.index, e)
		}
	}
}

func (s *session) namespace(op plan.Op) error {
	ns := op.Object.(plan.Namespace).Name
	switch op.Verb {
	case plan.Create:
		c, err := s.k.createNetNS(ns)
		if err == nil {
			s.conns[ns] = c
		}
		return err
	case plan.Delete:
		s.leave(ns)
		return s.k.deleteNetNS(ns)
	}
	return badVerb(op)
}

func badVerb(op plan.Op) error { return fmt.Errorf("%s is no verb for a %s", op.Verb, op.Kind()) }

// send queues requests for a namespace, and sends what is queued for another.
func (s *session) send(ns plan.NetNS, requests ...request) error {
	if s.queueNS != ns {
		if err := s.flush(); err != nil {
			return err
		}
		s.queueNS = ns
	}
	for _, r := range requests {
		r.op = s.next
		s.queue = append(s.queue, r)
	}
	return nil
}

// flush sends what is queued.
func (s *session) flush() error {
	if len(s.queue) == 0 {
		return nil
	}
	queue := s.queue
	s.queue = nil
	c, err := s.conn(s.queueNS)
	if err != nil {
		return s.fail(queue[0].op, err)
	}
	i, err := c.batch(queue)
	if err != nil {
		return s.fail(queue[i].op, s.explain(s.ops[queue[i].op], err))
	}
	return nil
}

// learn is a request that fills in a link's index.
func (s *session) learn(e end) request {
	return getLink(e.name, func(b []byte) error {
		l, err := parseLink(b)
		s.index[e] = l.index
		return err
	})
}

// lookup is a link's index; ErrNotExist when there is no such link.
func (s *session) lookup(ns plan.NetNS, name string) (uint32, error) {
	e := end{ns, name}
	if i := s.index[e]; i != 0 {
		return i, nil
	}
	// What is queued may make the link, and already ask for its index.
	if err := s.flush(); err != nil {
		return 0, err
	}
	if i := s.index[e]; i != 0 {
		return i, nil
	}
	c, err := s.conn(ns)
	if err != nil {
		return 0, err
	}
	if _, err := c.batch([]request{s.learn(e)}); err != nil {
		if errnoIs(err, unix.ENODEV) {
			err = errors.Join(err, os.ErrNotExist)
		}
		return 0, fmt.Errorf("find link %s: %w", name, err)
	}
	return s.index[e], nil
}

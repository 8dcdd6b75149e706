package kern

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/vethloom/vethloom/internal/kern/rtnetlink"
	"github.com/vethloom/vethloom/plan"
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
	s := &session{k: k, ops: ops, conns: map[plan.NetNS]*rtnetlink.Conn{}, files: map[plan.NetNS]*os.File{},
		index: map[end]uint32{}}
	defer s.close()
	for s.next = 0; s.next < len(ops); {
		if err := ctx.Err(); err != nil {
			return s.fail(s.next, err)
		}
		if err := s.step(ctx); err != nil {
			return err
		}
	}
	if err := s.flush(); err != nil {
		return err
	}
	if err := s.announce(); err != nil {
		k.log.Warn("neighbours may look for addresses where they were, for up to a minute", "error", err)
	}
	return nil
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
	conns map[plan.NetNS]*rtnetlink.Conn
	files map[plan.NetNS]*os.File
	index map[end]uint32 // link indexes found in this run

	queue   []rtnetlink.Request // not yet sent
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
	h, ok := s.k.handlers[op.Kind()]
	switch {
	case !ok:
		return s.fail(s.next, fmt.Errorf("no way to apply a %s", op.Kind()))
	case h.queue != nil:
		return h.queue(s, op)
	}
	if err := s.flush(); err != nil {
		return err
	}
	first, n := s.next, s.run(h)
	s.next += n
	return s.fail(first, h.apply(ctx, s, s.ops[first:first+n]))
}

// run is how many operations from the next one on belong together.
func (s *session) run(h handler) int {
	first, n := s.ops[s.next], 1
	for h.group != "" && s.next+n < len(s.ops) {
		o := s.ops[s.next+n]
		if s.k.handlers[o.Kind()].group != h.group || h.oneNetNS && o.NS() != first.NS() {
			break
		}
		n++
	}
	return n
}

// conn is the run's socket in a namespace.
func (s *session) conn(ns plan.NetNS) (*rtnetlink.Conn, error) {
	if c := s.conns[ns]; c != nil && !c.Broken {
		return c, nil
	}
	var c *rtnetlink.Conn
	var err error
	if ns == "" {
		c, err = s.k.socket()
	} else {
		var fd int
		if fd, err = s.fd(ns); err == nil {
			c, err = rtnetlink.Dial(fd)
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
		c.Close()
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
	o := op.Object.(plan.Namespace)
	switch op.Verb {
	case plan.Create:
		c, err := s.k.pin(o)
		if err == nil {
			s.conns[o.Name] = c
		}
		return err
	case plan.Delete:
		err := s.k.letGo(o.Name)
		s.leave(o.Name)
		return errors.Join(err, s.k.pins.Delete(o.Name))
	}
	return badVerb(op)
}

func badVerb(op plan.Op) error { return fmt.Errorf("%s is no verb for a %s", op.Verb, op.Kind()) }

// send queues requests for a namespace, and sends what is queued for another.
func (s *session) send(ns plan.NetNS, requests ...rtnetlink.Request) error {
	if s.queueNS != ns {
		if err := s.flush(); err != nil {
			return err
		}
		s.queueNS = ns
	}
	for _, r := range requests {
		r.Op = s.next
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
		return s.fail(queue[0].Op, err)
	}
	i, err := c.Batch(queue)
	if err != nil {
		return s.fail(queue[i].Op, s.explain(s.ops[queue[i].Op], err))
	}
	return nil
}

// learn is a request that fills in a link's index.
func (s *session) learn(e end) rtnetlink.Request {
	return rtnetlink.GetLink(e.name, func(b []byte) error {
		l, err := rtnetlink.ParseLink(b)
		s.index[e] = l.Index
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
	if _, err := c.Batch([]rtnetlink.Request{s.learn(e)}); err != nil {
		if rtnetlink.ErrnoIs(err, unix.ENODEV) {
			err = errors.Join(err, os.ErrNotExist)
		}
		return 0, fmt.Errorf("find link %s: %w", name, err)
	}
	return s.index[e], nil
}

package nftables

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/plan"
)

// transaction turns operations into one batch. Whatever the order of the
// operations, it first takes away and then adds, and within that does what
// others refer to where nothing refers to it.
type transaction struct {
	ops  []plan.Op
	sets map[string]plan.Set // by key: what each set will be, or was if it goes
	gone map[int]bool        // operations whose object turned out to be away already
	drop map[plan.Family]int // families whose table goes as a whole, with the operation to blame

	// single puts each deleted element into a message of its own, so that the
	// kernel tells which of them are away.
	single bool
}

// isRule reports whether an operation is for nf_tables.
func isRule(op plan.Op) bool {
	switch op.Object.(type) {
	case plan.Chain, plan.Set, plan.Element:
		return true
	}
	return false
}

func familyOf(op plan.Op) plan.Family {
	switch o := op.Object.(type) {
	case plan.Chain:
		return o.Family
	case plan.Set:
		return o.Family
	case plan.Element:
		return o.Family
	}
	return ""
}

// setKey is the key of the set that an element is in.
func setKey(f plan.Family, name string) string { return plan.Set{Family: f, Name: name}.Key() }

// build encodes the batch; an error is about one operation.
func (t *transaction) build(first uint32) (*batch, error) {
	b := newBatch(first)
	t.tables(b)
	steps := []func(*batch, int, plan.Op) error{
		t.flushChains, t.deleteSets, t.deleteChains, t.createChains, t.createSets, t.createRules,
	}
	for i, step := range steps {
		if i == 1 { // after the rules that look elements up, before the sets they are in
			if err := t.elements(b, unix.NFT_MSG_DELSETELEM); err != nil {
				return nil, err
			}
		}
		for n, op := range t.ops {
			if _, dropped := t.drop[familyOf(op)]; dropped || t.gone[n] {
				continue
			}
			if err := step(b, n, op); err != nil {
				return nil, &plan.OpError{Op: op, Err: err}
			}
		}
	}
	if err := t.elements(b, unix.NFT_MSG_NEWSETELEM); err != nil {
		return nil, err
	}
	if len(b.sent) > 0 {
		b.finish()
	}
	return b, nil
}

// tables adds the tables that are needed and deletes those that go as a whole.
func (t *transaction) tables(b *batch) {
	made := make(map[plan.Family]bool)
	for n, op := range t.ops {
		f := familyOf(op)
		if _, isElement := op.Object.(plan.Element); isElement || op.Verb == plan.Delete || made[f] {
			continue
		}
		made[f] = true
		b.newTable(f, n)
	}
	for _, f := range []plan.Family{plan.Inet, plan.BridgeTable} {
		if n, ok := t.drop[f]; ok && !t.gone[n] {
			b.delTable(f, n)
		}
	}
}

// rebased reports whether a chain must be made anew, because the kernel
// changes nothing of its hook but the policy.
func rebased(op plan.Op) bool {
	want, ok1 := op.Object.(plan.Chain)
	old, ok2 := op.Old.(plan.Chain)
	if !ok1 || !ok2 || op.Verb != plan.Modify {
		return false
	}
	old.Base.Policy = want.Base.Policy
	return want.Base != old.Base
}

func (t *transaction) flushChains(b *batch, n int, op plan.Op) error {
	if c, ok := op.Object.(plan.Chain); ok && op.Verb != plan.Create {
		b.flush(c, n)
	}
	return nil
}

func (t *transaction) deleteSets(b *batch, n int, op plan.Op) error {
	if s, ok := op.Object.(plan.Set); ok && op.Verb != plan.Create {
		b.delSet(s, n)
	}
	return nil
}

func (t *transaction) deleteChains(b *batch, n int, op plan.Op) error {
	if c, ok := op.Object.(plan.Chain); ok && (op.Verb == plan.Delete || rebased(op)) {
		b.delChain(c, n)
	}
	return nil
}

func (t *transaction) createChains(b *batch, n int, op plan.Op) error {
	c, ok := op.Object.(plan.Chain)
	if !ok || op.Verb == plan.Delete {
		return nil
	}
	if err := c.Validate(); err != nil {
		return err
	}
	if err := b.newChain(c, n); err != nil {
		return err
	}
	if op.Verb == plan.Create {
		b.flush(c, n) // it may be there after all
	}
	return nil
}

func (t *transaction) createSets(b *batch, n int, op plan.Op) error {
	s, ok := op.Object.(plan.Set)
	if !ok || op.Verb == plan.Delete {
		return nil
	}
	if err := s.Validate(); err != nil {
		return err
	}
	return b.newSet(s, n)
}

func (t *transaction) createRules(b *batch, n int, op plan.Op) error {
	c, ok := op.Object.(plan.Chain)
	if !ok || op.Verb == plan.Delete {
		return nil
	}
	for _, r := range c.Rules {
		out, err := compileIn(c.Family, r, t.sets)
		if err != nil {
			return fmt.Errorf("rule %q: %w", r.String(), err)
		}
		if err := b.appendRule(c, r, out, n); err != nil {
			return err
		}
	}
	return nil
}

// compileIn compiles a rule where the sets it may refer to are known.
func compileIn(f plan.Family, r plan.Rule, sets map[string]plan.Set) (compiled, error) {
	out, err := compile(f, r)
	if err != nil {
		return compiled{}, err
	}
	if r.Verdict == plan.DNAT && len(sets[setKey(f, r.Target)].Data) > 1 {
		out.withPorts()
	}
	return out, nil
}

// elements adds or deletes elements, set by set.
func (t *transaction) elements(b *batch, typ uint16) error {
	groups, order := make(map[string][]member), []string(nil)
	going := make(map[string]bool)
	for _, op := range t.ops {
		if s, ok := op.Object.(plan.Set); ok && op.Verb != plan.Create {
			going[s.Key()] = true // with everything in it
		}
	}
	for n, op := range t.ops {
		e, ok := op.Object.(plan.Element)
		if !ok || t.gone[n] {
			continue
		}
		if _, dropped := t.drop[e.Family]; dropped {
			continue
		}
		if typ == unix.NFT_MSG_DELSETELEM && (op.Verb == plan.Create || going[setKey(e.Family, e.Set)]) ||
			typ == unix.NFT_MSG_NEWSETELEM && op.Verb == plan.Delete {
			continue
		}
		key := setKey(e.Family, e.Set)
		if _, known := groups[key]; !known {
			order = append(order, key)
		}
		groups[key] = append(groups[key], member{e, n})
	}
	limit := len(t.ops)
	if t.single && typ == unix.NFT_MSG_DELSETELEM {
		limit = 1
	}
	for _, key := range order {
		if err := b.elements(typ, t.sets[key], groups[key], limit); err != nil {
			return &plan.OpError{Op: t.ops[b.sent[len(b.sent)-1].lastOp()], Err: err}
		}
	}
	return nil
}

// lastOp is the operation whose encoding was under way.
func (m sentMessage) lastOp() int { return m.subject[len(m.subject)-1].op }

// refusal is the kernel's answer to one message.
type refusal struct {
	message int // index in the batch; -1: the transaction as a whole
	offset  int
	errno   unix.Errno
	text    string
}

// commit sends a batch and collects every refusal; there are none when it was carried out.
func (s *conn) commit(ctx context.Context, b *batch) ([]refusal, error) {
	if err := s.expect(len(b.sent)); err != nil {
		return nil, err
	}
	if err := s.send(ctx, b.w.B); err != nil {
		return nil, err
	}
	var out []refusal
	last := b.first + uint32(len(b.sent))
	for {
		// The kernel has decided by now: giving up here would only lose its answer.
		msgs, err := s.receive(context.WithoutCancel(ctx))
		if err != nil {
			return nil, fmt.Errorf("read the outcome of a transaction: %w", err)
		}
		for _, m := range msgs {
			if m.typ != unix.NLMSG_ERROR || m.seq-b.first > last-b.first {
				continue
			}
			errno, offset, text := m.ack()
			if errno != 0 {
				out = append(out, refusal{int(m.seq-b.first) - 1, offset, errno, text})
			}
			if m.seq == last || m.seq == b.first && errno != 0 && !s.moreFollows(errno) {
				return out, nil
			}
		}
	}
}

// moreFollows reports whether answers to the messages follow an answer to the
// begin of a transaction: not when the kernel did not look at the messages.
func (s *conn) moreFollows(errno unix.Errno) bool {
	return !slices.Contains([]unix.Errno{unix.EPERM, unix.EOPNOTSUPP, unix.EINVAL, unix.ENOMEM}, errno)
}

// settle looks at refusals. Those of deletions whose object is away are taken
// note of, and again is true; any other is an error.
func (t *transaction) settle(b *batch, refusals []refusal) (again bool, err error) {
	for _, r := range refusals {
		if r.message < 0 {
			return false, t.explainAll(r)
		}
		msg := b.sent[r.message]
		missing := r.errno == unix.ENOENT && isDeletion(msg.typ)
		switch {
		case !missing:
			err = errors.Join(err, t.explain(b, r))
		case len(msg.subject) > 1:
			t.single = true
		default:
			t.forget(msg)
		}
	}
	return err == nil, err
}

func isDeletion(typ uint16) bool {
	switch typ {
	case unix.NFT_MSG_DELTABLE, unix.NFT_MSG_DELCHAIN, unix.NFT_MSG_DELRULE, unix.NFT_MSG_DELSET,
		unix.NFT_MSG_DELSETELEM:
		return true
	}
	return false
}

// forget takes an operation whose object is away for done, or turns the
// modification of it into its creation.
func (t *transaction) forget(msg sentMessage) {
	n := msg.subject[0].op
	switch op := t.ops[n]; op.Verb {
	case plan.Modify:
		t.ops[n] = plan.Op{Verb: plan.Create, Object: op.Object}
	case plan.Delete:
		t.gone[n] = true
	}
}

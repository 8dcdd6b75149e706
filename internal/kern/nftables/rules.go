package nftables

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/plan"
)

// Rules reads and writes the nftables tables of one network namespace. It is
// safe for concurrent use, and nobody who writes waits for somebody who reads.
type Rules struct {
	reading sync.Mutex
	reader  *conn

	mu   sync.Mutex // may be taken with reading held
	sock *conn
	// sets are the declarations of the sets there are, by key: what elements are
	// encoded by. Learnt as needed, forgotten whenever the kernel disagrees.
	sets map[string]plan.Set
}

// Open opens netlink sockets to nf_tables in the namespace nsFd refers to.
func Open(nsFd int) (*Rules, error) {
	sock, err := dial(nsFd)
	if err != nil {
		return nil, err
	}
	reader, err := dial(nsFd)
	if err != nil {
		return nil, errors.Join(err, sock.close())
	}
	return &Rules{reader: reader, sock: sock, sets: make(map[string]plan.Set)}, nil
}

// Port is the netlink port of the socket that [Rules.Apply] asks by. The kernel's notifications about a transaction are
// from it.
func (r *Rules) Port() uint32 { return r.sock.port }

// Close releases the sockets.
func (r *Rules) Close() error { return errors.Join(r.reader.close(), r.sock.close()) }

// attempts bounds how often a transaction is built again without the objects that
// were found to be away: once for groups of elements, once for each of them.
const attempts = 4

// Apply carries out every operation on chains, sets and elements in ops, of both
// families, in one transaction: all of them or none. Tables come with the first
// chain or set and go with the last. Deleting what is away is no error. An error
// is a [plan.OpError] where it is about one operation; it wraps
// [plan.ErrUnsupported] where the kernel lacks something.
func (r *Rules) Apply(ctx context.Context, ops []plan.Op) error {
	t := transaction{sets: make(map[string]plan.Set), gone: make(map[int]bool)}
	for _, op := range ops {
		if isRule(op) {
			t.ops = append(t.ops, op)
		}
	}
	if len(t.ops) == 0 {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	err := r.run(ctx, &t)
	if err != nil {
		clear(r.sets)
		return err
	}
	r.remember(t.ops)
	return nil
}

func (r *Rules) run(ctx context.Context, t *transaction) error {
	if err := r.learn(ctx, t); err != nil {
		return err
	}
	if err := r.emptied(ctx, t); err != nil {
		return err
	}
	for range attempts {
		if err := ctx.Err(); err != nil {
			return err
		}
		b, err := t.build(r.sock.nextSeq(1))
		if err != nil {
			return err
		}
		if len(b.sent) == 0 {
			return nil
		}
		r.sock.nextSeq(len(b.sent) + 1)
		refusals, err := r.sock.commit(ctx, b)
		if err != nil || len(refusals) == 0 {
			return err
		}
		if again, err := t.settle(b, refusals); !again {
			return err
		}
	}
	return fmt.Errorf("nftables transaction of %d operations: the tables keep changing underneath", len(t.ops))
}

// learn collects the declarations of the sets that the operations refer to.
func (r *Rules) learn(ctx context.Context, t *transaction) error {
	for _, op := range t.ops {
		if s, ok := op.Object.(plan.Set); ok && op.Verb != plan.Delete {
			t.sets[s.Key()] = s
		}
	}
	for n, op := range t.ops {
		switch o := op.Object.(type) {
		case plan.Element:
			found, err := r.find(ctx, t, o.Family, o.Set)
			switch {
			case err != nil:
				return &plan.OpError{Op: op, Err: err}
			case !found && op.Verb == plan.Delete:
				t.gone[n] = true
			case !found:
				return &plan.OpError{Op: op, Err: fmt.Errorf("set %s: %w", o.Set, unix.ENOENT)}
			}
		case plan.Chain:
			for _, rule := range o.Rules {
				if rule.Verdict != plan.DNAT && rule.Verdict != plan.SNAT || op.Verb == plan.Delete {
					continue
				}
				if _, err := r.find(ctx, t, o.Family, rule.Target); err != nil {
					return &plan.OpError{Op: op, Err: err}
				}
			}
		}
	}
	return nil
}

// find makes a set's declaration known to the transaction, asking the kernel if need be.
func (r *Rules) find(ctx context.Context, t *transaction, f plan.Family, name string) (bool, error) {
	key := setKey(f, name)
	if _, ok := t.sets[key]; ok {
		return true, nil
	}
	if s, ok := r.sets[key]; ok {
		t.sets[key] = s
		return true, nil
	}
	s, err := r.sock.set(ctx, f, name)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look up set %s: %w", name, err)
	}
	t.sets[key], r.sets[key] = s, s
	return true, nil
}

// emptied finds the families of which nothing remains after the operations, so
// that their tables go as well.
func (r *Rules) emptied(ctx context.Context, t *transaction) error {
	t.drop = make(map[plan.Family]int)
	for _, f := range []plan.Family{plan.Inet, plan.BridgeTable} {
		going, last := t.going(f)
		if len(going) == 0 {
			continue
		}
		there, err := r.sock.names(ctx, f)
		if err != nil {
			return fmt.Errorf("list chains and sets of table %s %s: %w", f, plan.Table, err)
		}
		maps.DeleteFunc(there, func(key string, _ bool) bool { return going[key] })
		if len(there) == 0 {
			t.drop[f] = last
		}
	}
	return nil
}

// going is the [objectKey] of the chains and sets of a family that are deleted, and the
// last such operation; none where others are made.
func (t *transaction) going(f plan.Family) (keys map[string]bool, last int) {
	keys = make(map[string]bool)
	for n, op := range t.ops {
		if _, isElement := op.Object.(plan.Element); isElement || familyOf(op) != f {
			continue
		}
		if op.Verb != plan.Delete {
			return nil, 0
		}
		keys[objectKey(op.Object)], last = true, n
	}
	return keys, last
}

// remember keeps the declarations after a transaction that succeeded.
func (r *Rules) remember(ops []plan.Op) {
	for _, op := range ops {
		s, ok := op.Object.(plan.Set)
		switch {
		case !ok:
		case op.Verb == plan.Delete:
			delete(r.sets, s.Key())
		default:
			r.sets[s.Key()] = s
		}
	}
}

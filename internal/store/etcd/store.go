package etcd

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/etcd"
	"github.com/vethloom/vethloom/internal/store"
)

// MaxWrites is how many records one commit may change: etcd's --max-txn-ops.
const MaxWrites = 128

// callTimeout bounds a call whose context has no nearer end.
const callTimeout = 5 * time.Second

// pageSize is the number of records a request lists. Records are small; a page must not be far above etcd's
// usual message sizes.
const pageSize = 500

// maxFound bounds the records of one list, in bytes: whoever writes to etcd can make more than there is memory for.
const maxFound = 256 << 20

// Store is a [cnm.Store]. It is safe for concurrent use.
type Store struct {
	core  *core
	lease clientv3.LeaseID
}

// New returns the store of the records below prefix, such as "/vethloom". It calls nobody. The client
// stays the caller's; Close ends what Watch started.
func New(c *clientv3.Client, prefix string) *Store {
	return &Store{core: newCore(c, strings.TrimRight(prefix, "/")+"/")}
}

// WithLease is a view of the store whose commits attach what they write to the etcd lease: it
// vanishes with it. Lease 0 attaches to none. Closing the store ends the view's watches.
func (s *Store) WithLease(id int64) *Store {
	return &Store{core: s.core, lease: clientv3.LeaseID(id)}
}

// Close ends the watches and waits for them.
func (s *Store) Close() error { return s.core.close() }

// Get implements [cnm.Store].
func (s *Store) Get(ctx context.Context, k cnm.Key) (cnm.Record, error) {
	what := func() string { return fmt.Sprintf("get %s %q", k.Kind, k.ID) }
	r, err := s.core.get(ctx, s.path(k))
	switch {
	case err != nil:
		return cnm.Record{}, s.core.failed(ctx, what(), err)
	case len(r.Kvs) == 0:
		return cnm.Record{}, fmt.Errorf("%s: %w", what(), cnm.ErrNotFound)
	}
	return record(k, r.Kvs[0]), nil
}

// List implements [cnm.Store].
func (s *Store) List(ctx context.Context, kind cnm.Kind) ([]cnm.Record, error) {
	return s.Find(ctx, kind, "")
}

// Find implements [cnm.Store]. The records are of one revision, however many requests they take.
func (s *Store) Find(ctx context.Context, kind cnm.Kind, prefix string) ([]cnm.Record, error) {
	for {
		out, err := s.find(ctx, kind, s.dir(kind)+escape(prefix, true))
		if errors.Is(err, rpctypes.ErrCompacted) { // between two pages
			continue
		}
		if err != nil {
			return nil, s.core.failed(ctx, "list "+string(kind), err)
		}
		// Escaped keys have an order of their own.
		slices.SortFunc(out, func(a, b cnm.Record) int { return strings.Compare(a.Key.ID, b.Key.ID) })
		return out, nil
	}
}

func (s *Store) find(ctx context.Context, kind cnm.Kind, from string) ([]cnm.Record, error) {
	out, end, revision := []cnm.Record{}, clientv3.GetPrefixRangeEnd(from), int64(0)
	page, size := pageSize, 0
	for {
		r, err := s.core.get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(int64(page)),
			clientv3.WithRev(revision))
		if etcd.TooLarge(err) && page > 1 {
			page = max(page/8, 1)
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, kv := range r.Kvs {
			k, err := s.core.key(string(kv.Key))
			if err != nil || k.Kind != kind {
				continue // somebody else's key
			}
			out = append(out, record(k, kv))
			size += len(kv.Key) + len(kv.Value)
		}
		if size > maxFound {
			return nil, fmt.Errorf("they take more than %d MiB: remove those that nobody needs", maxFound>>20)
		}
		if !r.More || len(r.Kvs) == 0 {
			return out, nil
		}
		from, revision = string(r.Kvs[len(r.Kvs)-1].Key)+"\x00", r.Header.Revision
		if revision == 0 {
			return nil, errors.New("etcd answered without a revision")
		}
	}
}

func record(k cnm.Key, kv *mvccpb.KeyValue) cnm.Record {
	v := kv.Value
	if v == nil {
		v = []byte{}
	}
	return cnm.Record{Key: k, Value: v, Revision: uint64(kv.ModRevision)}
}

// Commit implements [cnm.Store]. When no member answers after the request was sent, it returns cnm.ErrUnavailable
// without knowing whether the commit was done: the caller reads before it tries again.
func (s *Store) Commit(ctx context.Context, writes ...cnm.Write) error {
	_, err := s.commit(ctx, writes, func(int) clientv3.LeaseID { return s.lease })
	return err
}

// LeasedWrite is a write that hangs on an etcd lease of its own; 0: on none.
type LeasedWrite struct {
	cnm.Write
	Lease int64
}

// CommitLeased is Commit of writes that do not all hang on the same lease. It returns the revision of the records
// written; 0 when there are none.
func (s *Store) CommitLeased(ctx context.Context, leased ...LeasedWrite) (int64, error) {
	writes := make([]cnm.Write, 0, len(leased))
	for _, w := range leased {
		writes = append(writes, w.Write)
	}
	return s.commit(ctx, writes, func(i int) clientv3.LeaseID { return clientv3.LeaseID(leased[i].Lease) })
}

func (s *Store) commit(ctx context.Context, writes []cnm.Write, lease func(int) clientv3.LeaseID) (int64, error) {
	if err := store.Check(writes); err != nil {
		return 0, err
	}
	if len(writes) > MaxWrites {
		return 0, fmt.Errorf("commit %s %q and others: %d records in one commit, etcd takes at most %d; make "+
			"several commits: %w",
			writes[0].Key.Kind, writes[0].Key.ID, len(writes), MaxWrites, cnm.ErrInvalid)
	}
	if err := ctx.Err(); err != nil || len(writes) == 0 {
		return 0, err
	}
	for _, w := range writes {
		if w.Revision > math.MaxInt64 {
			return 0, fmt.Errorf("commit %s %q: no record has revision %d: %w", w.Key.Kind, w.Key.ID, w.Revision,
				cnm.ErrConflict)
		}
	}
	return s.transact(ctx, writes, lease)
}

func (s *Store) transact(ctx context.Context, writes []cnm.Write, lease func(int) clientv3.LeaseID) (int64, error) {
	var compares []clientv3.Cmp
	var then, otherwise []clientv3.Op
	for i, w := range writes {
		path := s.path(w.Key)
		compares = append(compares, clientv3.Compare(clientv3.ModRevision(path), "=", int64(w.Revision)))
		if w.Value == nil {
			then = append(then, clientv3.OpDelete(path))
		} else {
			then = append(then, clientv3.OpPut(path, string(w.Value), clientv3.WithLease(lease(i))))
		}
		otherwise = append(otherwise, clientv3.OpGet(path, clientv3.WithKeysOnly()))
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	r, err := s.core.client.Txn(call).If(compares...).Then(then...).Else(otherwise...).Commit()
	if err != nil {
		return 0, s.core.failed(ctx, fmt.Sprintf("commit %s %q", writes[0].Key.Kind, writes[0].Key.ID), err)
	}
	if !r.Succeeded {
		return 0, conflict(writes, r.Responses)
	}
	s.core.committed(writes, r.Header.Revision)
	return r.Header.Revision, nil
}

// conflict finds the first write that does not hold.
func conflict(writes []cnm.Write, found []*etcdserverpb.ResponseOp) error {
	for i, w := range writes {
		var have uint64
		if kvs := found[i].GetResponseRange().GetKvs(); len(kvs) > 0 {
			have = uint64(kvs[0].ModRevision)
		}
		if have != w.Revision {
			return store.Conflict(w, have)
		}
	}
	return fmt.Errorf("commit %s %q: %w", writes[0].Key.Kind, writes[0].Key.ID, cnm.ErrConflict)
}

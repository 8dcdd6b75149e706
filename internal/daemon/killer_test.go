package daemon_test

import (
	"context"
	"os"
	"sync/atomic"
	"syscall"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/daemon"
	"github.com/vethloom/vethloom/internal/reconcile"
	"github.com/vethloom/vethloom/plan"
)

// killer ends the process, as kill -9 does, before the at-th step after it was
// armed. Steps are single operations on the kernel, commits of records, writes to etcd, and changes of the disk by
// images.
type killer struct {
	at    int64
	armed atomic.Bool
	steps atomic.Int64
}

// faults puts the killer between the rooms. It is armed by a byte on descriptor
// 3 and says so on descriptor 4.
func (k *killer) faults() daemon.Faults {
	go func() {
		var b [1]byte
		if _, err := os.NewFile(3, "arm").Read(b[:]); err != nil {
			return
		}
		k.armed.Store(true)
		os.NewFile(4, "armed").Write(b[:])
	}()
	return daemon.Faults{
		Store:  func(s cnm.Store) cnm.Store { return killerStore{s, k} },
		Kernel: func(r reconcile.Kernel) reconcile.Kernel { return killerKernel{r, k} },
		Etcd:   func(kv clientv3.KV) clientv3.KV { return killerKV{kv, k} },
		Images: func(string) error { k.step(); return nil },
	}
}

func (k *killer) step() {
	if k.armed.Load() && k.steps.Add(1) == k.at {
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}

type killerStore struct {
	cnm.Store
	k *killer
}

func (s killerStore) Commit(ctx context.Context, w ...cnm.Write) error {
	s.k.step()
	return s.Store.Commit(ctx, w...)
}

type killerKernel struct {
	reconcile.Kernel
	k *killer
}

func (r killerKernel) Apply(ctx context.Context, ops []plan.Op) error {
	if !r.k.armed.Load() {
		return r.Kernel.Apply(ctx, ops)
	}
	for i := range ops {
		r.k.step()
		if err := r.Kernel.Apply(ctx, ops[i:i+1]); err != nil {
			return err
		}
	}
	return nil
}

type killerKV struct {
	clientv3.KV
	k *killer
}

func (v killerKV) Put(ctx context.Context, key, value string, opts ...clientv3.OpOption) (*clientv3.PutResponse,
	error) {
	v.k.step()
	return v.KV.Put(ctx, key, value, opts...)
}

func (v killerKV) Delete(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.DeleteResponse, error) {
	v.k.step()
	return v.KV.Delete(ctx, key, opts...)
}

func (v killerKV) Txn(ctx context.Context) clientv3.Txn { return &killerTxn{v.KV.Txn(ctx), v.k} }

type killerTxn struct {
	clientv3.Txn
	k *killer
}

func (t *killerTxn) If(c ...clientv3.Cmp) clientv3.Txn  { t.Txn = t.Txn.If(c...); return t }
func (t *killerTxn) Then(o ...clientv3.Op) clientv3.Txn { t.Txn = t.Txn.Then(o...); return t }
func (t *killerTxn) Else(o ...clientv3.Op) clientv3.Txn { t.Txn = t.Txn.Else(o...); return t }

func (t *killerTxn) Commit() (*clientv3.TxnResponse, error) {
	t.k.step()
	return t.Txn.Commit()
}

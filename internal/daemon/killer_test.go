package daemon_test

import (
	"context"
	"os"
	"sync/atomic"
	"syscall"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/daemon"
	"github.com/vethloom/vethloom/internal/plan"
	"github.com/vethloom/vethloom/internal/reconcile"
)

// killer ends the process, as kill -9 does, before the at-th step after it was
// armed. Steps are single operations on the kernel and commits of records.
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

package daemon

import (
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/reconcile"
)

// Faults stand between the rooms in tests that make steps fail, or end the
// process at one. A nil function changes nothing.
type Faults struct {
	Store  func(cnm.Store) cnm.Store
	Kernel func(reconcile.Kernel) reconcile.Kernel
	Etcd   func(clientv3.KV) clientv3.KV
	Images func(change string) error // before each change of the disk that images make
}

func (d *daemon) stored() cnm.Store {
	if f := d.cfg.Faults.Store; f != nil {
		return f(d.store)
	}
	return d.store
}

func (d *daemon) applied() reconcile.Kernel {
	if f := d.cfg.Faults.Kernel; f != nil {
		return f(d.kernel)
	}
	return d.kernel
}

func (d *daemon) asked(c *clientv3.Client) *clientv3.Client {
	if f := d.cfg.Faults.Etcd; f != nil {
		c.KV = f(c.KV)
	}
	return c
}

package daemon

import (
	"context"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/reconcile"
	"github.com/vethloom/vethloom/plan"
)

// newReconciler makes the one of this node.
func newReconciler(d *daemon) *reconcile.Reconciler {
	return reconcile.New(reconcile.Config{Kernel: d.applied(), Source: d.render, Log: d.log, Observer: d.passed,
		With: d.cfg.fastOwner})
}

// fastOwner is the owner that goes with another one in every pass, where there may be a fast path.
func (c Config) fastOwner(of plan.Owner) (plan.Owner, bool) {
	if _, ok := cnm.FastOf(of); ok || c.FastPath == "off" {
		return "", false
	}
	return cnm.FastOwner(of), true
}

// hasFastPath reports whether packets may take the fast path on this host: it was not switched off, the kernel has what
// it needs, and frames do not run through IP firewalls on bridges, where somebody's rules may be meant for them.
func hasFastPath(ctx context.Context, d *daemon, bridgeNetfilterOff bool) (bool, error) {
	if d.cfg.FastPath == "off" || d.kernel.FastPath() != nil {
		return false, nil
	}
	has, err := d.kernel.HasBridgeNetfilter(ctx)
	return err == nil && (!has || bridgeNetfilterOff), err
}

package daemon

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/vethloom/vethloom/api/server"
	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/doctor"
	"github.com/vethloom/vethloom/internal/kern/fastpath"
	"github.com/vethloom/vethloom/internal/linkname"
	"github.com/vethloom/vethloom/internal/reconcile"
	"github.com/vethloom/vethloom/plan"
)

// newReconciler makes the one of this node.
func newReconciler(d *daemon) *reconcile.Reconciler {
	return reconcile.New(reconcile.Config{Kernel: d.applied(), Source: d.render, Log: d.log, Observer: d.passed,
		With: d.cfg.fastOwner, Whole: isFast})
}

// isFast reports whether an owner is the fast path's part of another one. Half of that may be wrong: a way to where a
// node was before, or an endpoint without its published ports. Without any of it all takes the slow path.
func isFast(o plan.Owner) bool {
	_, fast := cnm.FastOf(o)
	return fast
}

// fastOwner is the owner that goes with another one in every pass, where there may be a fast path.
func (c Config) fastOwner(of plan.Owner) (plan.Owner, bool) {
	if _, ok := cnm.FastOf(of); ok || c.FastPath == "off" {
		return "", false
	}
	return cnm.FastOwner(of), true
}

// noFastPath says why packets can take no fast path on this host; "": they may. It was not switched off, the kernel has
// what it needs, and frames do not run through IP firewalls on bridges, where somebody's rules may be meant for them.
func noFastPath(ctx context.Context, d *daemon, bridgeNetfilterOff bool) (string, error) {
	if d.cfg.FastPath == "off" {
		return "it was switched off (netd --fastpath off)", nil
	}
	if err := d.kernel.FastPath(); err != nil {
		return err.Error(), nil
	}
	has, err := d.kernel.HasBridgeNetfilter(ctx)
	if err != nil || !has || bridgeNetfilterOff {
		return "", err
	}
	return "frames on bridges run through IP firewalls (--bridge-netfilter)", nil
}

// filters finds the rules of others that would not see what takes the fast path.
func filters(ctx context.Context, d *daemon) (f cnm.Filters, err error) {
	if d.cfg.FastPath == "off" {
		return f, nil
	}
	if f.Links, f.Devices, err = d.kernel.ForeignLinks(ctx); err != nil {
		return f, err
	}
	if f.IPsec, err = d.kernel.HasIPsec(); err != nil {
		return f, err
	}
	drops, _, err := d.kernel.ForeignForward(ctx)
	if err != nil || len(drops) == 0 {
		return f, err
	}
	f.Forward = true
	accepts, err := d.kernel.NeededAccepts(ctx)
	if len(accepts) == len(drops) {
		f.Accepted = linkname.Bridge + "*"
	}
	return f, err
}

// examineFast looks at the fast path for the doctor.
func examineFast(ctx context.Context, d *daemon) (*doctor.FastPath, error) {
	if d.cfg.FastPath == "off" {
		return nil, nil
	}
	if h := d.render.Host(); !h.Fast {
		return &doctor.FastPath{Missing: h.NoFast}, nil
	}
	rules, err := d.kernel.ForeignRules(ctx)
	return &doctor.FastPath{Rules: rules, Links: ownLinks(d.render.Host().Filters.Links)}, err
}

// ownLinks are those of the names that may be of links of ours.
func ownLinks(names []string) (out []string) {
	for _, n := range names {
		start, any := strings.CutSuffix(n, "*")
		if slices.ContainsFunc(linkname.Prefixes(), func(prefix string) bool {
			return strings.HasPrefix(n, prefix) || any && strings.HasPrefix(prefix, start)
		}) {
			out = append(out, n)
		}
	}
	return out
}

// fastPath tells of the fast path of the host, and of what takes it.
func (s *system) fastPath(networks []cnm.Network) (f server.FastPath, err error) {
	switch h := s.render.Host(); {
	case s.cfg.FastPath == "off":
		return server.FastPath{State: "off"}, nil
	case !h.Fast:
		return server.FastPath{State: "none: " + h.NoFast}, nil
	}
	f.State = "on"
	for _, n := range networks {
		c, err := s.paths.FastCounts(cnm.FastNetwork(n))
		if err != nil {
			return f, fmt.Errorf("count the packets of network %s: %w", n.Name, err)
		}
		for reason, packets := range c.Packets {
			if packets == 0 {
				continue
			}
			count := server.PathCount{Network: n.Name, Packets: packets, Bytes: c.Bytes[reason]}
			if r := fastpath.Reason(reason); r == fastpath.Fast {
				count.Fast = true
			} else {
				count.Reason = r.String()
			}
			f.Counts = append(f.Counts, count)
		}
	}
	return f, nil
}

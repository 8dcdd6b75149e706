package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/firewall"
	"github.com/vethloom/vethloom/internal/kern"
	"github.com/vethloom/vethloom/plan"
)

// openKernel chooses the firewall and opens the kernel with it.
func (d *daemon) openKernel(ctx context.Context) error {
	choice, err := kern.Choose(ctx, d.cfg.Firewall, firewall.Trial())
	if err != nil {
		return fmt.Errorf("--firewall %s: %w", d.cfg.Firewall, err)
	}
	d.kernel, err = kern.Open(kern.Config{RunDir: d.cfg.Run, Log: d.log, Tunnels: d.tunnels,
		Names: openNames(d), Firewall: choice.Firewall, Variant: choice.Variant})
	if err != nil {
		return err
	}
	d.closing(d.kernel.Close)
	if choice.Why != nil {
		d.log.Warn("nftables does not work here: the rules are in iptables", "firewall", d.kernel.Firewall(), "err",
			choice.Why)
	} else {
		d.log.Info("the rules are in "+d.kernel.Firewall(), "asked", d.cfg.Firewall)
	}
	return nil
}

// expressible refuses records whose rules the firewall has no words for: what they protect would lie open.
func (d *daemon) expressible(ctx context.Context) error {
	wants, err := d.render.All(ctx)
	if err != nil {
		return fmt.Errorf("render the records: %w", err)
	}
	states := make([]plan.State, 0, len(wants))
	for _, w := range wants {
		states = append(states, w.State)
	}
	err = d.kernel.CheckRules(plan.Union(states...).Rules)
	if op, ok := errors.AsType[*plan.OpError](err); ok {
		return fmt.Errorf("--firewall %s: for what %s has, %w", d.cfg.Firewall, op.Op.Owner(), op.Err)
	}
	return err
}

// fitsFirewall refuses a network that the firewall could not protect.
func (n *networks) fitsFirewall(r cnm.NetworkRequest) error {
	bridged := []string{"", cnm.DriverBridge, "overlay", "host-gw", "vxlan", "udp"}
	v6 := r.IPv6 || slices.ContainsFunc(r.Pools, func(p cnm.PoolRequest) bool {
		return p.Subnet.IsValid() && !p.Subnet.Addr().Is4()
	})
	if n.firewall == kern.Nftables || !v6 || !slices.Contains(bridged, r.Driver) ||
		r.Options["source-validation"] == "false" {
		return nil
	}
	return &cnm.Error{
		Kind: cnm.ErrInvalid, Field: "option source-validation", Value: "true",
		Reason: "the rules of this node are in " + n.firewall + ", which has no source validation of IPv6",
		Remedy: "start netd with --firewall nftables, or create the network with -o source-validation=false",
	}
}

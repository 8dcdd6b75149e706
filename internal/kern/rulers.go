package kern

import (
	"context"
	"errors"
	"fmt"
	"os/exec"

	"github.com/vethloom/vethloom/internal/kern/host"
	"github.com/vethloom/vethloom/internal/kern/iptables"
	"github.com/vethloom/vethloom/internal/kern/nftables"
	"github.com/vethloom/vethloom/plan"
)

// What can have the rules.
const (
	Nftables = "nftables"
	Iptables = "iptables"
)

// ruler has the rules of a plan.
type ruler interface {
	Apply(ctx context.Context, ops []plan.Op) error
	Observe(ctx context.Context) (plan.Ruleset, error)
}

// rulers are what can have the rules of a plan, and which of them has.
type rulers struct {
	fd     int
	ipv6   bool
	host   *host.Host
	nft    *nftables.Rules
	tables *iptables.Rules // nil: nft has them
}

// openRulers opens what is chosen.
func openRulers(ctx context.Context, fd int, ipv6 bool, nft *nftables.Rules, cfg Config) (_ *rulers, err error) {
	r := &rulers{fd: fd, ipv6: ipv6, nft: nft, host: host.Open(fd, ipv6, nft)}
	if cfg.Firewall == Iptables {
		if r.tables, err = iptables.Open(ctx, fd, cfg.Variant, ipv6); err != nil {
			return nil, fmt.Errorf("--firewall iptables: %w", err)
		}
	}
	return r, nil
}

// ruler is the one that has them.
func (r *rulers) ruler() ruler {
	if r.tables != nil {
		return r.tables
	}
	return r.nft
}

// Firewall is what has the rules: nftables, iptables (nft) or iptables (legacy).
func (r *rulers) Firewall() string {
	if r.tables == nil {
		return Nftables
	}
	return Iptables + " (" + r.tables.Variant() + ")"
}

// CheckRules tells what of a ruleset the firewall cannot express: nothing where it is nftables.
func (r *rulers) CheckRules(rules plan.Ruleset) error {
	if r.tables == nil {
		return nil
	}
	return r.tables.Check(rules)
}

func leftoverHandler(k *Kernel) handler {
	return handler{
		apply: one(func(ctx context.Context, s *session, op plan.Op, l plan.Leftover) error {
			if op.Verb != plan.Delete {
				return errors.New("what was left behind is only ever removed")
			}
			return s.k.clear(ctx, l.In)
		}),
		observe: func(ctx context.Context, s *plan.State) (err error) {
			s.Leftovers, err = k.leftovers(ctx)
			return err
		},
	}
}

// leftovers are the firewalls that have rules of ours and should not.
func (r *rulers) leftovers(ctx context.Context) (out []plan.Leftover, err error) {
	if r.tables != nil {
		have, err := r.nft.Observe(ctx)
		if err != nil && !host.NoNftables(err) {
			return nil, fmt.Errorf("look for rules left in nftables: %w", err)
		}
		if len(have.Chains)+len(have.Sets) > 0 {
			out = append(out, plan.Leftover{In: Nftables})
		}
	}
	for _, variant := range []string{iptables.Nft, iptables.Legacy} {
		if r.tables != nil && r.tables.Variant() == variant {
			continue
		}
		left, err := r.left(ctx, variant)
		if err != nil {
			return nil, fmt.Errorf("look for rules left in iptables: %w", err)
		}
		if left {
			out = append(out, plan.Leftover{In: Iptables + "-" + variant})
		}
	}
	return out, nil
}

// left reports whether a variant of iptables that is not in use has something of ours. It asks the kernel first:
// the tools would make tables where there are none.
func (r *rulers) left(ctx context.Context, variant string) (bool, error) {
	possible, err := r.host.LegacyTables()
	if variant == iptables.Nft {
		possible, err = r.nft.ChainsOf(ctx, iptables.Ours)
	}
	if err != nil || !possible {
		if host.NoNftables(err) {
			err = nil
		}
		return false, err
	}
	t, err := iptables.Open(ctx, r.fd, variant, r.ipv6)
	if err != nil {
		return false, err
	}
	left, err := t.Left(ctx)
	if errors.Is(err, exec.ErrNotFound) {
		return false, nil // nor were they made by it
	}
	return left, err
}

// clear removes what is ours from a firewall that is not in use.
func (r *rulers) clear(ctx context.Context, from string) error {
	if from != Nftables {
		t, err := iptables.Open(ctx, r.fd, from[len(Iptables+"-"):], r.ipv6)
		if err != nil {
			return err
		}
		return t.Clear(ctx)
	}
	have, err := r.nft.Observe(ctx)
	if err != nil {
		return err
	}
	var ops []plan.Op
	for o := range (plan.State{Rules: have}).Objects() {
		ops = append(ops, plan.Op{Verb: plan.Delete, Object: o})
	}
	return r.nft.Apply(ctx, ops)
}

// ForeignLinks are the names of links that firewall rules of others are about, on the way of what is forwarded. They
// are sorted; a star at the end stands for anything. Devices are those of them that chains are at.
func (r *rulers) ForeignLinks(ctx context.Context) (links, devices []string, err error) {
	return r.host.FilteredLinks(ctx, iptables.Ours)
}

// ForeignRules reports whether anybody but vethloom has a firewall table in the fabric's namespace.
func (r *rulers) ForeignRules(ctx context.Context) (bool, error) {
	if r.tables == nil {
		return r.host.ForeignFirewall(ctx)
	}
	return r.tables.Foreign(ctx)
}

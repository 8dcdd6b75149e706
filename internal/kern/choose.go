package kern

import (
	"context"
	"errors"
	"fmt"
	"os"

	vnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/internal/kern/iptables"
	"github.com/vethloom/vethloom/internal/kern/netns"
	"github.com/vethloom/vethloom/internal/kern/nftables"
	"github.com/vethloom/vethloom/plan"
)

// Choice is the firewall to use.
type Choice struct {
	Firewall, Variant string
	Why               error // what keeps nftables from being it, where nobody asked for another
}

// Choose finds the firewall to use: the one asked for, or with "auto" nftables where it works, else iptables. What
// works is tried by rules in a network namespace that goes with the call.
func Choose(ctx context.Context, asked string, rules plan.Ruleset) (Choice, error) {
	return choose(asked, func(firewall, variant string) error { return try(ctx, firewall, variant, rules) })
}

func choose(asked string, try func(firewall, variant string) error) (Choice, error) {
	var choice Choice
	switch asked {
	case Nftables, "":
		return Choice{Firewall: Nftables}, nil
	case Iptables:
	default:
		choice.Why = try(Nftables, "")
		if choice.Why == nil {
			return Choice{Firewall: Nftables}, nil
		}
	}
	choice.Firewall = Iptables
	var errs []error
	for _, choice.Variant = range []string{iptables.Default, iptables.Legacy, iptables.Nft} {
		err := try(Iptables, choice.Variant)
		if err == nil {
			return choice, nil
		}
		errs = append(errs, err)
	}
	err := fmt.Errorf("iptables does not work here: %w", errs[0]) // that of the host's own command
	if choice.Why != nil {
		err = fmt.Errorf("nftables does not work here: %w; and %w", choice.Why, err)
	}
	return Choice{}, err
}

// try makes rules in a fresh network namespace.
func try(ctx context.Context, firewall, variant string, rules plan.Ruleset) error {
	return netns.OnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace to try rules in: %w", err)
		}
		ns, err := vnetns.Get()
		if err != nil {
			return fmt.Errorf("open the namespace: %w", err)
		}
		defer ns.Close()
		var ops []plan.Op
		for o := range (plan.State{Rules: rules}).Objects() {
			ops = append(ops, plan.Op{Verb: plan.Create, Object: o})
		}
		if firewall == Nftables {
			r, err := nftables.Open(int(ns))
			if err != nil {
				return err
			}
			return errors.Join(r.Apply(ctx, ops), r.Close())
		}
		_, err = os.Stat("/proc/sys/net/ipv6")
		r, err := iptables.Open(ctx, int(ns), variant, err == nil)
		if err != nil {
			return err
		}
		return r.Apply(ctx, ops)
	})
}

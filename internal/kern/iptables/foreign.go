package iptables

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// Left reports whether anything of ours is there, but for the administrator's chain.
func (r *Rules) Left(ctx context.Context) (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	have, err := r.read(ctx, false)
	if err != nil {
		return false, err
	}
	for _, all := range have {
		for _, t := range all {
			for chain := range t.chains {
				if Ours(chain) {
					return true, nil
				}
			}
		}
	}
	return false, nil
}

// Clear removes all that is ours, but for what the administrator has put into the chain for that.
func (r *Rules) Clear(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	have, err := r.read(ctx, false)
	if err != nil {
		return err
	}
	for name, all := range have {
		batch := program{}.batch(name, all)
		if batch == "" {
			continue
		}
		if err := r.tool.restore(ctx, name, batch); err != nil {
			return fmt.Errorf("clear the tables: %w", err)
		}
	}
	r.last = nil
	return nil
}

// Foreign reports whether anybody else has a rule or another policy than ACCEPT.
func (r *Rules) Foreign(ctx context.Context) (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	have, err := r.read(ctx, true)
	if err != nil {
		return false, err
	}
	for _, all := range have {
		for _, t := range all {
			for chain, rules := range t.chains {
				others := slices.ContainsFunc(rules, func(rule string) bool { return !jumps(rule) })
				policy := t.policy[chain]
				if !strings.HasPrefix(chain, prefix) && (others || policy != "" && policy != "ACCEPT") {
					return true, nil
				}
			}
		}
	}
	return false, nil
}

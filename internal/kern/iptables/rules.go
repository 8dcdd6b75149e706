package iptables

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"sync"

	"github.com/vethloom/vethloom/plan"
)

// Rules reads and writes the tables of one network namespace. It is safe for concurrent use.
type Rules struct {
	tool    tool
	ipv6    bool
	variant string

	mu   sync.Mutex
	last map[string]string // what was last seen or made of ours, by tool
}

// Open looks at the namespace nsFd refers to. Without IPv6 there is nothing of ip6tables. The variant is found out
// where it is [Default].
func Open(ctx context.Context, nsFd int, variant string, ipv6 bool) (*Rules, error) {
	r := &Rules{tool: tool{fd: nsFd, variant: variant}, ipv6: ipv6, variant: variant}
	if variant != Default {
		return r, nil
	}
	version, err := r.tool.run(ctx, "", r.tool.command(ip4().tool, "save"), "--version")
	if errors.Is(err, exec.ErrNotFound) {
		return nil, fmt.Errorf("%w: install the package iptables, or give --firewall nftables", err)
	}
	r.variant = Legacy // which is what older ones were, and said nothing of it
	if strings.Contains(version, "nf_tables") {
		r.variant = Nft
	}
	return r, err
}

// Variant is nft or legacy.
func (r *Rules) Variant() string { return r.variant }

// kernel is what the families' tables hold, by tool.
type kernel map[string]tables

func (r *Rules) families() []family {
	if r.ipv6 {
		return []family{ip4(), ip6()}
	}
	return []family{ip4()}
}

// read reads all tables; those of ebtables only where something of ours is or is to be there.
func (r *Rules) read(ctx context.Context, bridge bool) (kernel, error) {
	have := kernel{}
	for _, f := range r.families() {
		t, err := r.tool.save(ctx, f.tool)
		if err != nil {
			return nil, fmt.Errorf("read the tables of %s: %w", f.tool, err)
		}
		have[f.tool] = t
	}
	if now, _ := have.ledger(); !bridge && !hasBridge(now) {
		return have, nil
	}
	t, err := r.tool.save(ctx, bridgeTool)
	if err != nil {
		return nil, fmt.Errorf("read the tables of %s, for source validation: %w", bridgeTool, err)
	}
	have[bridgeTool] = t
	return have, nil
}

// ledger is what the tables say that they are.
func (k kernel) ledger() (_ plan.Ruleset, sound bool) {
	return readLedger(k[ip4().tool].table("filter").chains[ledgerChain])
}

// programs is what a ruleset means in each family.
func (r *Rules) programs(rules plan.Ruleset) (map[string]program, error) {
	out := map[string]program{}
	for _, f := range r.families() {
		p, err := compile(f, rules)
		if err != nil {
			return nil, err
		}
		out[f.tool] = p
	}
	bridge, err := compileBridge(rules)
	if err != nil {
		return nil, err
	}
	out[bridgeTool] = bridge
	entries, err := ledger(rules)
	if err != nil || len(entries) == 0 {
		return out, err
	}
	lines := make([]string, len(entries))
	for i, e := range entries {
		lines[i] = "-A " + ledgerChain + " -m comment --comment " + quote(e)
	}
	out[ip4().tool].tables.table("filter").chains[ledgerChain] = lines
	return out, nil
}

// Observe reads what was applied. A chain that is not as it was made, or whose elements are not, has an unknown rule.
func (r *Rules) Observe(ctx context.Context) (plan.Ruleset, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	have, err := r.read(ctx, false)
	if err != nil {
		return plan.Ruleset{}, err
	}
	r.last = have.marks()
	rules, wrong := r.understand(have)
	if len(wrong) == 0 {
		return rules, nil
	}
	every := wrong[ledgerChain]
	for i, c := range rules.Chains {
		if every || wrong[c.Name] {
			rules.Chains[i].Rules = []plan.Rule{{Verdict: plan.Unknown, Target: "changed"}}
			delete(wrong, c.Name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(wrong)) { // of no chain of the plan's
		if name != ledgerChain || len(rules.Chains) == 0 {
			rules.Chains = append(rules.Chains, plan.Chain{Family: plan.Inet, Name: name,
				Rules: []plan.Rule{{Verdict: plan.Unknown, Target: "stray"}}})
		}
	}
	return rules, nil
}

// understand reads the ledger, and compares what it stands for with what there is: wrong are chains of the plan.
func (r *Rules) understand(have kernel) (rules plan.Ruleset, wrong map[string]bool) {
	wrong = map[string]bool{}
	rules, sound := have.ledger()
	programs, err := r.programs(rules)
	if err != nil || !sound {
		wrong[ledgerChain] = true
	}
	for name, t := range have {
		p := programs[name]
		if p.tables == nil {
			p.tables = tables{}
		}
		for chain := range p.wrong(t) {
			if name == bridgeTool {
				chain = sourceChain
			}
			wrong[planName(chain)] = true
		}
	}
	return rules, wrong
}

// planName is the name of the plan's chain that a chain of ours is part of.
func planName(chain string) string {
	switch chain {
	case ledgerChain:
		return chain
	case rpfChain:
		return "input" // whose rules ask for it
	}
	name, _, _ := strings.Cut(strings.TrimPrefix(chain, prefix), ".")
	return name
}

// Apply carries out every operation on chains, sets and elements in ops. Each table changes as a whole.
func (r *Rules) Apply(ctx context.Context, ops []plan.Op) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	have, err := r.read(ctx, slices.ContainsFunc(ops, func(op plan.Op) bool {
		e, ok := op.Object.(plan.Element)
		return ok && e.Family == plan.BridgeTable
	}))
	if err != nil {
		return err
	}
	before, _ := have.ledger()
	after := changed(before, ops)
	programs, err := r.programs(after)
	if err != nil {
		return r.blame(before, ops, err)
	}
	marks := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(have)) { // ebtables, which validates sources, first
		marks[name] = programs[name].marks()
		batch := programs[name].batch(name, have[name])
		if batch == "" {
			continue
		}
		if err := r.tool.restore(ctx, name, batch); err != nil {
			return fmt.Errorf("write the tables: %w", err)
		}
	}
	r.last = marks
	return nil
}

// changed is the ruleset after the operations.
func changed(r plan.Ruleset, ops []plan.Op) plan.Ruleset {
	sets, chains, elements := byKey(r.Sets), byKey(r.Chains), byKey(r.Elements)
	for _, op := range ops {
		key, gone := op.Object.Key(), op.Verb == plan.Delete
		switch o := op.Object.(type) {
		case plan.Set:
			put(sets, key, o, gone)
		case plan.Chain:
			put(chains, key, o, gone)
		case plan.Element:
			put(elements, key, o, gone)
		}
	}
	maps.DeleteFunc(elements, func(_ string, e plan.Element) bool {
		_, there := sets[plan.Set{Family: e.Family, Name: e.Set}.Key()]
		return !there
	})
	return plan.Ruleset{Sets: sorted(sets), Chains: sorted(chains), Elements: sorted(elements)}
}

func byKey[T plan.Object](list []T) map[string]T {
	out := make(map[string]T, len(list))
	for _, o := range list {
		out[o.Key()] = o
	}
	return out
}

func put[T any](m map[string]T, key string, o T, gone bool) {
	if gone {
		delete(m, key)
	} else {
		m[key] = o
	}
}

func sorted[T any](m map[string]T) []T {
	out := make([]T, 0, len(m))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, m[k])
	}
	return out
}

// Check tells what of a ruleset cannot be expressed.
func (r *Rules) Check(rules plan.Ruleset) error {
	_, err := r.programs(rules)
	if err == nil {
		return nil
	}
	var ops []plan.Op
	for o := range (plan.State{Rules: rules}).Objects() {
		ops = append(ops, plan.Op{Verb: plan.Create, Object: o})
	}
	return r.blame(plan.Ruleset{}, ops, err)
}

// blame finds the element that cannot be expressed.
func (r *Rules) blame(before plan.Ruleset, ops []plan.Op, err error) error {
	if !errors.Is(err, plan.ErrUnsupported) {
		return err
	}
	var rest []plan.Op
	for _, op := range ops {
		if _, ok := op.Object.(plan.Element); !ok {
			rest = append(rest, op)
		}
	}
	for _, op := range ops {
		if _, ok := op.Object.(plan.Element); !ok || op.Verb == plan.Delete {
			continue
		}
		if _, err := r.programs(changed(before, append(slices.Clip(rest), op))); err != nil {
			return &plan.OpError{Op: op, Err: err}
		}
	}
	return err
}

// marks is the text of all that is ours, by tool.
func (k kernel) marks() map[string]string {
	out := map[string]string{}
	for name, all := range k {
		out[name] = all.marks()
	}
	return out
}

// marks is the text of the chains of ours, and of what leads to them.
func (t tables) marks() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(t)) {
		for _, chain := range slices.Sorted(maps.Keys(t[name].chains)) {
			rules := t[name].chains[chain]
			if isBuiltin(chain) {
				rules = leading(rules)
			}
			if Ours(chain) || isBuiltin(chain) && len(rules) > 0 {
				b.WriteString(name + " " + chain + "\n" + strings.Join(rules, "\n") + "\n")
			}
		}
	}
	return b.String()
}

// marks is what they are once the program is carried out.
func (p program) marks() string {
	all := tables{}
	for name, t := range p.tables {
		all.table(name).chains = maps.Clone(t.chains)
	}
	for _, h := range p.hooks {
		t := all.table(h.table)
		t.chains[h.builtin] = append(t.chains[h.builtin], h.rule())
	}
	return all.marks()
}

// Deviates reports whether ours has changed since it was last observed or made.
func (r *Rules) Deviates(ctx context.Context) (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, bridge := r.last[bridgeTool]
	have, err := r.read(ctx, bridge)
	if err != nil {
		return false, err
	}
	return r.last != nil && !maps.Equal(have.marks(), r.last), nil
}

package iptables

import (
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Ours reports whether a chain is one that the plan decides about.
func Ours(chain string) bool { return strings.HasPrefix(chain, prefix) && chain != userChain }

// jumps reports whether a rule of a builtin chain leads to a chain of ours.
func jumps(rule string) bool {
	_, to, ok := strings.Cut(rule, " -j ")
	return ok && Ours(to)
}

// wrong are the chains of ours that are not as the program has them, those that it does not have among them, and
// those that are not jumped to as they should be.
func (p program) wrong(have tables) map[string]bool {
	out := map[string]bool{}
	for name, t := range have {
		want := p.tables[name]
		for chain, rules := range t.chains {
			switch {
			case Ours(chain) && (want == nil || !slices.Equal(want.chains[chain], rules)):
				out[chain] = true
			case isBuiltin(chain) && !slices.Equal(p.jumpsFrom(name, chain), leading(rules)):
				for _, rule := range append(p.jumpsFrom(name, chain), slices.DeleteFunc(slices.Clone(rules),
					func(r string) bool { return !jumps(r) })...) {
					out[rule[strings.LastIndexByte(rule, ' ')+1:]] = true
				}
			}
		}
	}
	for name, t := range p.tables {
		for chain := range t.chains {
			if _, there := have.table(name).chains[chain]; !there {
				out[chain] = true
			}
		}
	}
	return out
}

// leading are the rules of a builtin chain that jump to ours, where they are its first; otherwise nothing fits.
func leading(rules []string) []string {
	n := 0
	for n < len(rules) && jumps(rules[n]) {
		n++
	}
	if slices.ContainsFunc(rules[n:], jumps) {
		return []string{"elsewhere"}
	}
	return rules[:n]
}

// jumpsFrom are the rules that lead from a builtin chain.
func (p program) jumpsFrom(table, builtin string) (out []string) {
	for _, h := range p.hooks {
		if h.table == table && h.builtin == builtin {
			out = append(out, h.rule())
		}
	}
	return out
}

// batch is what makes the tables be as the program has them, for iptables-restore; empty where they are.
func (p program) batch(tool string, have tables) string {
	policy := "- [0:0]" // as the tool declares a chain
	if tool == bridgeTool {
		policy = "ACCEPT"
	}
	names := slices.Collect(maps.Keys(p.tables))
	for name := range have {
		if p.tables[name] == nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	var b strings.Builder
	for _, name := range names { // filter first: it isolates
		lines := p.tableBatch(name, have.table(name), policy)
		if len(lines) > 0 {
			b.WriteString("*" + name + "\n" + strings.Join(lines, "\n") + "\nCOMMIT\n")
		}
	}
	return b.String()
}

func (p program) tableBatch(name string, have *table, policy string) (lines []string) {
	want := map[string][]string{}
	if t := p.tables[name]; t != nil {
		want = t.chains
	}
	var rules, last []string
	for _, chain := range slices.Sorted(maps.Keys(want)) {
		if old, there := have.chains[chain]; !there || !slices.Equal(old, want[chain]) {
			lines = append(lines, ":"+chain+" "+policy)
			rules = append(rules, want[chain]...)
		}
	}
	for _, chain := range slices.Sorted(maps.Keys(have.chains)) {
		_, stays := want[chain]
		empty := chain == userChain && len(have.chains[chain]) == 0
		if (Ours(chain) || empty) && !stays {
			if !p.uses(name, chain) {
				lines = append(lines, ":"+chain+" "+policy)
				last = append(last, "-X "+chain)
			}
		}
	}
	if _, there := have.chains[userChain]; p.uses(name, userChain) && !there {
		lines = append(lines, ":"+userChain+" "+policy)
	}
	for _, builtin := range []string{"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"} {
		jumpsTo := p.jumpsFrom(name, builtin)
		if slices.Equal(jumpsTo, leading(have.chains[builtin])) {
			continue
		}
		for _, rule := range have.chains[builtin] {
			if jumps(rule) {
				lines = append(lines, "-D "+rule[len("-A "):])
			}
		}
		for i, rule := range jumpsTo {
			rules = append(rules, "-I "+builtin+" "+strconv.Itoa(i+1)+rule[len("-A "+builtin):])
		}
	}
	return append(append(lines, rules...), last...)
}

// uses reports whether the program leads to the administrator's chain.
func (p program) uses(name, chain string) bool {
	if chain != userChain || name != "filter" {
		return false
	}
	return slices.ContainsFunc(p.hooks, func(h hook) bool { return h.table == name && h.builtin == "FORWARD" })
}

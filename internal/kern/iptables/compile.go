package iptables

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/vethloom/vethloom/plan"
)

// prefix begins the name of every chain of ours; userChain is the administrator's.
const (
	prefix      = "VETHLOOM-"
	userChain   = prefix + "USER"
	ledgerChain = prefix + "ledger"
	rpfChain    = prefix + "reverse"
)

// family is what differs between iptables and ip6tables.
type family struct {
	proto string // of meta nfproto
	addr  string // of translations
	bits  int
	tool  string
}

func ip4() family { return family{proto: "ipv4", addr: "ip", bits: 32, tool: "iptables"} }
func ip6() family { return family{proto: "ipv6", addr: "ip6", bits: 128, tool: "ip6tables"} }

// hook is a chain of ours that a builtin chain jumps to, before all else there.
type hook struct{ table, builtin, chain string }

func (h hook) rule() string { return "-A " + h.builtin + " -j " + h.chain }

// program is what a ruleset means in one family.
type program struct {
	tables tables
	hooks  []hook
}

// compiler compiles for one family.
type compiler struct {
	fam      family
	elements map[string][]plan.Element // by set
	chains   map[string]plan.Chain
	out      program
	jumped   map[string]bool // regular chains that are compiled, by table and name
}

// compile makes the rules of one family.
func compile(fam family, r plan.Ruleset) (program, error) {
	c := &compiler{fam: fam, elements: map[string][]plan.Element{}, chains: map[string]plan.Chain{},
		out: program{tables: tables{}}, jumped: map[string]bool{}}
	for _, e := range r.Elements {
		if e.Family == plan.Inet {
			c.elements[e.Set] = append(c.elements[e.Set], e)
		}
	}
	for _, s := range c.elements {
		slices.SortFunc(s, func(a, b plan.Element) int { return strings.Compare(a.Key(), b.Key()) })
	}
	for _, chain := range r.Chains {
		if chain.Family == plan.Inet {
			c.chains[chain.Name] = chain
		}
	}
	for _, chain := range r.Chains {
		if chain.Family != plan.Inet || chain.Base == (plan.Base{}) {
			continue
		}
		if err := c.base(chain); err != nil {
			return program{}, fmt.Errorf("chain %s: %w", chain.Name, err)
		}
	}
	return c.out, nil
}

// place is the table and the builtin chain of a hook of nf_tables.
func place(b plan.Base) (table, builtin string, err error) {
	builtin = strings.ToUpper(b.Hook)
	switch {
	case b.Policy == "drop":
		return "", "", unsupported("a chain that drops what no rule accepts")
	case b.Type == "nat":
		return "nat", builtin, nil
	case b.Type == "route" || b.Type != "filter":
		return "", "", unsupported("a chain of type " + b.Type)
	case b.Priority <= -300 && (b.Hook == "prerouting" || b.Hook == "output"):
		return "raw", builtin, nil
	case b.Priority < 0 || b.Hook == "prerouting" || b.Hook == "postrouting":
		return "mangle", builtin, nil
	}
	return "filter", builtin, nil
}

func (c *compiler) base(chain plan.Chain) error {
	table, builtin, err := place(chain.Base)
	if err != nil {
		return err
	}
	name := prefix + chain.Name
	w := &writer{c: c, table: table, first: name, chain: name, base: true}
	w.open()
	c.out.hooks = append(c.out.hooks, hook{table, builtin, name})
	if table == "filter" && builtin == "FORWARD" {
		c.out.tables.table(table).chains[name] = []string{"-A " + name + " -j " + userChain}
	}
	return w.rules(nil, chain.Rules)
}

// accepts reports whether a chain may end the chain that jumps to it: then its rules stand where the jump would.
func (c *compiler) accepts(chain plan.Chain) bool {
	return slices.ContainsFunc(chain.Rules, func(r plan.Rule) bool {
		return r.Verdict == plan.Accept || r.Verdict == plan.VMap || r.Verdict == plan.Jump &&
			c.accepts(c.chains[r.Target])
	})
}

// writer writes the rules of one chain of the plan, to one chain of iptables or to several that follow each other.
type writer struct {
	c     *compiler
	table string
	first string // the chain of the plan's
	chain string // the one being written
	base  bool   // to return is to accept
	parts int
}

func (w *writer) open() { w.c.out.tables.table(w.table).chains[w.chain] = nil }

// next is the name of another chain of the same.
func (w *writer) next() string {
	w.parts++
	return w.first + "." + strconv.Itoa(w.parts)
}

func (w *writer) emit(chain string, cond condition, target string) error {
	text, err := cond.args(w.c.fam)
	if err != nil {
		return err
	}
	t := w.c.out.tables.table(w.table)
	t.chains[chain] = append(t.chains[chain], "-A "+strings.Join(strings.Fields(chain+" "+text+" "+target), " "))
	return nil
}

// rules writes rules that hold where the condition outer does.
func (w *writer) rules(outer []plan.Match, rules []plan.Rule) error {
	for _, r := range rules {
		if err := w.rule(outer, r, endsInDrop(rules)); err != nil {
			return fmt.Errorf("rule %q: %w", r.String(), err)
		}
	}
	return nil
}

// endsInDrop reports whether nothing passes the end of the rules.
func endsInDrop(rules []plan.Rule) bool {
	last := rules[len(rules)-1]
	return last.Verdict == plan.Drop && len(last.Match) == 0
}

func (w *writer) rule(outer []plan.Match, r plan.Rule, closed bool) error {
	match := append(slices.Clip(outer), r.Match...)
	switch r.Verdict {
	case plan.Jump:
		target := w.c.chains[r.Target]
		if w.c.accepts(target) {
			return w.rules(match, target.Rules)
		}
		if err := w.c.regular(w.table, target); err != nil {
			return err
		}
		return w.write(match, "-j "+prefix+r.Target, closed)
	case plan.VMap:
		return w.verdicts(match, r)
	case plan.DNAT:
		return w.translate(match, r, "-j DNAT --to-destination ")
	case plan.SNAT:
		return w.translate(match, r, "-j SNAT --to-source ")
	case plan.Drop:
		return w.write(match, "-j DROP", closed)
	case plan.ClampMSS:
		return w.write(match, "-j TCPMSS --clamp-mss-to-pmtu", closed)
	case plan.Masquerade:
		return w.write(match, "-j MASQUERADE", closed)
	case plan.Accept, plan.Return:
		return w.write(match, "-j RETURN", closed)
	}
	return unsupported(fmt.Sprintf("the verdict %q", r.Verdict))
}

// regular compiles a chain that others jump to, once a table.
func (c *compiler) regular(table string, chain plan.Chain) error {
	name := prefix + chain.Name
	if c.jumped[table+" "+name] {
		return nil
	}
	c.jumped[table+" "+name] = true
	w := &writer{c: c, table: table, first: name, chain: name}
	w.open()
	return w.rules(nil, chain.Rules)
}

// verdicts writes a rule for each element of a map of verdicts.
func (w *writer) verdicts(match []plan.Match, r plan.Rule) error {
	for _, e := range w.c.elements[r.Target] {
		verdict, target, _ := strings.Cut(e.Data[0], " ")
		err := w.rule(append(slices.Clip(match), parts(r.Key, e)...), plan.Rule{Verdict: plan.Verdict(verdict),
			Target: target}, false)
		if err != nil {
			return err
		}
	}
	return nil
}

// translate writes a rule for each element of a map of addresses.
func (w *writer) translate(match []plan.Match, r plan.Rule, target string) error {
	if r.Addr != w.c.fam.addr {
		return nil
	}
	for _, e := range w.c.elements[r.Target] {
		to := e.Data[0]
		if len(e.Data) > 1 && w.c.fam.bits == 128 {
			to = "[" + to + "]"
		}
		if len(e.Data) > 1 {
			to += ":" + e.Data[1]
		}
		err := w.write(append(slices.Clip(match), parts(r.Key, e)...), target+to, false)
		if err != nil {
			return err
		}
	}
	return nil
}

// parts are the matches that an element's key stands for.
func parts(fields []plan.Field, e plan.Element) []plan.Match {
	out := make([]plan.Match, len(fields))
	for i, f := range fields {
		out[i] = plan.Match{Fields: []plan.Field{f}, Values: []string{e.Keys[i]}}
	}
	return out
}

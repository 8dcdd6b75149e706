package iptables

import (
	"slices"

	"github.com/vethloom/vethloom/plan"
)

// write writes what a rule of the plan means: a rule for each way to fulfil its condition. What must not be in a set
// is sorted out in a chain of its own.
func (w *writer) write(match []plan.Match, target string, closed bool) error {
	ways := []condition{nil}
	var absent [][]plan.Match
	reverse := false
	for _, m := range match {
		var err error
		switch {
		case m.Set != "" && m.Not:
			for _, e := range w.c.elements[m.Set] {
				absent = append(absent, parts(m.Fields, e))
			}
			if absent == nil {
				absent = [][]plan.Match{}
			}
		case m.Fields[0] == plan.FIBSaddrOIf:
			if m.Values[0] != "exists" || m.Not || target != "-j RETURN" || !closed {
				return unsupported("a route back to the source, but to drop what has none")
			}
			reverse = true
		default:
			ways, err = w.multiply(ways, m)
		}
		if err != nil {
			return err
		}
	}
	if reverse {
		if err := w.reverse(ways); err != nil {
			return err
		}
	}
	if len(absent) == 0 {
		return w.all(w.chain, ways, target)
	}
	if len(ways) == 0 {
		return nil
	}
	if w.base && target == "-j RETURN" {
		return w.unless(ways, absent)
	}
	sub := w.next()
	if err := w.all(w.chain, ways, "-j "+sub); err != nil {
		return err
	}
	w.c.out.tables.table(w.table).chains[sub] = nil
	if err := w.each(sub, absent, "-j RETURN"); err != nil {
		return err
	}
	return w.emit(sub, nil, target)
}

// unless leaves the plan's chain in one of the ways, unless one of absent holds. The rules that follow are in another
// chain: to go to it and to return from there is to leave too.
func (w *writer) unless(ways []condition, absent [][]plan.Match) error {
	sub, rest := w.chain, w.next()
	always := len(ways) == 1 && len(ways[0]) == 0
	if !always {
		sub = w.next()
		if err := w.all(w.chain, ways, "-g "+sub); err != nil {
			return err
		}
		if err := w.emit(w.chain, nil, "-g "+rest); err != nil {
			return err
		}
	}
	if err := w.each(sub, absent, "-g "+rest); err != nil {
		return err
	}
	w.chain = rest
	w.open()
	return nil
}

func (w *writer) all(chain string, ways []condition, target string) error {
	for _, way := range ways {
		if err := w.emit(chain, way, target); err != nil {
			return err
		}
	}
	return nil
}

// each writes a rule for each of the conjunctions that this family can fulfil.
func (w *writer) each(chain string, conjunctions [][]plan.Match, target string) error {
	for _, matches := range conjunctions {
		ways := []condition{nil}
		for _, m := range matches {
			var err error
			if ways, err = w.multiply(ways, m); err != nil {
				return err
			}
		}
		if err := w.all(chain, ways, target); err != nil {
			return err
		}
	}
	return nil
}

// multiply adds a match to each way: one for each of its values or elements.
func (w *writer) multiply(ways []condition, m plan.Match) ([]condition, error) {
	var choices [][]plan.Match
	switch {
	case m.Fields[0] == plan.NFProto:
		if (m.Values[0] == w.c.fam.proto) == m.Not {
			return nil, nil
		}
		return ways, nil
	case w.other(m.Fields):
		return nil, nil
	case m.Set != "":
		for _, e := range w.c.elements[m.Set] {
			choices = append(choices, parts(m.Fields, e))
		}
	case m.Fields[0] == plan.CTState || m.Fields[0] == plan.CTStatus || len(m.Values) == 1:
		choices = [][]plan.Match{{m}}
	case m.Not:
		return nil, unsupported(m.String())
	default:
		for _, v := range m.Values {
			choices = append(choices, []plan.Match{{Fields: m.Fields, Values: []string{v}}})
		}
	}
	var out []condition
	for _, way := range ways {
		for _, choice := range choices {
			cond, possible, err := extend(way, choice)
			if err != nil {
				return nil, err
			}
			if possible {
				out = append(out, cond)
			}
		}
	}
	return out, nil
}

func extend(cond condition, matches []plan.Match) (_ condition, possible bool, err error) {
	possible = true
	for _, m := range matches {
		if cond, possible, err = cond.with(m); err != nil || !possible {
			return nil, false, err
		}
	}
	return cond, true, nil
}

// other reports whether a field is one of the other family's packets.
func (w *writer) other(fields []plan.Field) bool {
	theirs := []plan.Field{plan.IP6Saddr, plan.IP6Daddr, plan.ICMPv6Type}
	if w.c.fam.bits == 128 {
		theirs = []plan.Field{plan.IPSaddr, plan.IPDaddr}
	}
	return slices.ContainsFunc(fields, func(f plan.Field) bool { return slices.Contains(theirs, f) })
}

// reverse drops what comes by another link than the one back to its source, where the chain would drop it in the end:
// iptables asks for the way back before it routes a packet.
func (w *writer) reverse(ways []condition) error {
	t := w.c.out.tables.table("mangle")
	if _, there := t.chains[rpfChain]; !there {
		t.chains[rpfChain] = nil
		w.c.out.hooks = append(w.c.out.hooks, hook{"mangle", "PREROUTING", rpfChain})
	}
	early := &writer{c: w.c, table: "mangle", chain: rpfChain, first: rpfChain}
	for _, way := range ways {
		cond := append(slices.Clip(way),
			plan.Match{Fields: []plan.Field{plan.FIBDaddrType}, Values: []string{"local"}},
			plan.Match{Fields: []plan.Field{plan.FIBSaddrOIf}, Values: []string{"exists"}})
		if err := early.emit(rpfChain, cond, "-j DROP"); err != nil {
			return err
		}
	}
	return nil
}

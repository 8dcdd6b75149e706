package iptables

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/vethloom/vethloom/plan"
)

// ledger is the text of each object of a ruleset, as comments of rules. A chain's rules follow it.
func ledger(r plan.Ruleset) ([]string, error) {
	var out []string
	for _, s := range r.Sets {
		out = append(out, strings.Join([]string{"s", string(s.Family), s.Name, strconv.FormatBool(s.Interval),
			joinTypes(s.KeyTypes), ":", joinTypes(s.Data)}, " "))
	}
	for _, c := range r.Chains {
		out = append(out, strings.Join([]string{"c", string(c.Family), c.Name, strconv.Itoa(c.Base.Priority),
			word(c.Base.Type), word(c.Base.Hook), word(c.Base.Policy)}, " "))
		for _, rule := range c.Rules {
			out = append(out, "r "+rule.String())
		}
	}
	for _, e := range r.Elements {
		out = append(out, "e "+string(e.Family)+" "+e.Set+" "+strings.Join(e.Keys, " ")+" : "+
			strings.Join(e.Data, " ")+" # "+string(e.Owner))
	}
	for _, text := range out {
		if len(text) > maxComment {
			return nil, unsupported(fmt.Sprintf("%q, whose %d bytes are more than the %d of a comment,", text,
				len(text), maxComment))
		}
	}
	return out, nil
}

// maxComment is XT_MAX_COMMENT_LEN less the terminator.
const maxComment = 255

// word stands for nothing by a sign.
func word(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func unword(s string) string {
	if s == "-" {
		return ""
	}
	return s
}

func joinTypes(ts []plan.DataType) string {
	words := make([]string, len(ts))
	for i, t := range ts {
		words[i] = string(t)
	}
	return word(strings.Join(words, ","))
}

func splitTypes(s string) (out []plan.DataType) {
	if s == "-" {
		return nil
	}
	for w := range strings.SplitSeq(s, ",") {
		out = append(out, plan.DataType(w))
	}
	return out
}

// readLedger is the way back. What it cannot read it leaves out, and tells so.
func readLedger(rules []string) (r plan.Ruleset, sound bool) {
	sound = true
	const mark = " --comment "
	for _, rule := range rules {
		_, comment, ok := strings.Cut(rule, mark)
		if !ok || !readEntry(&r, unquote(comment)) {
			sound = false
		}
	}
	return r, sound
}

func readEntry(r *plan.Ruleset, text string) bool {
	kind, rest, _ := strings.Cut(text, " ")
	f := strings.Split(rest, " ")
	switch kind {
	case "s":
		if len(f) != 6 {
			return false
		}
		r.Sets = append(r.Sets, plan.Set{Family: plan.Family(f[0]), Name: f[1], Interval: f[2] == "true",
			KeyTypes: splitTypes(f[3]), Data: splitTypes(f[5])})
	case "c":
		if len(f) != 6 {
			return false
		}
		prio, err := strconv.Atoi(f[2])
		r.Chains = append(r.Chains, plan.Chain{Family: plan.Family(f[0]), Name: f[1], Base: plan.Base{
			Priority: prio, Type: unword(f[3]), Hook: unword(f[4]), Policy: unword(f[5])}})
		return err == nil
	case "r":
		rule, err := plan.ParseRule(rest)
		if err != nil || len(r.Chains) == 0 {
			return false
		}
		last := &r.Chains[len(r.Chains)-1]
		last.Rules = append(last.Rules, rule)
	case "e":
		return readElement(r, rest)
	default:
		return false
	}
	return true
}

func readElement(r *plan.Ruleset, text string) bool {
	at := strings.LastIndex(text, " # ")
	if at < 0 {
		return false
	}
	keys, data, ok := strings.Cut(text[:at], " : ")
	f := strings.Split(keys, " ")
	if !ok || len(f) < 3 {
		return false
	}
	e := plan.Element{Family: plan.Family(f[0]), Set: f[1], Keys: f[2:], Owner: plan.Owner(text[at+3:])}
	i := slices.IndexFunc(r.Sets, func(s plan.Set) bool { return s.Family == e.Family && s.Name == e.Set })
	switch {
	case data == "":
	case i >= 0 && len(r.Sets[i].Data) == 1: // a verdict has two words
		e.Data = []string{data}
	default:
		e.Data = strings.Split(data, " ")
	}
	r.Elements = append(r.Elements, e)
	return true
}

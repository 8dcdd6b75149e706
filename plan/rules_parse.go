package plan

import (
	"fmt"
	"slices"
	"strings"
)

// fields lists every field a rule can look at.
var fields = [...]Field{
	IIfName, OIfName, NFProto, EtherType, L4Proto, IPSaddr, IPDaddr, IP6Saddr, IP6Daddr, EtherSaddr,
	ARPSaddrIP, ARPSaddrEther, SPort, DPort, TCPFlags, ICMPv6Type, ICMPv6Target, CTState, CTStatus,
	CTDirection, FIBDaddrType, FIBSaddrOIf, Mark,
}

// ParseRule reads what [Rule.String] writes, and nothing else: it is how a rule
// is recognised that carries its own text.
func ParseRule(text string) (Rule, error) {
	p := ruleParser{rest: text}
	r := p.rule()
	if p.err == nil && p.rest != "" {
		p.fail("end of the rule")
	}
	if p.err == nil && r.String() != text {
		p.err = fmt.Errorf("the canonical text is %q", r.String())
	}
	if p.err != nil {
		return Rule{}, fmt.Errorf("parse rule %q: %w", text, p.err)
	}
	return r, nil
}

// ruleParser consumes the text of a rule from the left; the first error sticks.
type ruleParser struct {
	rest string
	err  error
}

func (p *ruleParser) fail(wanted string) {
	if p.err == nil {
		p.err = fmt.Errorf("at %q: expected %s", p.rest, wanted)
	}
}

// word consumes w where it stands as a whole word.
func (p *ruleParser) word(w string) bool {
	rest, ok := strings.CutPrefix(p.rest, w)
	if !ok || p.err != nil || (rest != "" && rest[0] != ' ') {
		return false
	}
	p.rest = strings.TrimPrefix(rest, " ")
	return true
}

// next consumes one word, whatever it is.
func (p *ruleParser) next() string {
	w, rest, _ := strings.Cut(p.rest, " ")
	if w == "" {
		p.fail("a word")
	}
	p.rest = rest
	return w
}

func (p *ruleParser) rule() Rule {
	var r Rule
	for p.err == nil && !r.Counter {
		if p.word("counter") {
			r.Counter = true
		}
		key := p.fields()
		switch {
		case len(key) == 0:
			p.verdict(&r)
			return r
		case p.word(string(VMap)):
			r.Verdict, r.Key, r.Target = VMap, key, p.ref()
			return r
		case r.Counter:
			p.fail("vmap")
		default:
			r.Match = append(r.Match, p.match(key))
		}
	}
	return r
}

func (p *ruleParser) verdict(r *Rule) {
	for _, v := range []Verdict{Accept, Drop, Return, Masquerade, ClampMSS} {
		if p.word(string(v)) {
			r.Verdict = v
			return
		}
	}
	switch {
	case p.word(string(Jump)):
		r.Verdict, r.Target = Jump, p.next()
	case p.word(string(DNAT)):
		p.translation(r, DNAT)
	case p.word(string(SNAT)):
		p.translation(r, SNAT)
	}
}

// translation consumes what another address is taken from.
func (p *ruleParser) translation(r *Rule, v Verdict) {
	r.Verdict, r.Addr = v, p.next()
	if !p.word("to") {
		p.fail("to")
	}
	r.Key = p.fields()
	if !p.word("map") {
		p.fail("map")
	}
	r.Target = p.ref()
}

// fields consumes a concatenation of fields, or nothing.
func (p *ruleParser) fields() []Field {
	var fs []Field
	for {
		i := slices.IndexFunc(fields[:], func(f Field) bool { return p.word(string(f)) })
		if i < 0 {
			if len(fs) > 0 {
				p.fail("a field")
			}
			return fs
		}
		fs = append(fs, fields[i])
		if !p.word(".") {
			return fs
		}
	}
}

// ref consumes the name of a set or map: "@name".
func (p *ruleParser) ref() string {
	name, ok := strings.CutPrefix(p.next(), "@")
	if !ok {
		p.fail("@ and a name")
	}
	return name
}

func (p *ruleParser) match(fs []Field) Match {
	m := Match{Fields: fs}
	flags := len(fs) == 1 && fs[0].isFlags()
	m.Not = p.word("!=") || p.word("!")
	switch {
	case strings.HasPrefix(p.rest, "@"):
		m.Set = p.ref()
	case p.word("{"):
		for p.err == nil && !p.word("}") {
			m.Values = append(m.Values, strings.TrimSuffix(p.next(), ","))
		}
	case flags:
		m.Values = strings.Split(p.next(), ",")
	default:
		m.Values = []string{p.next()}
	}
	return m
}

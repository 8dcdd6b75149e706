package plan

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Limits of nf_tables(7) and of the marks vethloom keeps there.
const (
	maxName     = 255 // bytes, NFT_NAME_MAXLEN less the terminator
	maxScope    = 120 // bytes of an element's comment that nft(8) shows
	maxRuleText = 240 // bytes; the text is the rule's userdata (NFT_USERDATA_MAXLEN)
	maxKey      = 64  // bytes, NFT_DATA_VALUE_MAXLEN
)

// sizes are the lengths of a data type in bytes.
var sizes = map[DataType]int{
	TypeIfName: 16, TypeIPv4: 4, TypeIPv6: 16, TypeEther: 6, TypeInetProto: 1, TypePort: 2, TypeVerdict: 0,
}

// Validate tells what is wrong with the chain, naming the field.
func (c Chain) Validate() error {
	err := errors.Join(checkFamily(c.Family), checkName("chain", c.Name), c.Base.validate())
	for i, r := range c.Rules {
		if e := r.Validate(c.Family); e != nil {
			err = errors.Join(err, fmt.Errorf("rule %d %q: %w", i+1, r.String(), e))
		}
	}
	return wrapCheck(c, err)
}

func (b Base) validate() error {
	if b == (Base{}) {
		return nil
	}
	return errors.Join(
		oneOf("type", b.Type, "filter", "nat", "route"),
		oneOf("hook", b.Hook, "prerouting", "input", "forward", "output", "postrouting"),
		oneOf("policy", b.Policy, "accept", "drop"),
	)
}

// Validate tells what is wrong with the rule in a chain of the family f.
func (r Rule) Validate(f Family) error {
	var err error
	for _, m := range r.Match {
		if e := m.Validate(f); e != nil {
			err = errors.Join(err, fmt.Errorf("match %q: %w", m.String(), e))
		}
	}
	if n := len(r.String()); n > maxRuleText {
		err = errors.Join(err, fmt.Errorf("the text has %d bytes, at most %d fit: split the rule or name a set", n,
			maxRuleText))
	}
	return errors.Join(err, r.checkVerdict(f))
}

func (r Rule) checkVerdict(f Family) error {
	switch r.Verdict {
	case "":
		if !r.Counter {
			return errors.New("verdict is empty: a rule decides or counts")
		}
	case Accept, Drop, Return, Masquerade:
	case ClampMSS:
		syn := func(m Match) bool {
			return m.Fields[0] == TCPFlags && !m.Not && slices.Equal(m.Values, []string{"syn"})
		}
		if !slices.ContainsFunc(r.Match, syn) {
			return errors.New("only a SYN announces a segment size: match tcp flags syn")
		}
	case Jump:
		return checkName("target", r.Target)
	case VMap:
		return errors.Join(checkName("target", r.Target), checkFields(f, r.Key))
	case DNAT, SNAT:
		return errors.Join(checkName("target", r.Target), checkFields(f, r.Key), oneOf("addr", r.Addr, "ip", "ip6"))
	default:
		return fmt.Errorf("verdict %q is none of accept, drop, return, jump, vmap, masquerade, dnat, snat, %s",
			r.Verdict, ClampMSS)
	}
	if r.Target != "" || r.Addr != "" || len(r.Key) > 0 {
		return fmt.Errorf("verdict %q takes no target, key or addr", r.Verdict)
	}
	return nil
}

// Validate tells what is wrong with the match in a chain of the family f.
func (m Match) Validate(f Family) error {
	err := checkFields(f, m.Fields)
	switch {
	case m.Set != "" && len(m.Values) > 0:
		return errors.Join(err, errors.New("set and values exclude each other"))
	case m.Set != "":
		return errors.Join(err, checkName("set", m.Set))
	case len(m.Values) == 0:
		return errors.Join(err, errors.New("values and set are empty: one is needed"))
	case len(m.Fields) > 1:
		return errors.Join(err, errors.New("values work for one field: use a named set for a concatenation"))
	}
	for _, v := range m.Values {
		if v == "" || v == "." || strings.ContainsAny(v, " ,{}@!\"") {
			err = errors.Join(err, fmt.Errorf("value %q is not one word", v))
		}
	}
	return err
}

func checkFields(f Family, fs []Field) error {
	if len(fs) == 0 {
		return errors.New("no field is named")
	}
	for _, field := range fs {
		if !slices.Contains(fields[:], field) {
			return fmt.Errorf("field %q is unknown", field)
		}
		bridgeOnly := field == EtherSaddr || field == ARPSaddrIP || field == ARPSaddrEther
		if bridgeOnly && f != BridgeTable {
			return fmt.Errorf("field %q needs the bridge family", field)
		}
	}
	return nil
}

// Validate tells what is wrong with the set, naming the field.
func (s Set) Validate() error {
	err := errors.Join(checkFamily(s.Family), checkName("set", s.Name))
	if len(s.KeyTypes) == 0 {
		err = errors.Join(err, errors.New("key types are empty"))
	}
	err = errors.Join(err, checkTypes("key type", s.KeyTypes), checkTypes("data type", s.Data))
	if slices.Contains(s.KeyTypes, TypeVerdict) {
		err = errors.Join(err, errors.New("key type verdict: a verdict can only be data"))
	}
	if len(s.Data) > 1 && slices.Contains(s.Data, TypeVerdict) {
		err = errors.Join(err, errors.New("data type verdict cannot be concatenated"))
	}
	return wrapCheck(s, err)
}

func checkTypes(what string, ts []DataType) error {
	total := 0
	for _, t := range ts {
		n, ok := sizes[t]
		if !ok {
			return fmt.Errorf("%s %q is unknown", what, t)
		}
		total += (n + 3) / 4 * 4
	}
	if total > maxKey {
		return fmt.Errorf("the %ss have %d bytes together, at most %d fit", what, total, maxKey)
	}
	return nil
}

// Validate tells what is wrong with the element as a member of s. The parts'
// values are checked where they are encoded.
func (e Element) Validate(s Set) error {
	err := checkFamily(e.Family)
	if len(e.Keys) != len(s.KeyTypes) {
		err = errors.Join(err, fmt.Errorf("keys: %d parts, the set has %d", len(e.Keys), len(s.KeyTypes)))
	}
	if len(e.Data) != len(s.Data) {
		err = errors.Join(err, fmt.Errorf("data: %d parts, the set has %d", len(e.Data), len(s.Data)))
	}
	if len(e.Owner) > maxScope {
		err = errors.Join(err, fmt.Errorf("scope has %d bytes, at most %d fit", len(e.Owner), maxScope))
	}
	return wrapCheck(e, err)
}

func checkFamily(f Family) error {
	return oneOf("family", string(f), string(Inet), string(BridgeTable))
}

// checkName accepts what nft(8) reads back as an identifier.
func checkName(what, name string) error {
	if name == "" || len(name) > maxName {
		return fmt.Errorf("%s %q: a name has 1 to %d bytes", what, name, maxName)
	}
	for i, c := range []byte(name) {
		letter := c|0x20 >= 'a' && c|0x20 <= 'z'
		inner := c >= '0' && c <= '9' || c == '_' || c == '-' || c == '.'
		if !letter && (i == 0 || !inner) {
			return fmt.Errorf("%s %q: a name starts with a letter and holds letters, digits, '_', '-' and '.'", what,
				name)
		}
	}
	return nil
}

func oneOf(what, value string, allowed ...string) error {
	if slices.Contains(allowed, value) {
		return nil
	}
	return fmt.Errorf("%s %q is none of %s", what, value, strings.Join(allowed, ", "))
}

func wrapCheck(o Object, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %s: %w", KindOf(o), o.Key(), err)
}

package plan

import (
	"net/netip"
	"strconv"
	"strings"
)

// Unknown is the verdict of an observed rule that vethloom did not write or
// that was changed since: its Target says which. It never equals a wanted rule.
const Unknown Verdict = "unknown"

// Key identifies the chain: "inet forward".
func (c Chain) Key() string { return string(c.Family) + " " + c.Name }

// String is the chain with its rules, as nft(8) lists it but on one line. Two
// chains with the same text are the same.
func (c Chain) String() string {
	var b strings.Builder
	b.WriteString(string(c.Family) + " chain " + c.Name + " {")
	if c.Base != (Base{}) {
		b.WriteByte(' ')
		b.WriteString(c.Base.String())
	}
	for _, r := range c.Rules {
		b.WriteByte(' ')
		b.WriteString(r.String())
		b.WriteByte(';')
	}
	b.WriteString(" }")
	return b.String()
}

// String is the declaration of a base chain: "type filter hook forward priority 0; policy accept;".
func (b Base) String() string {
	return "type " + b.Type + " hook " + b.Hook + " priority " + strconv.Itoa(b.Priority) + "; policy " + b.Policy + ";"
}

// String is the rule in nft(8) syntax; see [ParseRule] for the way back.
func (r Rule) String() string {
	words := make([]string, 0, len(r.Match)+2)
	for _, m := range r.Match {
		words = append(words, m.String())
	}
	if r.Counter {
		words = append(words, "counter")
	}
	switch r.Verdict {
	case "":
	case Jump, Unknown:
		words = append(words, string(r.Verdict)+" "+r.Target)
	case VMap:
		words = append(words, joinFields(r.Key)+" vmap @"+r.Target)
	case DNAT, SNAT:
		words = append(words, string(r.Verdict)+" "+r.Addr+" to "+joinFields(r.Key)+" map @"+r.Target)
	default:
		words = append(words, string(r.Verdict))
	}
	return strings.Join(words, " ")
}

// String is the match in nft(8) syntax: "iifname . oifname @same", "ct state established,related".
func (m Match) String() string {
	flags := len(m.Fields) == 1 && m.Fields[0].isFlags()
	var b strings.Builder
	b.WriteString(joinFields(m.Fields))
	b.WriteByte(' ')
	switch {
	case m.Not && flags:
		b.WriteString("! ")
	case m.Not:
		b.WriteString("!= ")
	}
	switch {
	case m.Set != "":
		b.WriteString("@" + m.Set)
	case len(m.Values) == 1:
		b.WriteString(m.Values[0])
	case flags:
		b.WriteString(strings.Join(m.Values, ","))
	default:
		b.WriteString("{ " + strings.Join(m.Values, ", ") + " }")
	}
	return b.String()
}

// isFlags reports whether values of the field are bits, tested by a mask.
func (f Field) isFlags() bool { return f == CTState || f == CTStatus || f == TCPFlags }

func joinFields(fs []Field) string {
	parts := make([]string, len(fs))
	for i, f := range fs {
		parts[i] = string(f)
	}
	return strings.Join(parts, " . ")
}

func joinTypes(ts []DataType) string {
	parts := make([]string, len(ts))
	for i, t := range ts {
		parts[i] = string(t)
	}
	return strings.Join(parts, " . ")
}

// kind is the nft word for the set: set or map.
func (s Set) kind() string {
	if len(s.Data) > 0 {
		return "map"
	}
	return "set"
}

// Key identifies the set: "inet bridges". Maps and sets share their names.
func (s Set) Key() string { return string(s.Family) + " " + s.Name }

// String declares the set in nft(8) syntax: "inet map ports4 { type ipv4_addr . inet_service : ipv4_addr; flags
// interval; }".
func (s Set) String() string {
	text := string(s.Family) + " " + s.kind() + " " + s.Name + " { type " + joinTypes(s.KeyTypes)
	if len(s.Data) > 0 {
		text += " : " + joinTypes(s.Data)
	}
	text += ";"
	if s.Interval {
		text += " flags interval;"
	}
	return text + " }"
}

// Key identifies the element: "inet ports4 0.0.0.0/0 . tcp . 80". It
// is the same for every spelling of the key.
func (e Element) Key() string {
	return string(e.Family) + " " + e.Set + " " + joinParts(e.Keys)
}

// String is the element in nft(8) syntax, with its owner as the comment.
func (e Element) String() string {
	text := string(e.Family) + " element " + e.Set + " { " + joinParts(e.Keys)
	if e.Owner != "" {
		text += ` comment "` + string(e.Owner) + `"`
	}
	if len(e.Data) > 0 {
		text += " : " + joinParts(e.Data)
	}
	return text + " }"
}

func joinParts(parts []string) string {
	n := 3 * len(parts)
	for _, p := range parts {
		n += len(p)
	}
	var b strings.Builder
	b.Grow(n)
	for i, p := range parts {
		if i > 0 {
			b.WriteString(" . ")
		}
		b.WriteString(CanonicalPart(p))
	}
	return b.String()
}

// CanonicalPart is the one spelling of a part of an element's key or data that
// an observation yields: a prefix of full length is an address, host bits are
// cleared, a range that is a prefix or a single value is written as that, and
// addresses are lower case and compressed (RFC 5952).
func CanonicalPart(s string) string {
	if from, to, ok := strings.Cut(s, "-"); ok {
		return canonicalRange(s, from, to)
	}
	if strings.IndexByte(s, '/') >= 0 {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return s
		}
		if p.IsSingleIP() {
			return p.Addr().String()
		}
		return p.Masked().String()
	}
	if strings.Count(s, ":") >= 2 && len(s) != len("02:42:0a:01:00:02") {
		if a, err := netip.ParseAddr(s); err == nil {
			return a.String()
		}
	}
	return s
}

func canonicalRange(s, from, to string) string {
	if a, err := strconv.ParseUint(from, 10, 16); err == nil {
		b, err := strconv.ParseUint(to, 10, 16)
		switch {
		case err != nil:
			return s
		case a == b:
			return strconv.FormatUint(a, 10)
		}
		return strconv.FormatUint(a, 10) + "-" + strconv.FormatUint(b, 10)
	}
	a, err := netip.ParseAddr(from)
	if err != nil {
		return s
	}
	b, err := netip.ParseAddr(to)
	if err != nil || a.BitLen() != b.BitLen() {
		return s
	}
	return RangeText(a, b)
}

func (c Chain) about() about { return about{kind: "chain"} }

func (s Set) about() about { return about{kind: "set"} }

func (e Element) about() about { return about{kind: "element", owner: e.Owner} }

package iptables

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/vethloom/vethloom/plan"
)

// unsupportedError tells what iptables cannot say, and what to do instead. It is a [plan.ErrUnsupported].
type unsupportedError struct{ what, remedy string }

func (e *unsupportedError) Error() string {
	return "iptables cannot express " + e.what + ": start netd with --firewall nftables" + e.remedy
}

func (e *unsupportedError) Unwrap() error { return plan.ErrUnsupported }

func unsupported(what string) error { return &unsupportedError{what: what} }

// condition is what one rule of iptables asks: one value a field, or none of it.
type condition []plan.Match

// with adds a match of one value. It reports false where the condition can no longer hold.
func (c condition) with(m plan.Match) (condition, bool, error) {
	f := m.Fields[0]
	i := slices.IndexFunc(c, func(o plan.Match) bool { return o.Fields[0] == f })
	if i < 0 {
		return append(slices.Clip(c), m), true, nil
	}
	old := c[i]
	same := slices.Equal(old.Values, m.Values)
	if same {
		return c, old.Not == m.Not, nil
	}
	switch f {
	case plan.CTState, plan.CTStatus, plan.TCPFlags:
		return append(slices.Clip(c), m), true, nil
	case plan.IIfName, plan.OIfName, plan.L4Proto:
		switch {
		case !old.Not && !m.Not:
			return nil, false, nil
		case !old.Not:
			return c, true, nil
		case !m.Not:
			out := slices.Clone(c)
			out[i] = m
			return out, true, nil
		}
	}
	return nil, false, unsupported(fmt.Sprintf("two values of %q", f))
}

// args writes the condition in the order of iptables-save.
func (c condition) args(fam family) (string, error) {
	c = slices.Clone(c)
	slices.SortStableFunc(c, func(a, b plan.Match) int { return rank(a.Fields[0]) - rank(b.Fields[0]) })
	proto := ""
	var out []string
	for _, m := range c {
		if m.Fields[0] == plan.L4Proto && !m.Not {
			proto = m.Values[0]
		}
		text, err := arg(fam, m, proto)
		if err != nil {
			return "", err
		}
		if text != "" {
			out = append(out, text)
		}
	}
	return strings.Join(out, " "), nil
}

// rank is the place of a field in what iptables-save prints.
func rank(f plan.Field) int {
	return slices.Index([]plan.Field{
		plan.IPSaddr, plan.IP6Saddr, plan.IPDaddr, plan.IP6Daddr, plan.IIfName, plan.OIfName, plan.L4Proto,
		plan.SPort, plan.DPort, plan.TCPFlags, plan.ICMPv6Type, plan.FIBDaddrType, plan.CTState,
		plan.CTStatus, plan.CTDirection,
		plan.Mark, plan.FIBSaddrOIf,
	}, f)
}

func arg(fam family, m plan.Match, proto string) (string, error) {
	not := ""
	if m.Not {
		not = "! "
	}
	f, v := m.Fields[0], m.Values[0]
	switch f {
	case plan.IPSaddr, plan.IP6Saddr:
		return addrArg(not+"-s ", v)
	case plan.IPDaddr, plan.IP6Daddr:
		return addrArg(not+"-d ", v)
	case plan.IIfName:
		return not + "-i " + v, checkLink(v)
	case plan.OIfName:
		return not + "-o " + v, checkLink(v)
	case plan.L4Proto:
		return not + "-p " + v, nil
	case plan.SPort, plan.DPort:
		if proto == "" {
			return "", unsupported("a port of any protocol")
		}
		return fmt.Sprintf("-m %s %s--%sport %s", proto, not, f[3:4], strings.Replace(v, "-", ":", 1)), nil
	case plan.TCPFlags:
		if m.Not || len(m.Values) > 1 || proto != "tcp" {
			return "", unsupported(fmt.Sprintf("%q", m.String()))
		}
		flag := strings.ToUpper(v)
		return "-m tcp --tcp-flags " + flag + " " + flag, nil
	case plan.FIBDaddrType:
		return "-m addrtype " + not + "--dst-type " + strings.ToUpper(v), nil
	case plan.CTState, plan.CTStatus:
		return "-m conntrack " + not + "--ctstate " + states(m.Values), nil
	case plan.CTDirection:
		return "-m conntrack " + not + "--ctdir " + strings.ToUpper(v), nil
	case plan.FIBSaddrOIf:
		return "-m rpfilter --invert", nil
	case plan.Mark:
		return "-m mark " + not + "--mark " + v, nil
	}
	return icmpArg(fam, m, not)
}

func icmpArg(fam family, m plan.Match, not string) (string, error) {
	types := map[string]string{"nd-router-advert": "134", "nd-neighbor-solicit": "135", "nd-neighbor-advert": "136",
		"nd-redirect": "137"}
	n, ok := types[m.Values[0]]
	if m.Fields[0] != plan.ICMPv6Type || fam.bits == 32 || !ok {
		return "", unsupported(fmt.Sprintf("%q", m.String()))
	}
	return "-m icmp6 " + not + "--icmpv6-type " + n, nil
}

func addrArg(option, v string) (string, error) {
	if a, err := netip.ParseAddr(v); err == nil {
		return option + netip.PrefixFrom(a, a.BitLen()).String(), nil
	}
	p, err := netip.ParsePrefix(v)
	switch {
	case err != nil:
		return "", unsupported(fmt.Sprintf("addresses %q", v))
	case p.Bits() == 0 && !strings.HasPrefix(option, "!"):
		return "", nil
	}
	return option + p.Masked().String(), nil
}

// states writes those of conntrack in the order of iptables-save.
func states(values []string) string {
	var out []string
	for _, s := range []string{"INVALID", "NEW", "RELATED", "ESTABLISHED", "SNAT", "DNAT"} {
		if slices.Contains(values, strings.ToLower(s)) {
			out = append(out, s)
		}
	}
	return strings.Join(out, ",")
}

// checkLink refuses names that iptables reads as something else.
func checkLink(name string) error {
	if strings.ContainsAny(name, "\"'\\") || strings.HasSuffix(name, "+") || name == "" || strings.ContainsAny(name[:1],
		"-!#") {
		return &unsupportedError{"a link named " + strconv.Quote(name), ", or choose another name"}
	}
	return nil
}

package plan

import (
	"fmt"
	"net/netip"
)

// PolicyRule has packets with a source in From look into a routing table of their own before the main one (ip-rule(8)).
// It carries protocol number [Protocol].
type PolicyRule struct {
	NS       NetNS
	Priority uint32 // the lowest is asked first; the main table has 32766
	From     netip.Prefix
	Table    uint32
}

// Key is all there is of it.
func (r PolicyRule) Key() string {
	return in(r.NS, fmt.Sprintf("%d %s %d", r.Priority, r.From.Masked(), r.Table))
}

func (r PolicyRule) String() string {
	return words(r.NS, "rule", fmt.Sprint(r.Priority), "from", r.From.Masked().String(), "lookup", fmt.Sprint(r.Table))
}

func (r PolicyRule) about() about { return about{kind: "policy", ns: r.NS} }

func policyKind() kind {
	return plain("policy", func(s *State) *[]PolicyRule { return &s.Policies }, nil)
}

package nftables

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/internal/kern/attr"
	"github.com/vethloom/vethloom/plan"
)

// recognise finds out which rule of a plan the kernel has: the one whose text it
// carries, if that is what the expressions say as well.
func recognise(f plan.Family, r readRule, sets map[string]plan.Set) plan.Rule {
	unknown := plan.Rule{Verdict: plan.Unknown, Target: fmt.Sprintf("handle %d", handleNumber(r.handle))}
	if r.text == "" {
		return unknown
	}
	rule, err := plan.ParseRule(r.text)
	if err != nil {
		return unknown
	}
	out, err := compileIn(f, rule, sets)
	if err != nil || len(out.exprs) != len(r.exprs) {
		return unknown
	}
	for i, e := range out.exprs {
		raw, err := expr.Marshal(familyNumber(f), e)
		if err != nil || !sameExpr(raw, r.exprs[i]) {
			return unknown
		}
	}
	return rule
}

// handleNumber reads NFTA_RULE_HANDLE, 64 bits in network byte order.
func handleNumber(b []byte) (n uint64) {
	for _, c := range b {
		n = n<<8 | uint64(c)
	}
	return n
}

// sameExpr compares an expression as it was sent with what the kernel has. The
// kernel's may say more (it fills defaults in) or less (what it has no use for once the
// rule stands), and never says something else.
func sameExpr(sent, have []byte) bool {
	name, want := splitExpr(sent)
	haveName, got := splitExpr(have)
	switch {
	case name != haveName:
		return false
	case name == "counter":
		return true // its content is what it counted
	case name == "lookup" && strings.HasPrefix(lookupSet(want), "__set"):
		return strings.HasPrefix(lookupSet(got), "__set") &&
			sameAttrs(want, got, unix.NFTA_LOOKUP_SET, unix.NFTA_LOOKUP_SET_ID)
	case name == "lookup":
		return sameAttrs(want, got, unix.NFTA_LOOKUP_SET_ID)
	}
	return sameAttrs(want, got)
}

func splitExpr(b []byte) (name string, data []byte) {
	for typ, content := range attr.All(b) {
		switch typ {
		case unix.NFTA_EXPR_NAME:
			name = attr.Text(content)
		case unix.NFTA_EXPR_DATA:
			data = content
		}
	}
	return name, data
}

func lookupSet(b []byte) string {
	for typ, content := range attr.All(b) {
		if typ == unix.NFTA_LOOKUP_SET {
			return attr.Text(content)
		}
	}
	return ""
}

func sameAttrs(sent, have []byte, except ...uint16) bool {
	for flagged, want := range attr.Flagged(sent) {
		typ := flagged & attr.Mask
		if slices.Contains(except, typ) {
			continue
		}
		for haveTyp, got := range attr.All(have) {
			if haveTyp != typ || bytes.Equal(got, want) {
				continue
			}
			if flagged&unix.NLA_F_NESTED == 0 || !sameAttrs(want, got) {
				return false
			}
		}
	}
	return true
}

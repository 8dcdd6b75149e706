package cnm

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vethloom/vethloom/plan"
)

// MaxName is the longest name of a network, in bytes.
const MaxName = 128

// MaxGwPriority bounds an endpoint's gateway priority in both directions.
const MaxGwPriority = 1000

// CheckName refuses what cannot be a network's name; field is what the
// request calls it.
func CheckName(field, name string) error {
	const remedy = "use letters, digits, '_', '.' and '-', starting with a letter or digit"
	bad := func(reason string) error {
		return &Error{Kind: ErrInvalid, Field: field, Value: name, Reason: reason, Remedy: remedy}
	}
	if name == "" {
		return bad("empty")
	}
	if len(name) > MaxName {
		return bad(fmt.Sprintf("%d bytes long, at most %d are allowed", len(name), MaxName))
	}
	for i, r := range name {
		if isAlnum(r) || i > 0 && strings.ContainsRune("_.-", r) {
			continue
		}
		if i == 0 {
			return bad(fmt.Sprintf("starts with %q", r))
		}
		return bad(fmt.Sprintf("has %q in it", r))
	}
	return nil
}

func isAlnum(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
}

// FieldNetNS is the field of errors about a network namespace that somebody else has made.
const FieldNetNS = "network namespace"

// CheckID refuses what cannot be a sandbox's ID.
func CheckID(id string) error {
	ok := len(id) >= ShortLen && len(id) <= 64 && strings.Trim(id, "0123456789abcdef") == ""
	if ok {
		return nil
	}
	return &Error{
		Kind: ErrInvalid, Field: "sandbox", Value: id, Reason: fmt.Sprintf("not an ID of %d to 64 hex digits",
			ShortLen),
		Remedy: "use lower-case hex digits, or leave it empty to have one made",
	}
}

// CheckMAC refuses addresses that no interface can have (IEEE 802: the lowest
// bit of the first byte marks a group). The zero value asks for a derived one.
func CheckMAC(m plan.MAC) error {
	if m[0]&1 == 0 {
		return nil
	}
	return &Error{
		Kind: ErrInvalid, Field: "MAC address", Value: m.String(),
		Reason: "a multicast address: the lowest bit of its first byte is set",
		Remedy: "choose a unicast one such as 02:42:0a:01:00:02",
	}
}

// Check refuses a pool of a cluster's record that no addresses can be of.
func (p Pool) Check() error {
	bad := func(field string, value netip.Prefix, reason string) error {
		return &Error{Kind: ErrInvalid, Field: field, Value: value.String(), Reason: reason,
			Remedy: "correct the network's record"}
	}
	within := func(q netip.Prefix) bool {
		return q.IsValid() && q == q.Masked() && q.Bits() >= p.Subnet.Bits() && p.Subnet.Contains(q.Addr())
	}
	if p.Subnet.Addr().Is4In6() || !within(p.Subnet) {
		return bad("subnet", p.Subnet, "not a subnet")
	}
	if !within(p.Range) {
		return bad("ip-range", p.Range, "not a part of the subnet "+p.Subnet.String())
	}
	for i, b := range p.Blocks {
		if !within(b) {
			return bad("block", b, "not a part of the subnet "+p.Subnet.String())
		}
		if slices.ContainsFunc(p.Blocks[:i], b.Overlaps) {
			return bad("block", b, "overlaps another one")
		}
	}
	return nil
}

package cnm

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vethloom/vethloom/internal/plan"
)

// MaxName is the longest name of a network, in bytes.
const MaxName = 128

// MaxPriority bounds an endpoint's gateway priority in both directions.
const MaxPriority = 1000

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

// checkID refuses what cannot be a sandbox's ID.
func checkID(id string) error {
	ok := len(id) >= ShortLen && len(id) <= 64 && strings.Trim(id, "0123456789abcdef") == ""
	if ok {
		return nil
	}
	return &Error{
		Kind: ErrInvalid, Field: "sandbox", Value: id, Reason: fmt.Sprintf("not an ID of %d to 64 hex digits", ShortLen),
		Remedy: "use lower-case hex digits, or leave it empty to have one made",
	}
}

func checkAttach(r AttachRequest) error {
	if r.Priority < -MaxPriority || r.Priority > MaxPriority {
		return &Error{
			Kind: ErrInvalid, Field: "gateway priority", Value: fmt.Sprint(r.Priority), Reason: "out of range",
			Remedy: fmt.Sprintf("choose one from -%d to %d; the highest provides the default route", MaxPriority, MaxPriority),
		}
	}
	for _, a := range r.Aliases {
		if err := CheckName("alias", a); err != nil {
			return err
		}
	}
	for i, a := range r.Addrs {
		if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() || a.Zone() != "" {
			return &Error{
				Kind: ErrInvalid, Field: "address", Value: a.String(), Reason: "not an address an endpoint can have",
				Remedy: "ask for a unicast address of the network's subnet",
			}
		}
		for _, b := range r.Addrs[:i] {
			if a.Unmap().Is4() == b.Unmap().Is4() {
				return &Error{
					Kind: ErrInvalid, Field: "address", Value: a.String(), Reason: fmt.Sprintf("%s of the same family is asked for too", b),
					Remedy: "ask for at most one address of each family",
				}
			}
		}
	}
	return checkMAC(r.MAC)
}

// checkMAC refuses addresses that no interface can have (IEEE 802: the lowest
// bit of the first byte marks a group). The zero value asks for a derived one.
func checkMAC(m plan.MAC) error {
	if m[0]&1 == 0 {
		return nil
	}
	return &Error{
		Kind: ErrInvalid, Field: "MAC address", Value: m.String(), Reason: "a multicast address: the lowest bit of its first byte is set",
		Remedy: "choose a unicast one such as 02:42:0a:01:00:02",
	}
}

// checkPool refuses a pool of a cluster's record that no addresses can be of.
func checkPool(p Pool) error {
	bad := func(field string, value netip.Prefix, reason string) error {
		return &Error{Kind: ErrInvalid, Field: field, Value: value.String(), Reason: reason, Remedy: "correct the network's record"}
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

func notFound(field, value string, known []string) error {
	e := &Error{Kind: ErrNotFound, Field: field, Value: value, Reason: "not found"}
	if near := nearest(value, known); len(near) > 0 {
		e.Remedy = "did you mean " + joinNames(near) + "?"
	} else if len(known) > 0 && len(known) <= 8 {
		e.Remedy = "there are " + joinNames(known)
	}
	return e
}

// nearest are the known names that differ from the given one by a slip of the
// keyboard, or hold it.
func nearest(name string, known []string) []string {
	var near []string
	for _, k := range known {
		a, b := strings.ToLower(name), strings.ToLower(k)
		if distance(a, b) <= max(1, len(a)/3) || len(a) > 2 && strings.Contains(b, a) {
			near = append(near, k)
		}
	}
	return near[:min(len(near), 5)]
}

// distance counts the insertions, deletions, substitutions and swaps of
// neighbours between a and b.
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}

func joinNames(names []string) string {
	names = slices.Clone(names)
	for i := range names {
		names[i] = fmt.Sprintf("%q", names[i])
	}
	return strings.Join(names, ", ")
}

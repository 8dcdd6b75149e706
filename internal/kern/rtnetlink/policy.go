package rtnetlink

import (
	"errors"
	"net/netip"

	"github.com/vethloom/vethloom/internal/kern/attr"
	"github.com/vethloom/vethloom/plan"
	"golang.org/x/sys/unix"
)

// What linux/fib_rules.h has and no library names.
const (
	sizeofFibRule = 12 // struct fib_rule_hdr
	frActToTable  = 1
	fraProtocol   = 21 // FRA_PROTOCOL, kernel 4.17
)

func policyMsg(r plan.PolicyRule) *attr.Builder {
	from := r.From.Masked()
	a := attr.After(sizeofFibRule)
	a.B[0], a.B[2] = Family(from.Addr()), byte(from.Bits())
	if r.Table < 256 {
		a.B[4] = byte(r.Table)
	}
	a.B[7] = frActToTable
	a.Bytes(unix.FRA_SRC, from.Addr().AsSlice())
	a.U32(unix.FRA_PRIORITY, r.Priority)
	a.U32(unix.FRA_TABLE, r.Table)
	a.U8(fraProtocol, plan.Protocol)
	return a
}

func NewPolicy(r plan.PolicyRule) Request {
	return Request{Kind: unix.RTM_NEWRULE, flags: createFlags, Data: policyMsg(r).B, Settled: []unix.Errno{unix.EEXIST}}
}

func DelPolicy(r plan.PolicyRule) Request {
	return Request{Kind: unix.RTM_DELRULE, Data: policyMsg(r).B, Settled: []unix.Errno{unix.ENOENT, unix.ESRCH}}
}

// DumpPolicies reads the rules that carry our mark. A kernel without policy routing has none.
func (c *Conn) DumpPolicies(each func(plan.PolicyRule)) error {
	err := c.Dump(unix.RTM_GETRULE, make([]byte, sizeofFibRule), func(b []byte) error {
		r, ours, err := parsePolicy(b)
		if err == nil && ours {
			each(r)
		}
		return err
	})
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return err
}

func parsePolicy(b []byte) (r plan.PolicyRule, ours bool, err error) {
	if len(b) < sizeofFibRule {
		return r, false, ErrShort
	}
	from := netip.IPv6Unspecified()
	if b[0] == unix.AF_INET {
		from = netip.IPv4Unspecified()
	}
	r.Table = uint32(b[4])
	err = attr.Each(b[sizeofFibRule:], func(kind uint16, v []byte) error {
		switch kind {
		case unix.FRA_SRC:
			from, _ = netip.AddrFromSlice(v)
		case unix.FRA_PRIORITY:
			r.Priority = attr.U32(v)
		case unix.FRA_TABLE:
			r.Table = attr.U32(v)
		case fraProtocol:
			ours = attr.U8(v) == plan.Protocol
		}
		return nil
	})
	r.From = netip.PrefixFrom(from, int(b[2]))
	return r, ours, err
}

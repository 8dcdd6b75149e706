package plan

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// ConntrackFlush selects connection tracking entries to forget, because a rule that decided
// them has changed. It is never observed; [Diff] derives it from port map elements
// and endpoint addresses that come, go or change.
type ConntrackFlush struct {
	Proto L4     // with Dst: the transport
	Dst   string // original destination "addr:port" or "addr:from-to"; addr may be a prefix
	From  string // with Dst: spare flows of sources that are not in this prefix
	Keep  string // with Dst: spare flows that already lead there, "addr" or "addr:port"
	Addr  string // or: every flow that an address is the original or reply source of
}

// Key is the whole selection.
func (f ConntrackFlush) Key() string { return strings.TrimPrefix(f.String(), "flow ") }

func (f ConntrackFlush) String() string {
	if f.Addr != "" {
		return "flow of " + f.Addr
	}
	text := "flow " + string(f.Proto) + " to " + f.Dst
	if f.From != "" {
		text += " from " + f.From
	}
	if f.Keep != "" {
		text += " unless at " + f.Keep
	}
	return text
}

// Target parses Dst: the prefix of original destinations and the ports, from
// and to inclusive.
func (f ConntrackFlush) Target() (dst netip.Prefix, from, to uint16, err error) {
	i := strings.LastIndexByte(f.Dst, ':')
	if i < 0 {
		return dst, 0, 0, fmt.Errorf("flow destination %q: want address:port", f.Dst)
	}
	host := strings.TrimSuffix(strings.TrimPrefix(f.Dst[:i], "["), "]")
	if dst, err = parsePrefix(host); err != nil {
		return dst, 0, 0, fmt.Errorf("flow destination %q: %w", f.Dst, err)
	}
	if from, to, err = parsePorts(f.Dst[i+1:]); err != nil {
		return dst, 0, 0, fmt.Errorf("flow destination %q: %w", f.Dst, err)
	}
	return dst, from, to, nil
}

func parsePrefix(s string) (netip.Prefix, error) {
	if strings.Contains(s, "/") {
		return netip.ParsePrefix(s)
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Prefix{}, err
	}
	return netip.PrefixFrom(a, a.BitLen()), nil
}

func parsePorts(s string) (from, to uint16, err error) {
	a, b, isRange := strings.Cut(s, "-")
	if !isRange {
		b = a
	}
	low, err := strconv.ParseUint(a, 10, 16)
	if err != nil {
		return 0, 0, fmt.Errorf("port %q: %w", a, err)
	}
	high, err := strconv.ParseUint(b, 10, 16)
	if err != nil {
		return 0, 0, fmt.Errorf("port %q: %w", b, err)
	}
	if high < low {
		return 0, 0, fmt.Errorf("ports %q: the end is before the start", s)
	}
	return uint16(low), uint16(high), nil
}

func (f ConntrackFlush) about() about { return about{kind: "flow"} }

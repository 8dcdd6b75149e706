package conntrack

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/vethloom/vethloom/internal/kern/netns"
	"github.com/vethloom/vethloom/internal/kern/rtnetlink"
	"github.com/vethloom/vethloom/plan"
	"github.com/vishvananda/netlink"
	vnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// protoNumbers are the IP protocol numbers of the transports.
var protoNumbers = map[plan.L4]uint8{plan.TCP: unix.IPPROTO_TCP, plan.UDP: unix.IPPROTO_UDP,
	plan.SCTP: unix.IPPROTO_SCTP}

// walkPause keeps a burst of changes from walking the table for each.
const walkPause = 100 * time.Millisecond

// Flows has connections of one network namespace forgotten.
type Flows struct {
	ns    int // descriptor of the namespace
	log   *slog.Logger
	tasks sync.WaitGroup
	ended chan struct{}

	mu      sync.Mutex
	filters map[bool][]matcher // by family: true is IPv6; what is still to be forgotten
	walking bool
}

// Open works in the namespace nsFd refers to, which stays open until close.
func Open(nsFd int, log *slog.Logger) *Flows {
	return &Flows{ns: nsFd, log: log, ended: make(chan struct{})}
}

// Close waits for the last walk.
func (f *Flows) Close() {
	close(f.ended)
	f.tasks.Wait()
}

// Purge has the connection tracking entries forgotten that any of the operations selects.
// The kernel only finds them by a walk of the whole table, which takes 10 ms and more with the usual
// sizes. Nobody waits for that: the rules have changed already, and a flow that
// lives on for those milliseconds goes where it went before. Whatever
// comes meanwhile, and until walkPause is over, shares the next walk. [Flows.Close] waits for the last.
func (f *Flows) Purge(ops []plan.Op) error {
	filters := map[bool][]matcher{}
	for _, op := range ops {
		m, is6, err := matcherOf(op.Object.(plan.ConntrackFlush))
		if err != nil {
			return &plan.OpError{Op: op, Err: err}
		}
		filters[is6] = append(filters[is6], m)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.filters == nil {
		f.filters = map[bool][]matcher{}
	}
	for is6, m := range filters {
		f.filters[is6] = append(f.filters[is6], m...)
	}
	if !f.walking {
		f.walking = true
		f.tasks.Go(f.walk)
	}
	return nil
}

// walk walks the table until no selection is left.
func (f *Flows) walk() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.filters) > 0 {
		filters := f.filters
		f.filters = nil
		f.mu.Unlock()
		if err := f.forget(filters); err != nil {
			f.log.Error("connections that a change has cut off are not forgotten; they end when they expire", "err",
				err)
		}
		select {
		case <-time.After(walkPause):
		case <-f.ended:
		}
		f.mu.Lock()
	}
	f.walking = false
}

// forget removes the entries that the matchers of their family select. A kernel
// without connection tracking has none.
func (f *Flows) forget(filters map[bool][]matcher) error {
	if any, err := f.tracked(); err != nil || !any {
		return err
	}
	h, err := netlink.NewHandleAt(vnetns.NsHandle(f.ns), unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("open a netfilter socket: %w", err)
	}
	defer h.Close()
	local, err := f.localAddrs()
	if err != nil {
		return err
	}
	for is6, any := range filters {
		family := netlink.InetFamily(unix.AF_INET)
		if is6 {
			family = unix.AF_INET6
		}
		_, err := h.ConntrackDeleteFilters(netlink.ConntrackTable, family, &flowFilter{any: any, local: local})
		if err != nil && !rtnetlink.ErrnoIs(err, unix.EINVAL, unix.EOPNOTSUPP, unix.EPROTONOSUPPORT) {
			return fmt.Errorf("forget connections: %w", err)
		}
	}
	return nil
}

// tracked reports whether there is a connection tracking entry at all. A walk of the
// table visits every bucket, entries or not: 10 ms and more with the usual sizes.
func (f *Flows) tracked() (any bool, err error) {
	err = netns.Enter(f.ns, func() error {
		b, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_count")
		any = err == nil && strings.TrimSpace(string(b)) != "0"
		if errors.Is(err, fs.ErrNotExist) {
			return nil // no connection tracking
		}
		return err
	})
	if err != nil {
		return false, fmt.Errorf("count the connections: %w", err)
	}
	return any, nil
}

// localAddrs are the addresses of the namespace.
func (f *Flows) localAddrs() (map[netip.Addr]bool, error) {
	c, err := rtnetlink.Dial(f.ns) // not a shared one: its owner may be closing
	if err != nil {
		return nil, err
	}
	defer c.Close()
	local := map[netip.Addr]bool{}
	err = c.Dump(unix.RTM_GETADDR, make([]byte, unix.SizeofIfAddrmsg), func(b []byte) error {
		a, err := rtnetlink.ParseAddr(b)
		local[a.Prefix.Addr()] = true
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list the addresses: %w", err)
	}
	return local, nil
}

// flowFilter selects the flows that any of its matchers does.
type flowFilter struct {
	any   []matcher
	local map[netip.Addr]bool
}

// flow is what matchers look at.
type flow struct {
	proto            uint8
	dst              netip.AddrPort // as the first packet had it
	src              netip.Addr
	reply            netip.AddrPort // where answers come from
	translated, here bool           // dst was rewritten; dst is an address of this host
}

type matcher func(flow) bool

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (f *flowFilter) MatchConntrackFlow(c *netlink.ConntrackFlow) bool {
	dst := addrOf(c.Forward.DstIP)
	x := flow{
		proto: c.Forward.Protocol,
		dst:   netip.AddrPortFrom(dst, c.Forward.DstPort),
		src:   addrOf(c.Forward.SrcIP),
		reply: netip.AddrPortFrom(addrOf(c.Reverse.SrcIP), c.Reverse.SrcPort),
		here:  f.local[dst] || dst.IsLoopback(),
	}
	x.translated = x.reply != x.dst
	for _, m := range f.any {
		if m(x) {
			return true
		}
	}
	return false
}

func addrOf(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

// matcherOf turns the selection into a test, and tells the family.
func matcherOf(f plan.ConntrackFlush) (matcher, bool, error) {
	if f.Addr != "" {
		a, err := netip.ParseAddr(f.Addr)
		if err != nil {
			return nil, false, err
		}
		return func(x flow) bool { return x.src == a || x.reply.Addr() == a }, a.Is6(), nil
	}
	proto, ok := protoNumbers[f.Proto]
	if !ok {
		return nil, false, fmt.Errorf("transport %q: want tcp, udp or sctp", f.Proto)
	}
	dst, from, to, err := f.Target()
	if err != nil {
		return nil, false, err
	}
	kept, err := keeper(f.Keep)
	if err != nil {
		return nil, false, err
	}
	sources, err := sourcesOf(f.From)
	if err != nil {
		return nil, false, err
	}
	// A prefix stands for this host's addresses in it: the same port of
	// another host is none of our business.
	one := dst.IsSingleIP()
	return func(x flow) bool {
		return x.proto == proto && x.dst.Port() >= from && x.dst.Port() <= to &&
			dst.Contains(x.dst.Addr()) && (one || x.here) && sources(x.src) && !(x.translated && kept(x.reply))
	}, dst.Addr().Is6(), nil
}

// sourcesOf tells which sources are meant.
func sourcesOf(from string) (func(netip.Addr) bool, error) {
	if from == "" {
		return func(netip.Addr) bool { return true }, nil
	}
	if a, err := netip.ParseAddr(from); err == nil {
		return func(x netip.Addr) bool { return x == a }, nil
	}
	p, err := netip.ParsePrefix(from)
	if err != nil {
		return nil, fmt.Errorf("source of flows %q: want an address or a prefix: %w", from, err)
	}
	return p.Contains, nil
}

// keeper tells which flows are right as they are.
func keeper(keep string) (func(netip.AddrPort) bool, error) {
	if keep == "" {
		return func(netip.AddrPort) bool { return false }, nil
	}
	if ap, err := netip.ParseAddrPort(keep); err == nil {
		return func(x netip.AddrPort) bool { return x == ap }, nil
	}
	a, err := netip.ParseAddr(keep)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("flow to keep %q: want an address or address:port", keep), err)
	}
	return func(x netip.AddrPort) bool { return x.Addr() == a }, nil
}

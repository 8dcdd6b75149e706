package kern

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/vethloom/vethloom/internal/plan"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// protoNumbers are the IP protocol numbers of the transports.
var protoNumbers = map[plan.L4]uint8{plan.TCP: unix.IPPROTO_TCP, plan.UDP: unix.IPPROTO_UDP, plan.SCTP: unix.IPPROTO_SCTP}

// walkPause keeps a burst of changes from walking the table for each.
const walkPause = 100 * time.Millisecond

// purges are the selections of flows that are still to be forgotten.
type purges struct {
	mu      sync.Mutex
	filters map[bool][]matcher // by family: true is IPv6
	walking bool
}

// purge has the connection tracking entries forgotten that any of the operations selects.
// The kernel only finds them by a walk of the whole table, which takes 10 ms and more with the usual
// sizes. Nobody waits for that: the rules have changed already, and a flow that
// lives on for those milliseconds goes where it went before. Whatever
// comes meanwhile, and until walkPause is over, shares the next walk. [Kernel.Close] waits for the last.
func (k *Kernel) purge(ops []plan.Op) error {
	filters := map[bool][]matcher{}
	for _, op := range ops {
		m, is6, err := k.matcher(op.Object.(plan.Flow))
		if err != nil {
			return &plan.OpError{Op: op, Err: err}
		}
		filters[is6] = append(filters[is6], m)
	}
	p := &k.purges
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.filters == nil {
		p.filters = map[bool][]matcher{}
	}
	for is6, m := range filters {
		p.filters[is6] = append(p.filters[is6], m...)
	}
	if !p.walking {
		p.walking = true
		k.tasks.Go(k.walkFlows)
	}
	return nil
}

// walkFlows walks the table until no selection is left.
func (k *Kernel) walkFlows() {
	p := &k.purges
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.filters) > 0 {
		filters := p.filters
		p.filters = nil
		p.mu.Unlock()
		if err := k.forget(filters); err != nil {
			k.log.Error("connections that a change has cut off are not forgotten; they end when they expire", "err", err)
		}
		select {
		case <-time.After(walkPause):
		case <-k.life.Done():
		}
		p.mu.Lock()
	}
	p.walking = false
}

// forget removes the entries that the matchers of their family select. A kernel
// without connection tracking has none.
func (k *Kernel) forget(filters map[bool][]matcher) error {
	if any, err := k.tracksFlows(); err != nil || !any {
		return err
	}
	h, err := netlink.NewHandleAt(netns.NsHandle(k.fd()), unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("open a netfilter socket: %w", err)
	}
	defer h.Close()
	local, err := k.localAddrs()
	if err != nil {
		return err
	}
	for is6, any := range filters {
		family := netlink.InetFamily(unix.AF_INET)
		if is6 {
			family = unix.AF_INET6
		}
		_, err := h.ConntrackDeleteFilters(netlink.ConntrackTable, family, &flowFilter{any: any, local: local})
		if err != nil && !errnoIs(err, unix.EINVAL, unix.EOPNOTSUPP, unix.EPROTONOSUPPORT) {
			return fmt.Errorf("forget connections: %w", err)
		}
	}
	return nil
}

// tracksFlows tells whether there is a connection tracking entry at all. A walk of the
// table visits every bucket, entries or not: 10 ms and more with the usual sizes.
func (k *Kernel) tracksFlows() (any bool, err error) {
	err = inNetNS(k.fd(), func() error {
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

// localAddrs are the addresses of the fabric's namespace.
func (k *Kernel) localAddrs() (map[netip.Addr]bool, error) {
	c, err := dial(k.fd()) // not a borrowed one: the kernel may be closing
	if err != nil {
		return nil, err
	}
	defer c.close()
	local := map[netip.Addr]bool{}
	err = c.dump(unix.RTM_GETADDR, make([]byte, unix.SizeofIfAddrmsg), func(b []byte) error {
		a, err := parseAddr(b)
		local[a.prefix.Addr()] = true
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

// matcher turns the selection into a test, and tells the family.
func (k *Kernel) matcher(f plan.Flow) (matcher, bool, error) {
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
	// A prefix stands for this host's addresses in it: the same port of
	// another host is none of our business.
	one := dst.IsSingleIP()
	return func(x flow) bool {
		return x.proto == proto && x.dst.Port() >= from && x.dst.Port() <= to &&
			dst.Contains(x.dst.Addr()) && (one || x.here) && !(x.translated && kept(x.reply))
	}, dst.Addr().Is6(), nil
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

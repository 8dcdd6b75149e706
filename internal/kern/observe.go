package kern

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"

	"github.com/vethloom/vethloom/internal/kern/rtnetlink"
	"github.com/vethloom/vethloom/plan"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// observers is how many namespaces are read at a time. The kernel takes one
// lock for all of them, so more would only wait.
const observers = 4

// Observe reads the objects that are ours: in the fabric's namespace and in
// every pinned one. Of sysctls, which carry no mark, it reads the given ones;
// those that do not exist are left out.
//
// Whose an address is: ours when it carries our protocol number; in the fabric's
// namespace also every address on our links that is not link-local, since nobody else has
// any business there. In a sandbox a container may have added addresses of its own, so there
// only kernels that keep no protocol number (before 5.18) make every global
// address on our links ours.
func (k *Kernel) Observe(ctx context.Context, sysctls []plan.Sysctl) (plan.State, error) {
	epoch := k.shadow.look()
	names, err := k.pins.List()
	if err != nil {
		return plan.State{}, err
	}
	names = append([]plan.NetNS{""}, names...)
	views := make([]*view, len(names))
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(observers)
	for i, ns := range names {
		group.Go(func() error {
			if err := gctx.Err(); err != nil {
				return err
			}
			v, err := k.observeNS(ns)
			if errors.Is(err, os.ErrNotExist) && ns != "" {
				return nil // gone since it was listed
			}
			if err != nil {
				return fmt.Errorf("observe namespace %q: %w", ns, err)
			}
			views[i] = v
			return nil
		})
	}
	var rules plan.Ruleset
	group.Go(func() (err error) {
		if rules, err = k.ruler().Observe(gctx); err != nil {
			return fmt.Errorf("observe the rules: %w", err)
		}
		return nil
	})
	if err := group.Wait(); err != nil {
		return plan.State{}, err
	}
	state := k.assemble(views)
	state.Rules = rules
	for _, h := range k.handlers {
		if h.observe == nil {
			continue
		}
		if err := h.observe(ctx, &state); err != nil {
			return plan.State{}, err
		}
	}
	if state.Sysctls, err = k.readSysctls(sysctls); err != nil {
		return plan.State{}, err
	}
	k.shadow.set(epoch, state)
	return state, nil
}

// view is what one namespace holds.
type view struct {
	ns       plan.NetNS
	links    map[uint32]*rtnetlink.Link
	addrs    []rtnetlink.Address
	routes   []rtnetlink.Route
	policies []plan.PolicyRule
	direct   map[directRoute]bool // to subnets on links; nil where it is not looked for
	neighs   []rtnetlink.Neighbour
	fdb      []rtnetlink.Neighbour

	queues    []rtnetlink.Queue
	redirects map[uint32]uint32 // links by index, and where what comes in by them goes
}

func (k *Kernel) observeNS(ns plan.NetNS) (*view, error) {
	c, err := k.borrowNS(ns)
	if err != nil {
		return nil, err
	}
	defer k.giveBackNS(ns, c)
	v := &view{ns: ns, links: map[uint32]*rtnetlink.Link{}}
	if err := c.DumpLinks(func(l rtnetlink.Link) { l.NS = ns; v.links[l.Index] = &l }); err != nil {
		return nil, fmt.Errorf("list the links: %w", err)
	}
	err = c.Dump(unix.RTM_GETADDR, make([]byte, unix.SizeofIfAddrmsg), func(b []byte) error {
		a, err := rtnetlink.ParseAddr(b)
		v.addrs = append(v.addrs, a)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list the addresses: %w", err)
	}
	err = c.DumpRoutes(plan.Protocol, func(r rtnetlink.Route) error { v.routes = append(v.routes, r); return nil })
	if err != nil {
		return nil, fmt.Errorf("list the routes: %w", err)
	}
	err = c.DumpPolicies(func(r plan.PolicyRule) { r.NS = ns; v.policies = append(v.policies, r) })
	if err != nil {
		return nil, fmt.Errorf("list the rules for routes: %w", err)
	}
	if ns == "" {
		// The kernel's own first: they are few. Only where one is missing are all looked through, for one of others.
		err := v.readDirect(c, unix.RTPROT_KERNEL)
		if err == nil && v.cutOff() {
			err = v.readDirect(c, unix.RTPROT_UNSPEC)
		}
		if err == nil {
			err = v.readTraffic(c)
		}
		if err != nil {
			return nil, err
		}
	}
	err = c.DumpNeighs(func(n rtnetlink.Neighbour) error { v.neighs = append(v.neighs, n); return nil })
	if err != nil {
		return nil, fmt.Errorf("list the neighbours: %w", err)
	}
	if !v.forwards() {
		return v, nil
	}
	err = c.DumpFDB(func(n rtnetlink.Neighbour) error { v.fdb = append(v.fdb, n); return nil })
	if err != nil {
		return nil, fmt.Errorf("list the forwarding entries: %w", err)
	}
	return v, nil
}

// directRoute is the route to a subnet on a link.
type directRoute struct {
	index uint32
	dst   netip.Prefix
}

// readDirect reads the routes to subnets on links that a protocol has made: the kernel makes one for each address.
// Without any the subnet is cut off, and the address is still there.
func (v *view) readDirect(c *rtnetlink.Conn, proto byte) error {
	if v.direct == nil {
		v.direct = map[directRoute]bool{}
	}
	err := c.DumpRoutes(proto, func(r rtnetlink.Route) error {
		if r.Kind == unix.RTN_UNICAST && !r.Via.IsValid() {
			v.direct[directRoute{r.Index, r.Dst.Masked()}] = true
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("list the routes of addresses: %w", err)
	}
	return nil
}

// cutOff reports whether an address on a link of ours has no route.
func (v *view) cutOff() bool {
	return slices.ContainsFunc(v.addrs, func(a rtnetlink.Address) bool {
		l := v.links[a.Index]
		if l == nil {
			return false
		}
		_, _, ours := l.Owner()
		return ours && !v.hasRoute(a)
	})
}

// hasRoute reports whether the subnet of an address can be reached: one that cannot is made again, with its route.
func (v *view) hasRoute(a rtnetlink.Address) bool {
	l := v.links[a.Index]
	return v.direct == nil || a.Prefix.IsSingleIP() || !l.Up || v.direct[directRoute{a.Index, a.Prefix.Masked()}]
}

// forwards reports whether a link of ours can have forwarding entries.
func (v *view) forwards() bool {
	for _, l := range v.links {
		if _, _, ok := l.Owner(); ok && (l.Kind == plan.VXLAN || l.MasterIndex != 0) {
			return true
		}
	}
	return false
}

// borrowNS takes a socket in a namespace. One in a pinned namespace keeps the
// namespace alive, so it is never kept for later.
func (k *Kernel) borrowNS(ns plan.NetNS) (*rtnetlink.Conn, error) {
	if ns == "" {
		return k.socket()
	}
	file, err := k.openPin(ns)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return rtnetlink.Dial(int(file.Fd()))
}

func (k *Kernel) giveBackNS(ns plan.NetNS, c *rtnetlink.Conn) {
	if ns == "" {
		k.giveBack(c)
	} else {
		c.Close()
	}
}

// assemble turns the namespaces' views into one state.
func (k *Kernel) assemble(views []*view) plan.State {
	var s plan.State
	p := pairing{k: k, taken: map[*rtnetlink.Link]bool{},
		files: sync.OnceValue(func() map[plan.NetNS]int32 { return k.netnsIDs(views) })}
	for _, v := range views {
		if v != nil {
			p.views = append(p.views, v)
		}
	}
	for _, v := range p.views {
		if v.ns != "" {
			s.Namespaces = append(s.Namespaces, plan.Namespace{Name: v.ns})
		}
	}
	s.Links = p.links()
	for _, v := range p.views {
		v.collect(&s, p.owned, p.going)
	}
	return s
}

// collect adds what sits on links. owned tells which links are ours, marked or
// as the other end of one that is. Routes through links that are about to go count: until
// then they are in the way of others.
func (v *view) collect(s *plan.State, owned, going map[*rtnetlink.Link]bool) {
	marks := v.ns == ""
	for _, a := range v.addrs {
		marks = marks || a.Proto != 0
	}
	for _, a := range v.addrs {
		l := v.links[a.Index]
		if l == nil || going[l] {
			continue
		}
		ours := a.Proto == plan.Protocol
		if !ours && owned[l] && !a.Prefix.Addr().IsLinkLocalUnicast() {
			ours = v.ns == "" || !marks
		}
		if ours && v.hasRoute(a) {
			s.Addrs = append(s.Addrs, plan.Addr{NS: v.ns, Link: l.Name, Prefix: a.Prefix})
		}
	}
	for _, r := range v.routes {
		r.NS = v.ns
		if l := v.links[r.Index]; l != nil && r.Type != plan.Blackhole { // IPv6 says lo
			r.Link = l.Name
		}
		s.Routes = append(s.Routes, r.Route)
	}
	s.Policies = append(s.Policies, v.policies...)
	v.collectMembers(s, owned, going)
	v.collectTraffic(s, owned, going)
	for _, n := range v.neighs {
		if l := v.links[n.Index]; l != nil && !going[l] {
			s.Neighs = append(s.Neighs, plan.Neigh{NS: v.ns, Link: l.Name, IP: n.IP, MAC: n.MAC})
		}
	}
	for _, n := range v.fdb {
		if l := v.links[n.Index]; l != nil && owned[l] && !going[l] && (n.Static || l.Kind == plan.VXLAN) {
			s.FDB = append(s.FDB, plan.FDBEntry{NS: v.ns, Link: l.Name, MAC: n.MAC, Dst: n.IP})
		}
	}
}

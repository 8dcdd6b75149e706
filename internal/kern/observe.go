package kern

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/vethloom/vethloom/internal/plan"
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
	names, err := k.listNetNS()
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
		if rules, err = k.rules.observe(gctx); err != nil {
			return fmt.Errorf("observe the rules: %w", err)
		}
		return nil
	})
	if err := group.Wait(); err != nil {
		return plan.State{}, err
	}
	state := k.assemble(views)
	state.Rules = rules
	if state.Accepts, err = k.foreignAccepts(ctx); err != nil {
		return plan.State{}, err
	}
	if state.Sysctls, err = k.readSysctls(sysctls); err != nil {
		return plan.State{}, err
	}
	state.Ports = k.ports.list()
	k.listTunnels(&state)
	k.shadow.set(epoch, state)
	return state, nil
}

// view is what one namespace holds.
type view struct {
	ns     plan.NetNS
	links  map[uint32]*link
	addrs  []address
	routes []route
	neighs []neighbour
	fdb    []neighbour
}

func (k *Kernel) observeNS(ns plan.NetNS) (*view, error) {
	c, err := k.borrowNS(ns)
	if err != nil {
		return nil, err
	}
	defer k.giveBackNS(ns, c)
	v := &view{ns: ns, links: map[uint32]*link{}}
	if err := c.dumpLinks(func(l link) { l.ns = ns; v.links[l.index] = &l }); err != nil {
		return nil, fmt.Errorf("list the links: %w", err)
	}
	err = c.dump(unix.RTM_GETADDR, make([]byte, unix.SizeofIfAddrmsg), func(b []byte) error {
		a, err := parseAddr(b)
		v.addrs = append(v.addrs, a)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list the addresses: %w", err)
	}
	err = c.dumpRoutes(plan.Protocol, func(r route) error { v.routes = append(v.routes, r); return nil })
	if err != nil {
		return nil, fmt.Errorf("list the routes: %w", err)
	}
	err = c.dumpNeighs(func(n neighbour) error { v.neighs = append(v.neighs, n); return nil })
	if err != nil {
		return nil, fmt.Errorf("list the neighbours: %w", err)
	}
	if !v.forwards() {
		return v, nil
	}
	err = c.dumpFDB(func(n neighbour) error { v.fdb = append(v.fdb, n); return nil })
	if err != nil {
		return nil, fmt.Errorf("list the forwarding entries: %w", err)
	}
	return v, nil
}

func (c *conn) dumpLinks(each func(link)) error {
	h := linkMsg(0, 0, 0)
	h.u32(unix.IFLA_EXT_MASK, filterSkipStats)
	return c.dump(unix.RTM_GETLINK, h.b, func(b []byte) error {
		l, err := parseLink(b)
		if err == nil {
			each(l)
		}
		return err
	})
}

// forwards tells whether a link of ours can have forwarding entries by destination.
func (v *view) forwards() bool {
	for _, l := range v.links {
		if _, _, ok := l.owner(); ok && l.kind == plan.VXLAN {
			return true
		}
	}
	return false
}

// borrowNS takes a socket in a namespace. One in a pinned namespace keeps the
// namespace alive, so it is never kept for later.
func (k *Kernel) borrowNS(ns plan.NetNS) (*conn, error) {
	if ns == "" {
		return k.borrow()
	}
	file, err := k.openPin(ns)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return dial(int(file.Fd()))
}

func (k *Kernel) giveBackNS(ns plan.NetNS, c *conn) {
	if ns == "" {
		k.giveBack(c)
	} else {
		c.close()
	}
}

// openPin opens a pinned namespace.
func (k *Kernel) openPin(ns plan.NetNS) (*os.File, error) {
	if err := checkNetNS(ns); err != nil {
		return nil, err
	}
	path := k.NetNSPath(ns)
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	var st unix.Statfs_t
	if unix.Fstatfs(int(file.Fd()), &st) != nil || st.Type != unix.NSFS_MAGIC {
		file.Close()
		return nil, fmt.Errorf("%s is no namespace: %w", path, os.ErrNotExist)
	}
	return file, nil
}

// assemble turns the namespaces' views into one state.
func (k *Kernel) assemble(views []*view) plan.State {
	var s plan.State
	p := pairing{k: k, taken: map[*link]bool{}, files: sync.OnceValue(func() map[plan.NetNS]int32 { return k.netnsIDs(views) })}
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
func (v *view) collect(s *plan.State, owned, going map[*link]bool) {
	marks := v.ns == ""
	for _, a := range v.addrs {
		marks = marks || a.proto != 0
	}
	for _, a := range v.addrs {
		l := v.links[a.index]
		if l == nil || going[l] {
			continue
		}
		ours := a.proto == plan.Protocol
		if !ours && owned[l] && !a.prefix.Addr().IsLinkLocalUnicast() {
			ours = v.ns == "" || !marks
		}
		if ours {
			s.Addrs = append(s.Addrs, plan.Addr{NS: v.ns, Link: l.name, Prefix: a.prefix})
		}
	}
	for _, r := range v.routes {
		r.NS = v.ns
		if l := v.links[r.index]; l != nil && r.Type != plan.Blackhole { // IPv6 says lo
			r.Link = l.name
		}
		s.Routes = append(s.Routes, r.Route)
	}
	for _, n := range v.neighs {
		if l := v.links[n.index]; l != nil && !going[l] {
			s.Neighs = append(s.Neighs, plan.Neigh{NS: v.ns, Link: l.name, IP: n.ip, MAC: n.mac})
		}
	}
	for _, n := range v.fdb {
		if l := v.links[n.index]; l != nil && owned[l] && l.kind == plan.VXLAN {
			s.FDB = append(s.FDB, plan.FDBEntry{NS: v.ns, Link: l.name, MAC: n.mac, Dst: n.ip})
		}
	}
}

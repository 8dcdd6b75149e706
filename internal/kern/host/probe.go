package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	nft "github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vethloom/vethloom/internal/kern/netns"
	"github.com/vethloom/vethloom/internal/kern/nftables"
	"github.com/vethloom/vethloom/internal/kern/rtnetlink"
	"github.com/vethloom/vethloom/plan"
	"github.com/vishvananda/netlink"
	vnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Feature is something the kernel was asked to do; Err is nil when it did.
type Feature struct {
	Name string
	Err  error
}

// Features tries what the fabric needs in a network namespace of its own, which
// goes with the call.
func Features(ctx context.Context) ([]Feature, error) {
	var out []Feature
	try := func(name string, f func() error) { out = append(out, Feature{name, f()}) }
	err := netns.OnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace to try things in: %w", err)
		}
		ns, err := vnetns.Get()
		if err != nil {
			return fmt.Errorf("open the namespace: %w", err)
		}
		defer ns.Close()
		h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("open a netlink socket: %w", err)
		}
		defer h.Close()
		tryLinks(h, int(ns), try)
		try("rates", func() error { return tryRates(int(ns)) })
		try("tun", tryTUN)
		try("sctp", trySCTP)
		try("nft nat maps", func() error { return tryRules(ctx, int(ns), natTrial()) })
		try("nft bridge", func() error { return tryRules(ctx, int(ns), bridgeTrial()) })
		try("conntrack", func() error { return tryConntrack(ns) })
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("probe the kernel: %w", err)
	}
	return out, nil
}

func tryLinks(h *netlink.Handle, ns int, try func(string, func() error)) {
	try("bridge", func() error { return tryLink(ns, plan.Link{Name: "b0", Kind: plan.Bridge}) })
	try("veth", func() error {
		return tryLink(ns, plan.Link{Name: "v0", Kind: plan.Veth, Peer: plan.VethPeer{Name: "v1"}})
	})
	try("vxlan", func() error {
		return tryLink(ns, plan.Link{Name: "x0", Kind: plan.VXLAN, VXLAN: plan.VXLANDevice{VNI: 1, Port: 4789,
			Local: netip.AddrFrom4([4]byte{192, 0, 2, 1})}})
	})
	try("macvlan", func() error { // no driver makes such a link yet
		parent, err := h.LinkByName("v0")
		if err != nil {
			return err
		}
		a := netlink.NewLinkAttrs()
		a.Name = "m0"
		a.ParentIndex = parent.Attrs().Index
		return h.LinkAdd(&netlink.Macvlan{LinkAttrs: a, Mode: netlink.MACVLAN_MODE_BRIDGE})
	})
}

// tryLink makes a link as the fabric does and brings it up, which opens the port of a VXLAN device.
func tryLink(ns int, l plan.Link) error {
	c, err := rtnetlink.Dial(ns)
	if err != nil {
		return err
	}
	_, err = c.Batch([]rtnetlink.Request{rtnetlink.NewLink(l, 0, 0, -1)})
	if rtnetlink.ErrnoIs(err, unix.EOPNOTSUPP) {
		err = fmt.Errorf("%w: %w", plan.ErrUnsupported, err)
	}
	if err == nil {
		_, err = c.Batch([]rtnetlink.Request{rtnetlink.ChangeLink(l.Name, unix.IFF_UP, unix.IFF_UP, nil)})
	}
	return errors.Join(err, c.Close())
}

// tryRates holds a link to a rate in both directions.
func tryRates(ns int) error {
	err := tryLink(ns, plan.Link{Name: "i0", Kind: plan.IFB})
	if err != nil {
		return err
	}
	c, err := rtnetlink.Dial(ns)
	if err != nil {
		return err
	}
	index := map[string]uint32{}
	for _, name := range []string{"v0", "i0"} {
		_, e := c.Batch([]rtnetlink.Request{rtnetlink.GetLink(name, func(b []byte) error {
			l, err := rtnetlink.ParseLink(b)
			index[name] = l.Index
			return err
		})})
		err = errors.Join(err, e)
	}
	if err == nil {
		s := plan.Shaper{Rate: 1e6, Burst: 64 << 10}
		_, err = c.Batch(append(rtnetlink.NewRedirect(index["v0"], index["i0"]), rtnetlink.NewShaper(s, index["i0"])))
	}
	return errors.Join(err, c.Close())
}

func tryTUN() error {
	fd, err := rtnetlink.MakeTUN(rtnetlink.TUNDevice, "t0")
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

func trySCTP() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

func tryConntrack(ns vnetns.NsHandle) error {
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_NETFILTER)
	if err != nil {
		return err
	}
	defer h.Close()
	_, err = h.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET)
	return err
}

func tryRules(ctx context.Context, ns int, objects []plan.Object) error {
	r, err := nftables.Open(ns)
	if err != nil {
		return err
	}
	ops := make([]plan.Op, len(objects))
	for i, o := range objects {
		ops[i] = plan.Op{Verb: plan.Create, Object: o}
	}
	err = r.Apply(ctx, ops)
	var op *plan.OpError
	if errors.As(err, &op) {
		err = op.Err // which trial rule it was is of no use to the reader
	}
	return errors.Join(err, r.Close())
}

// natTrial is one of everything the inet table is made of.
func natTrial() []plan.Object {
	port := []plan.DataType{plan.TypeIPv4, plan.TypeInetProto, plan.TypePort}
	return []plan.Object{
		plan.Set{Family: plan.Inet, Name: "ports", KeyTypes: port, Data: []plan.DataType{plan.TypeIPv4, plan.TypePort},
			Interval: true},
		plan.Chain{Family: plan.Inet, Name: "pre", Base: plan.Base{Type: "nat", Hook: "prerouting", Priority: -100,
			Policy: "accept"}, Rules: []plan.Rule{{
			Match: []plan.Match{
				{Fields: []plan.Field{plan.NFProto}, Values: []string{"ipv4"}},
				{Fields: []plan.Field{plan.FIBDaddrType}, Values: []string{"local"}},
				{Fields: []plan.Field{plan.L4Proto}, Values: []string{"tcp", "udp"}},
			},
			Verdict: plan.DNAT, Target: "ports", Key: []plan.Field{plan.IPDaddr, plan.L4Proto, plan.DPort}, Addr: "ip",
		}}},
		plan.Chain{Family: plan.Inet, Name: "post", Base: plan.Base{Type: "nat", Hook: "postrouting", Priority: 100,
			Policy: "accept"}, Rules: []plan.Rule{{
			Match:   []plan.Match{{Fields: []plan.Field{plan.CTStatus}, Values: []string{"dnat"}}},
			Verdict: plan.Masquerade,
		}}},
		plan.Element{Family: plan.Inet, Set: "ports", Keys: []string{"0.0.0.0/0", "tcp", "80"},
			Data: []string{"10.0.0.2", "80"}, Owner: "probe"},
	}
}

func bridgeTrial() []plan.Object {
	return []plan.Object{
		plan.Set{Family: plan.BridgeTable, Name: "source", KeyTypes: []plan.DataType{plan.TypeIfName, plan.TypeEther}},
		plan.Chain{Family: plan.BridgeTable, Name: "pre", Base: plan.Base{Type: "filter", Hook: "prerouting",
			Priority: -300, Policy: "accept"}, Rules: []plan.Rule{{
			Match:   []plan.Match{{Fields: []plan.Field{plan.IIfName, plan.EtherSaddr}, Set: "source"}},
			Verdict: plan.Accept,
		}}},
	}
}

// ReadSysctls reads values of the fabric's namespace by their paths below
// net/; a star stands for any link. Those that do not exist are left out.
func (h *Host) ReadSysctls(_ context.Context, paths ...string) (map[string]string, error) {
	out := map[string]string{}
	err := netns.Enter(h.fd, func() error {
		for _, p := range paths {
			files, err := filepath.Glob("/proc/sys/net/" + p)
			if err != nil {
				return err
			}
			for _, file := range files {
				b, err := os.ReadFile(file)
				if errors.Is(err, fs.ErrNotExist) {
					continue
				}
				if err != nil {
					return err
				}
				out[strings.TrimPrefix(file, "/proc/sys/net/")] = strings.TrimSpace(string(b))
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read sysctls: %w", err)
	}
	return out, nil
}

// ForeignForward lists the chains of others that drop what is forwarded unless a
// rule accepts it ("ip filter FORWARD"), by their policy or their last rule, and reports whether one of them offers
// the chain DOCKER-USER. Both nftables' and iptables' own tables are looked at.
func (h *Host) ForeignForward(ctx context.Context) (drops []string, dockerUser bool, err error) {
	conn, err := nft.New(nft.WithNetNSFd(h.fd))
	if err != nil {
		return nil, false, fmt.Errorf("open nftables: %w", err)
	}
	chains, err := conn.ListChains()
	if err != nil && !NoNftables(err) {
		return nil, false, fmt.Errorf("list the firewall's chains: %w", err)
	}
	families := map[nft.TableFamily]string{nft.TableFamilyIPv4: "ip", nft.TableFamilyIPv6: "ip6",
		nft.TableFamilyINet: "inet"}
	for _, c := range chains {
		family, ip := families[c.Table.Family]
		switch {
		case !ip || c.Table.Name == plan.Table:
		case c.Name == "DOCKER-USER":
			dockerUser = true
		case c.Hooknum == nil || *c.Hooknum != *nft.ChainHookForward:
		case c.Policy != nil && *c.Policy == nft.ChainPolicyDrop, endsInDrop(conn, c):
			drops = append(drops, family+" "+c.Table.Name+" "+c.Name)
		}
	}
	legacy, legacyUser, err := h.legacyForward(ctx)
	if err != nil {
		return nil, false, err
	}
	drops = append(drops, legacy...)
	slices.Sort(drops)
	return drops, dockerUser || legacyUser, nil
}

// endsInDrop reports whether the last rule of a chain drops or rejects every packet.
func endsInDrop(conn *nft.Conn, c *nft.Chain) bool {
	rules, err := conn.GetRules(c.Table, c)
	if err != nil || len(rules) == 0 {
		return false // it went meanwhile
	}
	ends := false
	for _, e := range rules[len(rules)-1].Exprs {
		switch e := e.(type) {
		case *expr.Counter:
		case *expr.Verdict:
			ends = e.Kind == expr.VerdictDrop
		case *expr.Reject:
			ends = true
		case *expr.Target: // of iptables
			ends = e.Name == "REJECT"
		case *expr.Match:
			if e.Name != "comment" {
				return false
			}
		default:
			return false
		}
	}
	return ends
}

// legacyForward looks at the tables of the older iptables.
func (h *Host) legacyForward(ctx context.Context) (drops []string, dockerUser bool, err error) {
	all, err := h.legacyRules(ctx, filterTable)
	for family, rules := range all {
		for line := range strings.Lines(rules) {
			switch strings.TrimSpace(line) {
			case "-P FORWARD DROP":
				drops = append(drops, family+" filter FORWARD (legacy)")
			case "-N DOCKER-USER":
				dockerUser = true
			}
		}
	}
	return drops, dockerUser, err
}

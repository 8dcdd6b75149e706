package kern

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"

	"github.com/mdlayher/netlink"
	"github.com/vethloom/vethloom/internal/kern/attr"
	"github.com/vethloom/vethloom/internal/kern/host"
	"github.com/vethloom/vethloom/internal/kern/iptables"
	"github.com/vethloom/vethloom/internal/kern/nftables"
	"github.com/vethloom/vethloom/internal/kern/rtnetlink"
	"github.com/vethloom/vethloom/internal/linkname"
	"golang.org/x/sys/unix"
)

// noticeBuffer is how many bytes of notifications may wait to be read.
const noticeBuffer = 1 << 20

// listen opens a socket that receives the notifications of groups.
func listen(fd, family, buffer int, groups ...uint32) (*netlink.Conn, error) {
	c, err := netlink.Dial(family, &netlink.Config{NetNS: fd})
	if err != nil {
		return nil, fmt.Errorf("open a socket for notifications: %w", err)
	}
	for _, g := range groups {
		if err := c.JoinGroup(g); err != nil {
			return nil, errors.Join(fmt.Errorf("join notification group %d: %w", g, err), c.Close())
		}
	}
	// A burst that does not fit is no loss: it counts as a change.
	_ = c.SetReadBuffer(buffer)
	return c, nil
}

func (k *Kernel) listenRoutes() (*netlink.Conn, error) {
	return listen(k.fd(), unix.NETLINK_ROUTE, k.buffer, unix.RTNLGRP_LINK,
		unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE)
}

// follow hands on notifications until the socket is closed. What was lost
// because nobody read in time (ENOBUFS) is told by lost.
func follow(c *netlink.Conn, each func(netlink.Message), lost func()) {
	for {
		msgs, err := c.Receive()
		switch {
		case err == nil:
			for _, m := range msgs {
				each(m)
			}
		case rtnetlink.ErrnoIs(err, unix.ENOBUFS):
			lost()
		case rtnetlink.ErrnoIs(err, unix.EINTR):
		default:
			return // closed
		}
	}
}

// event is one notification about a link, an address or a route.
type event struct {
	gone    bool
	flapped bool // the link was up and down in one burst: the last event does not tell what it lost on the way
	link    *rtnetlink.Link
	addr    *rtnetlink.Address
	route   *rtnetlink.Route
}

func parseEvent(m netlink.Message) (event, bool) {
	switch uint16(m.Header.Type) {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		if len(m.Data) > 0 && m.Data[0] != unix.AF_UNSPEC {
			return event{}, false // a bridge's or IPv6's view of the link
		}
		l, err := rtnetlink.ParseLink(m.Data)
		return event{gone: m.Header.Type == unix.RTM_DELLINK, link: &l}, err == nil
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		a, err := rtnetlink.ParseAddr(m.Data)
		return event{gone: m.Header.Type == unix.RTM_DELADDR, addr: &a}, err == nil
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		r, err := rtnetlink.ParseRoute(m.Data)
		return event{gone: m.Header.Type == unix.RTM_DELROUTE, route: &r}, err == nil && !r.Cloned
	}
	return event{}, false
}

// key tells events about the same object.
func (e event) key() string {
	switch {
	case e.link != nil:
		return "link " + e.link.Name
	case e.addr != nil:
		return fmt.Sprintf("addr %d %s", e.addr.Index, e.addr.Prefix)
	}
	return "route " + e.route.Key() + fmt.Sprintf(" %d", e.route.Proto)
}

// Attributes of linux/netfilter/nf_tables.h.
const (
	nfnlGroupTables = 7  // NFNLGRP_NFTABLES
	nfSubsystem     = 10 // NFNL_SUBSYS_NFTABLES
	nfMsgNewGen     = 15 // NFT_MSG_NEWGEN
	nfMsgNewChain   = 3  // NFT_MSG_NEWCHAIN, also when a policy changes
	nfMsgDelChain   = 5  // NFT_MSG_DELCHAIN
	nfMsgNewRule    = 6  // NFT_MSG_NEWRULE
	nfMsgDelRule    = 8  // NFT_MSG_DELRULE
	nfMsgNewElem    = 12 // NFT_MSG_NEWSETELEM
	nfMsgDelElem    = 14 // NFT_MSG_DELSETELEM
	nftaRuleChain   = 2  // NFTA_RULE_CHAIN
	nftaTable       = 1  // the table's name in messages about tables, chains, rules, sets and elements
	nftaGenPID      = 2  // NFTA_GEN_PROC_PID
	nftaChainHook   = 4  // NFTA_CHAIN_HOOK, of base chains only
	nfgenSize       = 4
)

// genFilter tells which nftables transactions were somebody else's and about a
// table of ours, or about a base chain of another, which may drop what we forward
// from now on, or took a rule from a chain of another that has our accepts, or gave one a rule about a link, or took it
// away, or did so with a name of a link of ours in a set, which rules may be about. A transaction is told object by
// object, and then by its generation, which names the socket and the thread that asked for it.
type genFilter struct {
	table   string
	port    uint32 // of the socket that our rules are changed by
	touched bool
}

// foreign takes one notification in and reports whether it ends such a transaction.
func (g *genFilter) foreign(m netlink.Message) bool {
	if uint16(m.Header.Type)>>8 != nfSubsystem || len(m.Data) < nfgenSize {
		return false
	}
	kind := uint16(m.Header.Type) & 0xff
	gen, chain := kind == nfMsgNewGen, kind == nfMsgNewChain || kind == nfMsgDelChain
	rule := kind == nfMsgDelRule
	naming := (rule || kind == nfMsgNewRule) && nftables.RuleNamesLink(m.Data[nfgenSize:], iptables.Ours) ||
		(kind == nfMsgNewElem || kind == nfMsgDelElem) && namesOurs(m.Data)
	var table string
	var thread uint32
	base := false // or one that has rules of ours
	// What cannot be parsed is not about a table of ours.
	_ = attr.Each(m.Data[nfgenSize:], func(kind uint16, v []byte) error {
		switch {
		case gen && kind == nftaGenPID && len(v) == 4:
			thread = binary.BigEndian.Uint32(v)
		case !gen && kind == nftaTable:
			table = attr.Text(v)
		case chain && kind&^unix.NLA_F_NESTED == nftaChainHook:
			base = true
		case rule && kind == nftaRuleChain:
			base = host.HasAccepts(attr.Text(v))
		}
		return nil
	})
	if !gen {
		g.touched = g.touched || base || naming || table == g.table
		return false
	}
	touched := g.touched
	g.touched = false
	return touched && m.Header.PID != g.port && !ownThread(thread)
}

// namesOurs reports whether a message has a name that may be of a link of ours.
func namesOurs(b []byte) bool {
	return slices.ContainsFunc(linkname.Prefixes(), func(prefix string) bool {
		return bytes.Contains(b, []byte(prefix))
	})
}

// ownThread reports whether a thread is one of this process: accepts among the rules of others are written by sockets
// of their own. In a PID namespace of its own a process cannot tell; then these count as others', which costs a look.
func ownThread(tid uint32) bool {
	_, err := os.Stat("/proc/self/task/" + strconv.FormatUint(uint64(tid), 10))
	return err == nil
}

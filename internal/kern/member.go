package kern

import (
	"fmt"
	"net/netip"

	"github.com/vethloom/vethloom/internal/kern/rtnetlink"
	"github.com/vethloom/vethloom/plan"
	"golang.org/x/sys/unix"
)

// member makes somebody else's link a port of a bridge of ours, or lets it go again.
func member(s *session, op plan.Op, o plan.MemberLink, bridge uint32) error {
	if err := s.flush(); err != nil {
		return err
	}
	c, err := s.conn("")
	if err != nil {
		return err
	}
	var link rtnetlink.Link
	ask := rtnetlink.GetLink(o.Link, func(b []byte) (err error) { link, err = rtnetlink.ParseLink(b); return err })
	ask.Settled = []unix.Errno{unix.ENODEV}
	if _, err := c.Batch([]rtnetlink.Request{ask}); err != nil {
		return err
	}
	switch op.Verb {
	case plan.Delete:
		if link.Member() && link.MasterIndex == bridge {
			return s.send("", rtnetlink.Join(link.Index, 0)...)
		}
		return nil // it is gone, or somebody else has it
	case plan.Create, plan.Modify:
		if link.Index == 0 {
			return &plan.NoLinkError{Link: o.Link, Err: unix.ENODEV}
		}
		if err := fits(c, link, bridge); err != nil {
			return err
		}
		if _, err := c.Batch(rtnetlink.Join(link.Index, bridge)); err != nil {
			return unfit(o.Link, err)
		}
		return nil
	}
	return badVerb(op)
}

// fits refuses a link that is in use: as a port of something else, or by the host itself. The host would no longer hear
// what comes in by it.
func fits(c *rtnetlink.Conn, l rtnetlink.Link, bridge uint32) error {
	no := &plan.UnfitLinkError{Link: l.Name}
	_, _, ours := l.Owner()
	switch {
	case ours || l.Kind == plan.Loopback:
		no.Reason, no.Remedy = "is no link to a LAN", "name another one"
		return no
	case l.MasterIndex == bridge:
		return nil // all but the mark was done
	case l.MasterIndex != 0 && !l.Member():
		no.Reason = "is a port of another bridge or bond already"
		no.Remedy = "name that bridge with -o bridge-name=NAME -o unmanaged=true, or that bond as the parent"
		return no
	}
	var has netip.Prefix
	err := c.Dump(unix.RTM_GETADDR, make([]byte, unix.SizeofIfAddrmsg), func(b []byte) error {
		a, err := rtnetlink.ParseAddr(b)
		if err == nil && a.Index == l.Index && !a.Prefix.Addr().IsLinkLocalUnicast() {
			has = a.Prefix
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("list the addresses of link %s: %w", l.Name, err)
	}
	if has.IsValid() {
		no.Reason = fmt.Sprintf("has the host's address %s, which would be cut off as the link becomes a port of a "+
			"bridge", has)
		no.Remedy = "make the network with -d macvlan; or make a bridge yourself, move the address to it, and name " +
			"it with -o bridge-name=NAME -o unmanaged=true"
		return no
	}
	return nil
}

// unfit says what the kernel means when it takes a link into no bridge (br_add_if).
func unfit(link string, err error) error {
	no := &plan.UnfitLinkError{Link: link, Err: err, Remedy: "name another one"}
	switch {
	case rtnetlink.ErrnoIs(err, unix.EBUSY):
		no.Reason, no.Remedy = "has links of kind macvlan or ipvlan on it", "remove them, or name another link"
	case rtnetlink.ErrnoIs(err, unix.EOPNOTSUPP, unix.EINVAL, unix.ELOOP):
		no.Reason = "cannot be a port of a bridge: it is a bridge itself, or not of Ethernet, or wireless"
	default:
		return err
	}
	return no
}

// collectMembers adds the links of others that we have made ports of bridges of ours.
func (v *view) collectMembers(s *plan.State, owned, going map[*rtnetlink.Link]bool) {
	for _, l := range v.links {
		if m := v.links[l.MasterIndex]; v.ns == "" && m != nil && l.Member() && owned[m] && !going[m] {
			s.Members = append(s.Members, plan.MemberLink{Link: l.Name, Bridge: m.Name})
		}
	}
}

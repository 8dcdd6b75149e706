package kern

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/vethloom/vethloom/internal/kern/attr"
	"github.com/vethloom/vethloom/internal/kern/rtnetlink"
	"github.com/vethloom/vethloom/internal/linkname"
	"github.com/vethloom/vethloom/plan"
	"golang.org/x/sys/unix"
)

func checkGiven(l plan.Link) error {
	if l.NS == "" || l.Master != "" {
		return errors.New("a link that somebody else has made is moved into a sandbox")
	}
	return rtnetlink.CheckLinkName(l.Given.Name)
}

// givenMark is what follows the owner in the mark of a link that somebody else has made; "" for others.
func givenMark(l plan.Link) string {
	if l.Kind != plan.Given {
		return ""
	}
	return rtnetlink.GivenMark + l.Given.Name
}

// takeLink moves a link that somebody else has made into a sandbox, with its name and its mark in one message: there is
// no time at which it is there without a mark, or here with one.
func (s *session) takeLink(l plan.Link) error {
	found, err := s.given(l)
	if err != nil {
		return err
	}
	switch _, err := s.lookup(l.NS, l.Name); {
	case err == nil:
		return fmt.Errorf("the sandbox has a link %s already: %w", l.Name, unix.EEXIST)
	case !errors.Is(err, os.ErrNotExist):
		return err
	}
	ns, err := s.fd(l.NS)
	if err != nil {
		return err
	}
	mark := givenMark(l)
	if err := s.send("", rtnetlink.MoveLink(found.Index, ns, l, mark)); err != nil {
		return err
	}
	if err := s.flush(); err != nil {
		return err
	}
	ipv6 := s.k.ipv6 && found.MTU >= rtnetlink.MinIPv6MTU
	return s.send(l.NS, rtnetlink.ChangeLink(l.Name, 0, 0, func(a *attr.Builder) {
		rtnetlink.MarkLink(a, l.Owner, mark, ipv6)
		rtnetlink.Identity(a, changed(l.MAC, found.MAC), l.MTU)
	}), rtnetlink.ChangeLink(l.Name, rtnetlink.UpFlag(l.Up), unix.IFF_UP, nil), s.learn(end{l.NS, l.Name}))
}

// given finds the link that somebody was said to have made, unless it is one of the host's own or of ours.
func (s *session) given(l plan.Link) (rtnetlink.Link, error) {
	var found rtnetlink.Link
	if err := s.flush(); err != nil {
		return found, err
	}
	c, err := s.conn("")
	if err != nil {
		return found, err
	}
	var links []rtnetlink.Link
	if err := c.DumpLinks(func(o rtnetlink.Link) { links = append(links, o) }); err != nil {
		return found, fmt.Errorf("list the host's links: %w", err)
	}
	for _, o := range links {
		if o.Name == l.Given.Name {
			found = o
		}
	}
	if found.Index == 0 {
		return found, &plan.NoLinkError{Link: l.Given.Name, Err: os.ErrNotExist}
	}
	reason := foreign(found, links, l.Given.After)
	if reason == "" {
		reason, err = addressed(c, found)
	}
	if reason != "" {
		return found, &plan.ForeignLinkError{Link: l.Given.Name, Reason: reason}
	}
	return found, err
}

// foreign is why a link is none that was made for a sandbox; "" when it can be one.
func foreign(l rtnetlink.Link, links []rtnetlink.Link, after uint32) string {
	_, _, ours := l.Owner()
	switch {
	case ours || linkname.IsOurs(l.Name):
		return "it is one of vethloom's own"
	case l.Kind == plan.Loopback || l.Kind == "":
		return "it is a device of the host"
	case l.Index <= after:
		return "the host had it before it was asked for"
	case l.MasterIndex != 0:
		return "it is a port of another link"
	}
	for _, o := range links {
		sits := o.PeerIndex == l.Index && o.NSID < 0 && o.Kind != plan.Veth
		if o.MasterIndex == l.Index || sits {
			return "link " + o.Name + " of the host sits on it"
		}
	}
	return ""
}

// addressed tells of an address that the host has on a link.
func addressed(c *rtnetlink.Conn, l rtnetlink.Link) (reason string, err error) {
	err = c.Dump(unix.RTM_GETADDR, make([]byte, unix.SizeofIfAddrmsg), func(b []byte) error {
		a, err := rtnetlink.ParseAddr(b)
		if err == nil && a.Index == l.Index && !a.Prefix.Addr().IsLinkLocalUnicast() {
			reason = "the host has the address " + a.Prefix.String() + " on it"
		}
		return err
	})
	if err != nil {
		return "", fmt.Errorf("list the host's addresses: %w", err)
	}
	return reason, nil
}

// LastLink is the greatest index of a link of the host. One that is made later has a greater one.
func (k *Kernel) LastLink(context.Context) (uint32, error) {
	c, err := k.socket()
	if err != nil {
		return 0, err
	}
	defer k.giveBack(c)
	var last uint32
	if err := c.DumpLinks(func(l rtnetlink.Link) { last = max(last, l.Index) }); err != nil {
		return 0, fmt.Errorf("list the host's links: %w", err)
	}
	return last, nil
}

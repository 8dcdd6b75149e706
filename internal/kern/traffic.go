package kern

import (
	"fmt"

	"github.com/mdlayher/netlink"
	"github.com/vethloom/vethloom/internal/kern/attr"
	"github.com/vethloom/vethloom/internal/kern/rtnetlink"
	"github.com/vethloom/vethloom/plan"
	"golang.org/x/sys/unix"
)

// redirect queues what leads a link's packets through another link, or no more.
func (s *session) redirect(op plan.Op, o plan.Redirect, index uint32) error {
	switch op.Verb {
	case plan.Create, plan.Modify:
		to, err := s.lookup("", o.To)
		if err != nil {
			return err
		}
		return s.send("", rtnetlink.NewRedirect(index, to)...)
	case plan.Delete:
		return s.send("", rtnetlink.DelRedirect(index))
	}
	return badVerb(op)
}

// explainTraffic says which part of the kernel is missing.
func explainTraffic(op plan.Op, err error) error {
	if op.Verb == plan.Delete || !rtnetlink.ErrnoIs(err, unix.ENOENT, unix.EOPNOTSUPP) {
		return err
	}
	parts := "sch_tbf"
	if _, ok := op.Object.(plan.Redirect); ok {
		parts = "-a sch_ingress cls_u32 act_mirred ifb"
	}
	return fmt.Errorf("%w: rates need modules: modprobe %s: %w", plan.ErrUnsupported, parts, err)
}

// readTraffic reads our queues and redirections in the fabric's namespace.
func (v *view) readTraffic(c *rtnetlink.Conn) error {
	var in []uint32
	err := c.DumpQueues(func(q rtnetlink.Queue) {
		if q.Ingress {
			in = append(in, q.Index)
		} else {
			v.queues = append(v.queues, q)
		}
	})
	if rtnetlink.ErrnoIs(err, unix.EOPNOTSUPP) {
		return nil // a kernel without
	}
	if err != nil {
		return fmt.Errorf("list the queues: %w", err)
	}
	v.redirects = map[uint32]uint32{}
	for _, index := range in {
		err := c.DumpRedirects(index, func(to uint32) { v.redirects[index] = to })
		if err != nil && !rtnetlink.ErrnoIs(err, unix.ENODEV, unix.EINVAL, unix.ENOENT) { // it went meanwhile
			return fmt.Errorf("list the filters of a link: %w", err)
		}
	}
	return nil
}

// collectTraffic adds the queues and redirections of links that are ours.
func (v *view) collectTraffic(s *plan.State, owned, going map[*rtnetlink.Link]bool) {
	name := func(index uint32) string {
		if l := v.links[index]; l != nil && owned[l] && !going[l] {
			return l.Name
		}
		return ""
	}
	for _, q := range v.queues {
		if q.Shaper.Link = name(q.Index); q.Shaper.Link != "" {
			s.Shapers = append(s.Shapers, q.Shaper)
		}
	}
	for from, to := range v.redirects {
		if link := name(from); link != "" {
			s.Redirects = append(s.Redirects, plan.Redirect{Link: link, To: name(to)})
		}
	}
}

// isTraffic reports whether a notification may be about a queue or a filter of ours.
func isTraffic(m netlink.Message) bool {
	switch uint16(m.Header.Type) {
	case unix.RTM_NEWQDISC, unix.RTM_DELQDISC:
		_, ok, err := rtnetlink.ParseQueue(m.Data)
		return ok || err != nil
	case unix.RTM_NEWTFILTER, unix.RTM_DELTFILTER:
		return len(m.Data) >= attr.HeaderLen
	}
	return false
}

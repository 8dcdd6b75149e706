package kern

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/vethloom/vethloom/internal/kern/rtnetlink"
	"github.com/vethloom/vethloom/plan"
	"golang.org/x/sys/unix"
)

// explain adds to an error what the kernel does not say: who is in the way.
func (s *session) explain(op plan.Op, err error) error {
	if r, ok := op.Object.(plan.Route); ok && op.Verb == plan.Create && rtnetlink.ErrnoIs(err, unix.EEXIST) {
		return s.explainRoute(r, err)
	}
	switch op.Object.(type) {
	case plan.Shaper, plan.Redirect:
		return explainTraffic(op, err)
	}
	l, ok := op.Object.(plan.Link)
	if !ok || l.Kind != plan.VXLAN || op.Verb == plan.Delete || !rtnetlink.ErrnoIs(err, unix.EEXIST, unix.EADDRINUSE) {
		return err
	}
	c, dialErr := s.conn(l.NS)
	if dialErr != nil {
		return err
	}
	var rivals []rtnetlink.Link
	named := false
	dumpErr := c.DumpLinks(func(o rtnetlink.Link) {
		named = named || o.Name == l.Name
		if o.Kind == plan.VXLAN && o.Name != l.Name && o.VXLAN.Port == l.VXLAN.Port {
			rivals = append(rivals, o)
		}
	})
	switch {
	case dumpErr != nil:
		return errors.Join(err, dumpErr)
	case rtnetlink.ErrnoIs(err, unix.EADDRINUSE):
		return s.portInUse(l, rivals, err)
	case named:
		return fmt.Errorf("a link of that name is there already: %w", err)
	}
	for _, r := range rivals {
		if r.VXLAN.VNI == l.VXLAN.VNI {
			return fmt.Errorf("the host's VXLAN device %s already has identifier %d on UDP port %d; "+
				"choose another identifier or port, or %s: %w", r.Name, l.VXLAN.VNI, l.VXLAN.Port, removal(r.Name), err)
		}
	}
	return fmt.Errorf("a VXLAN device that was moved to another network namespace already has identifier %d on UDP "+
		"port %d; "+
		"choose another identifier or port, or remove it: %w", l.VXLAN.VNI, l.VXLAN.Port, err)
}

// removal is how to get rid of a device that somebody else made: flanneld leaves its own when it ends, and makes it
// again while it runs.
func removal(device string) string {
	if strings.HasPrefix(device, "flannel.") || strings.HasPrefix(device, "flannel-v6.") {
		return "stop flanneld and `ip link del " + device + "`"
	}
	return "`ip link del " + device + "`"
}

// portInUse names the process, or else the VXLAN device, that has a device's port. Devices
// share a port only when they take the same kinds of packets in.
func (s *session) portInUse(l plan.Link, rivals []rtnetlink.Link, err error) error {
	addr := netip.IPv4Unspecified()
	if l.VXLAN.Local.Is6() {
		addr = netip.IPv6Unspecified()
	}
	taken := &plan.PortTakenError{Port: plan.PortReservation{NS: l.NS, Addr: addr, Proto: plan.UDP, From: l.VXLAN.Port,
		To: l.VXLAN.Port}}
	entered := s.k.enter(l.NS, func() error {
		taken.By = usedBy(plan.UDP, l.VXLAN.Port)
		return nil
	})
	if taken.By == "" && len(rivals) > 0 {
		taken.By = "the VXLAN device " + rivals[0].Name
		err = fmt.Errorf("choose another port, or %s: %w", removal(rivals[0].Name), err)
	}
	return errors.Join(fmt.Errorf("open the UDP port of the VXLAN device: %w: %w", taken, err), entered)
}

// explainRoute names the route of somebody else that a new one would replace. It is left alone: who
// made it may need it.
func (s *session) explainRoute(want plan.Route, err error) error {
	c, dialErr := s.conn(want.NS)
	if dialErr != nil {
		return err
	}
	want = want.Normal()
	remedy, by := "", ""
	dumpErr := c.DumpRoutes(0, func(r rtnetlink.Route) error {
		n := r.Route.Normal()
		if r.Proto != plan.Protocol && n.Dst == want.Dst && n.Table == want.Table && n.Metric == want.Metric {
			by, remedy = fmt.Sprintf("protocol %d", r.Proto), "ip route del "+r.Dst.String()
			if r.Via.IsValid() {
				by, remedy = "by "+r.Via.String()+", "+by, remedy+" via "+r.Via.String()
			}
		}
		return nil
	})
	if dumpErr != nil {
		return errors.Join(err, dumpErr)
	}
	if remedy == "" {
		return err
	}
	return fmt.Errorf("somebody else, such as flanneld, made a route to %s (%s): stop them and `%s`: %w", want.Dst, by,
		remedy, err)
}

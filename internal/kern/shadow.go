package kern

import (
	"maps"
	"net/netip"
	"sync"
	"time"

	"github.com/vethloom/vethloom/internal/kern/rtnetlink"
	"github.com/vethloom/vethloom/plan"
)

// shadow is what the fabric's namespace should look like after all that we did to
// it. Notifications are compared with it, since many of those that our own changes
// cause do not say who asked: only what differs from it is somebody else's doing.
type shadow struct {
	mu      sync.Mutex
	links   map[string]plan.Link
	addrs   map[string]plan.Addr
	routes  map[string]plan.Route
	sysctls map[string]plan.Sysctl
	members map[string]string    // links of others that are ports of our bridges, and of which
	entries entries              // of neighbours and forwarding
	going   map[string]time.Time // links removed with a namespace, which takes its time, and when
	active  int                  // runs of Apply
	epoch   uint64               // counts runs of Apply begun
}

// look starts an observation; set only counts when nothing was applied since.
func (s *shadow) look() (epoch uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.epoch
}

// set replaces the shadow by what was observed.
func (s *shadow) set(epoch uint64, state plan.State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active > 0 || s.epoch != epoch {
		return
	}
	asked := s.sysctls // what others made of them is to be noticed still
	s.reset()
	for o := range state.Objects() {
		s.put(o)
	}
	for k, v := range asked {
		if _, ok := s.sysctls[k]; ok {
			s.sysctls[k] = v
		}
	}
}

func (s *shadow) reset() {
	s.links, s.addrs, s.routes = map[string]plan.Link{}, map[string]plan.Addr{}, map[string]plan.Route{}
	s.sysctls, s.members = map[string]plan.Sysctl{}, map[string]string{}
	s.entries.reset()
	if s.going == nil {
		s.going = map[string]time.Time{}
	}
	for name, since := range s.going {
		if time.Since(since) > goingTime {
			delete(s.going, name)
		}
	}
}

// goingTime is how long the links of a namespace we let go of may take to
// follow it. Later somebody else holds the namespace, and the links must go by themselves.
const goingTime = 3 * time.Second

// overdue takes out the links that have not followed their peer's namespace in time.
func (s *shadow) overdue() (names []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, since := range s.going {
		if time.Since(since) >= goingTime {
			names = append(names, name)
			delete(s.going, name)
		}
	}
	return names
}

// isGoing reports whether a link is about to follow its peer's namespace.
func (s *shadow) isGoing(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leaving(name)
}

// claim takes a name over from a link that is about to go, and reports whether there was one.
func (s *shadow) claim(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, going := s.going[name]
	delete(s.going, name)
	return going
}

func (s *shadow) leaving(name string) bool {
	since, ok := s.going[name]
	return ok && time.Since(since) < goingTime
}

// begin notes what a run of Apply is about to do.
func (s *shadow) begin(ops []plan.Op) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active++
	s.epoch++
	if s.links == nil {
		s.reset()
	}
	for _, op := range ops {
		if op.Verb == plan.Delete {
			s.remove(op.Object)
		} else {
			s.put(op.Object)
		}
	}
}

func (s *shadow) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active--
}

func (s *shadow) put(o plan.Object) {
	if plan.NetNSOf(o) != "" {
		return
	}
	switch o := o.(type) {
	case plan.Link:
		if o.Kind != plan.Loopback {
			s.links[o.Name] = o
		}
	case plan.MemberLink:
		s.members[o.Link] = o.Bridge
	case plan.Addr:
		s.addrs[o.Key()] = o
	case plan.Route:
		s.routes[o.Key()] = o
	case plan.Sysctl:
		s.sysctls[o.Key()] = o
	default:
		s.entries.put(o)
	}
}

func (s *shadow) remove(o plan.Object) {
	switch o := o.(type) {
	case plan.Namespace:
		for _, l := range s.links {
			if l.Kind == plan.Veth && l.Peer.NS == o.Name {
				s.removeLink(l.Name)
				s.going[l.Name] = time.Now()
			}
		}
	case plan.Link:
		if o.NS == "" {
			s.removeLink(o.Name)
		}
		if o.Kind == plan.Veth && o.Peer.NS == "" {
			s.removeLink(o.Peer.Name)
		}
	case plan.MemberLink:
		delete(s.members, o.Link)
	case plan.Addr:
		delete(s.addrs, o.Key())
	case plan.Route:
		delete(s.routes, o.Key())
	case plan.Sysctl:
		delete(s.sysctls, o.Key())
	default:
		if plan.NetNSOf(o) == "" {
			s.entries.remove(o)
		}
	}
}

// removeLink drops a link with what is on it.
func (s *shadow) removeLink(name string) {
	delete(s.links, name)
	s.entries.removeLink(name)
	maps.DeleteFunc(s.members, func(_, bridge string) bool { return bridge == name })
	for k, a := range s.addrs {
		if a.Link == name {
			delete(s.addrs, k)
		}
	}
	for k, r := range s.routes {
		if r.Link == name {
			delete(s.routes, k)
		}
	}
	for k, v := range s.sysctls {
		if v.Link() == name {
			delete(s.sysctls, k)
		}
	}
	for k, l := range s.links {
		if l.Master == name {
			l.Master, l.Port = "", plan.BridgePort{}
			s.links[k] = l
		}
	}
}

// busy reports whether a run of Apply is under way.
func (s *shadow) busy() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.active > 0
}

// linkDrifted compares the last word about a link with the shadow.
func (s *shadow) linkDrifted(l rtnetlink.Link, master string, gone bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	want, known := s.links[l.Name]
	scope, peer, owned := l.Owner()
	switch {
	case !known && s.members[l.Name] != "":
		return gone || s.members[l.Name] != master
	case !known:
		return !gone && owned && !peer && !s.leaving(l.Name)
	case gone:
		return true
	case want.MTU != 0 && want.MTU != l.MTU, want.MAC != plan.MAC{} && want.MAC != l.MAC,
		l.Kind == plan.Veth && l.GSO != 0 && l.GSO != max(want.GSO, plan.PlainGSO):
		return true
	}
	return want.Kind != l.Kind || want.VXLAN != l.Device() || want.Owner != scope || want.Up != l.Up ||
		want.Master != master
}

func (s *shadow) addrDrifted(a plan.Addr, gone bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.addrs[a.Key()]; known {
		return gone
	}
	_, ours := s.links[a.Link]
	return ours && !gone && !a.Prefix.Addr().IsLinkLocalUnicast()
}

// cutOff reports whether a route that has gone was that of an address of ours.
func (s *shadow) cutOff(link string, dst netip.Prefix) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ours := s.links[link]; !ours {
		return false
	}
	for _, a := range s.addrs {
		if a.NS == "" && a.Link == link && a.Prefix.Masked() == dst.Masked() {
			return true
		}
	}
	return false
}

// leadsBy reports whether a route of ours leads by a link. The kernel drops those of IPv4 without a word when the link
// goes down.
func (s *shadow) leadsBy(link string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.routes {
		if r.NS == "" && r.Link == link {
			return true
		}
	}
	return false
}

func (s *shadow) routeDrifted(r plan.Route, gone bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	want, known := s.routes[r.Key()]
	if !known {
		return !gone
	}
	return gone || want.Normal() != r.Normal()
}

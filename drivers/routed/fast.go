package routed

import (
	"slices"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/drivers/bridge"
	"github.com/vethloom/vethloom/plan"
)

// fast completes what a backend has on the fast path, or takes it away from networks that have none. The ends of a
// routed network are routers: endpoints send to the bridge.
func (r rendering) fast(n cnm.Network, s plan.State) plan.State {
	if !r.o.Bridge.Fast(n, r.inner) {
		s.Fast = plan.Fast{}
		return s
	}
	f := &s.Fast
	if r.inner.Filters.Drop(r.o.Bridge.Link(n)) { // what is routed takes the way where that happens
		*f = plan.Fast{Counters: f.Counters}
		return s
	}
	if r.inner.Filters.About(r.inner.Uplink.Link) { // what has no tunnel comes by that link, and leaves by it
		f.Peers = slices.DeleteFunc(slices.Clone(f.Peers), func(p plan.FastPeer) bool {
			return p.Way == plan.FastPlain
		})
	}
	f.Peers, f.Tunnels = slices.Clone(f.Peers), slices.Clone(f.Tunnels)
	for i := range f.Peers {
		f.Peers[i].Via, f.Peers[i].Routed = bridge.MAC(n), true
	}
	for i := range f.Tunnels {
		f.Tunnels[i].Routed = f.Tunnels[i].Way == plan.FastVXLAN && f.Tunnels[i].Network != ""
	}
	return s
}

// plain has what comes by plain routes led to the endpoint too.
func (r rendering) plain(f *plan.Fast) {
	if !r.self.Plain {
		return
	}
	for _, e := range f.Endpoints {
		e.Plain = true
		f.Endpoints = append(f.Endpoints, e)
	}
}

// SlowPath implements [cnm.PathTeller].
func (d Driver) SlowPath(n cnm.Network, e cnm.Endpoint, h cnm.Host) string {
	o, err := d.options(n)
	if err != nil {
		return err.Error()
	}
	return bridge.SlowPath(n, e, o.Bridge, h)
}

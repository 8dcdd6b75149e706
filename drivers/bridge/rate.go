package bridge

import (
	"github.com/vethloom/vethloom/internal/linkname"
	"github.com/vethloom/vethloom/plan"
)

// burstTime is the part of a second whose bytes may leave at once: enough for a busy host to wake up in.
const burstTime = 50

// frameRoom is what a frame has beside its packet, with some room for tags.
const frameRoom = 64

// limit holds the endpoint to its rates. What goes to it waits at the host's end of its link. What comes from it goes
// through a link of its own first and waits there: a queue on the endpoint's own end would be the container's to
// remove.
func (r *endpointRender) limit(mtu int) {
	if r.e.RateIn != 0 {
		r.state.Shapers = append(r.state.Shapers, shaper(r.host, r.e.RateIn, mtu))
	}
	if r.e.RateOut == 0 {
		return
	}
	through := linkname.Of(linkname.IFB, r.e.ID)
	r.state.Links = append(r.state.Links, plan.Link{Name: through, Owner: endpointScope(r.e), Kind: plan.IFB, MTU: mtu,
		Up: true})
	r.state.Shapers = append(r.state.Shapers, shaper(through, r.e.RateOut, mtu))
	r.state.Redirects = append(r.state.Redirects, plan.Redirect{Link: r.host, To: through})
}

// shaper holds a link to a number of bits a second.
func shaper(link string, rate uint64, mtu int) plan.Shaper {
	return plan.Shaper{Link: link, Rate: rate / 8, Burst: uint32(max(rate/8/burstTime, 2*uint64(mtu+frameRoom)))}
}

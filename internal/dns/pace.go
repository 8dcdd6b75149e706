package dns

import (
	"net/netip"
	"time"
)

// At a gateway those who ask share one socket: what one sends faster than this is thrown away unread, so that there is
// room in it for the others.
const (
	paceRate  = 2000 // questions a second
	paceBurst = 1000 // at once
	paceMost  = 1024 // of those who ask are kept in mind
)

// pace bounds how fast each of those who ask at one socket is read. It is of one goroutine. A nil pace has no bound.
type pace struct{ by map[netip.Addr]*allowance }

type allowance struct {
	left  float64 // questions
	since time.Time
}

func newPace() *pace { return &pace{by: map[netip.Addr]*allowance{}} }

// take reports whether a question is to be read.
func (p *pace) take(from netip.Addr, now time.Time) bool {
	if p == nil {
		return true
	}
	a := p.by[from]
	if a == nil {
		if len(p.by) >= paceMost {
			clear(p.by)
		}
		a = &allowance{left: paceBurst, since: now}
		p.by[from] = a
	}
	a.left = min(a.left+paceRate*now.Sub(a.since).Seconds(), paceBurst)
	a.since = now
	if a.left < 1 {
		return false
	}
	a.left--
	return true
}

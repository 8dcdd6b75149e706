package etcd

import (
	"math/rand/v2"
	"time"
)

// When a watch costs more than it is worth, and how long it rests then.
const (
	busyDeliveries = 20000 // in a busyPeriod, by etcd to all who follow the directory: about half a core of it
	busyRevisions  = 20    // in a busyPeriod, at least
	busyPeriod     = time.Second
	fullPiece      = 500                    // transactions: etcd gives a watch at most 1000 at once
	minRest        = 200 * time.Millisecond // by so much an event may be later then
	maxRest        = 2 * time.Second
)

// burst tells when so much happens in a directory that its watch had better rest.
type burst struct {
	audience func() int // how many follow the directory; nil: this node alone

	began     time.Time // the watch
	last      time.Time // an update was taken note of, or the first watch began
	start     time.Time // of the period
	revisions int       // in the period
	rested    bool      // what comes next was gathered in a rest
	rest      time.Duration
}

// begin notes that a watch begins.
func (b *burst) begin(now time.Time) {
	b.began, b.start, b.revisions = now, now, 0
	if b.last.IsZero() {
		b.last = now
	}
}

// is reports whether to rest, after an update of so many transactions. As long as what a rest has gathered shows
// that it was worth it, there is another. It is twice as long as it took from the watch's beginning to here: the
// busier etcd and the node are, the more is done in one step.
func (b *burst) is(now time.Time, revisions int) bool {
	if now.Sub(b.start) > busyPeriod {
		b.start, b.revisions = now, 0
	}
	b.revisions += revisions
	since := now.Sub(b.last)
	b.last = now
	if b.rested && revisions >= fullPiece {
		return false // there is more already
	}
	limit := float64(busyRevisions)
	if b.audience == nil {
		limit = busyDeliveries
	} else if n := b.audience(); n > 0 {
		limit = max(limit, busyDeliveries/float64(n))
	}
	worth := b.rested && float64(revisions) > limit/2*since.Seconds()/busyPeriod.Seconds()
	b.rested = worth || float64(b.revisions) >= limit
	if b.rest = minRest; worth {
		b.rest = min(max(minRest, 2*now.Sub(b.began)), maxRest)
	}
	return b.rested
}

// pause is how long to rest: not all nodes at once.
func (b *burst) pause() time.Duration { return b.rest/2 + rand.N(b.rest) }

package dns

import (
	"net/netip"
	"sync"
)

// quota bounds what is under way for one name server, and for each of those who ask there: on a network they are
// several, and one who floods leaves room for the others.
type quota struct {
	most, each int // each: 0 where all are one

	mu sync.Mutex
	n  int
	by map[netip.Addr]int
}

func newQuota(most int, several bool) *quota {
	q := &quota{most: most, by: map[netip.Addr]int{}}
	if several {
		q.each = most / 4
	}
	return q
}

// take reports whether there is room for one more.
func (q *quota) take(from netip.Addr) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.n >= q.most || q.each > 0 && q.by[from] >= q.each {
		return false
	}
	q.n++
	q.by[from]++
	return true
}

func (q *quota) give(from netip.Addr) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.n--
	if q.by[from]--; q.by[from] == 0 {
		delete(q.by, from)
	}
}

func (q *quota) used() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.n
}

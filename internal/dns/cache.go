package dns

import (
	"container/list"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// Bounds of the cache.
const (
	cacheEntries = 4096
	cacheBytes   = 4 << 20
	cacheAnswer  = 8 << 10         // a larger one is not kept
	cachePlus    = time.Hour       // the longest that an answer is kept
	cacheMinus   = 5 * time.Minute // and one that there is nothing (RFC 2308 section 5)
)

// cache keeps answers of servers elsewhere for as long as they say. The one that was used the longest ago goes first.
type cache struct {
	mu    sync.Mutex
	byKey map[inquiry]*list.Element
	used  *list.List // of *kept, the last used first
	bytes int
	now   func() time.Time
}

type kept struct {
	inquiry
	msg   *dns.Msg // never changed
	size  int
	since time.Time
	until time.Time
}

func newCache() *cache {
	return &cache{byKey: map[inquiry]*list.Element{}, used: list.New(), now: time.Now}
}

// get returns a copy whose records say how long they are still right, and for how many seconds it is kept.
func (c *cache) get(i inquiry) (*dns.Msg, int) {
	c.mu.Lock()
	e := c.byKey[i]
	if e == nil {
		c.mu.Unlock()
		return nil, 0
	}
	k := e.Value.(*kept)
	now := c.now()
	if !now.Before(k.until) {
		c.drop(e)
		c.mu.Unlock()
		return nil, 0
	}
	c.used.MoveToFront(e)
	c.mu.Unlock()
	m := k.msg.Copy()
	age := uint32(now.Sub(k.since) / time.Second)
	for _, part := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range part {
			h := rr.Header()
			h.Ttl -= min(h.Ttl, age)
		}
	}
	return m, int(k.until.Sub(now) / time.Second)
}

// put keeps an answer, where it says that it may be kept.
func (c *cache) put(i inquiry, m *dns.Msg) {
	life := lifeOf(m)
	size := m.Len()
	if life <= 0 || size > cacheAnswer {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.byKey[i]; e != nil {
		c.drop(e)
	}
	now := c.now()
	c.byKey[i] = c.used.PushFront(&kept{i, m.Copy(), size, now, now.Add(life)})
	c.bytes += size
	for c.used.Len() > cacheEntries || c.bytes > cacheBytes {
		c.drop(c.used.Back())
	}
}

func (c *cache) drop(e *list.Element) {
	k := c.used.Remove(e).(*kept)
	delete(c.byKey, k.inquiry)
	c.bytes -= k.size
}

// forget drops what was asked from one place.
func (c *cache) forget(where string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, e := range c.byKey {
		if i.where == where {
			c.drop(e)
		}
	}
}

// lifeOf is how long an answer may be kept: as long as the record that ends first, or as the zone says of what is not
// there. One that does not say is not kept.
func lifeOf(m *dns.Msg) time.Duration {
	if m.Rcode == dns.RcodeSuccess && len(m.Answer) > 0 {
		ttl := uint32(cachePlus / time.Second)
		for _, rr := range m.Answer {
			ttl = min(ttl, rr.Header().Ttl)
		}
		return time.Duration(ttl) * time.Second
	}
	for _, rr := range m.Ns {
		if soa, ok := rr.(*dns.SOA); ok {
			ttl := min(soa.Hdr.Ttl, soa.Minttl, uint32(cacheMinus/time.Second))
			return time.Duration(ttl) * time.Second
		}
	}
	return 0
}

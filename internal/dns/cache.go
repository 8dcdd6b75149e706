package dns

import (
	"container/list"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// Bounds of the cache. Answers are kept as they are sent: read, they take several times as much.
const (
	cacheShared  = 4 << 20   // bytes for those who ask the host's servers
	cachePlace   = 128 << 10 // and for one sandbox with servers of its own
	cachePlaces  = 4 << 20   // and for all of these together
	cacheEntry   = 400       // what an answer takes beside its own bytes
	cacheAnswer  = 8 << 10   // a larger one is not kept
	cacheLongest = time.Hour
	cacheNothing = 5 * time.Minute // the longest that it is kept that there is nothing (RFC 2308 section 5)
)

// sharedPlace begins the place of those who ask the host's servers.
const sharedPlace = "host "

// cache keeps answers of servers elsewhere for as long as they say, apart for each place that is asked from. Of each
// place, what was used the longest ago goes first.
type cache struct {
	mu     sync.Mutex
	places map[string]*shelf
	others int // bytes of all places but the shared one
	now    func() time.Time
}

// shelf has the answers of one place.
type shelf struct {
	byKey map[inquiry]*list.Element
	used  *list.List // of *kept, the last used first
	bytes int
	most  int
}

type kept struct {
	inquiry
	b     []byte // never changed
	size  int
	since time.Time
	until time.Time
}

func newCache() *cache { return &cache{places: map[string]*shelf{}, now: time.Now} }

// get returns a message whose records say how long they are still right, and for how many seconds it is kept.
func (c *cache) get(i inquiry) (*dns.Msg, int) {
	k, now := c.find(i)
	m := new(dns.Msg)
	if k == nil || m.Unpack(k.b) != nil {
		return nil, 0
	}
	age := uint32(now.Sub(k.since) / time.Second)
	for _, part := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range part {
			h := rr.Header()
			h.Ttl -= min(h.Ttl, age)
		}
	}
	return m, int(k.until.Sub(now) / time.Second)
}

func (c *cache) find(i inquiry) (*kept, time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	s := c.places[i.where]
	if s == nil || s.byKey[i] == nil {
		return nil, now
	}
	e := s.byKey[i]
	k := e.Value.(*kept)
	if !now.Before(k.until) {
		c.drop(i.where, e)
		return nil, now
	}
	s.used.MoveToFront(e)
	return k, now
}

// put keeps an answer, where it says that it may be kept.
func (c *cache) put(i inquiry, m *dns.Msg) {
	life := lifeOf(m)
	if life <= 0 || m.Truncated {
		return
	}
	m.Compress = true
	b, err := m.Pack()
	if err != nil || len(b) > cacheAnswer {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.places[i.where]
	if s == nil {
		s = &shelf{byKey: map[inquiry]*list.Element{}, used: list.New(), most: cachePlace}
		if strings.HasPrefix(i.where, sharedPlace) {
			s.most = cacheShared
		}
		c.places[i.where] = s
	}
	if e := s.byKey[i]; e != nil {
		c.drop(i.where, e)
		c.places[i.where] = s // it may have been the only one
	}
	now := c.now()
	k := &kept{i, b, len(b) + len(i.name) + cacheEntry, now, now.Add(life)}
	s.byKey[i] = s.used.PushFront(k)
	c.count(i.where, s, k.size)
	for s.bytes > s.most {
		c.drop(i.where, s.used.Back())
	}
	for c.others > cachePlaces {
		where, largest := c.largest()
		c.drop(where, largest.used.Back())
	}
}

// largest is the place that has the most of those that share a bound.
func (c *cache) largest() (where string, s *shelf) {
	for w, x := range c.places {
		if !strings.HasPrefix(w, sharedPlace) && (s == nil || x.bytes > s.bytes) {
			where, s = w, x
		}
	}
	return where, s
}

func (c *cache) count(where string, s *shelf, size int) {
	s.bytes += size
	if !strings.HasPrefix(where, sharedPlace) {
		c.others += size
	}
}

func (c *cache) drop(where string, e *list.Element) {
	s := c.places[where]
	k := s.used.Remove(e).(*kept)
	delete(s.byKey, k.inquiry)
	c.count(where, s, -k.size)
	if s.used.Len() == 0 {
		delete(c.places, where)
	}
}

// forget drops what was asked from one place.
func (c *cache) forget(where string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.places[where]; s != nil {
		c.count(where, s, -s.bytes)
		delete(c.places, where)
	}
}

// lifeOf is how long an answer may be kept: as long as the record that ends first, or as the zone says of what is not
// there. One that does not say is not kept.
func lifeOf(m *dns.Msg) time.Duration {
	if m.Rcode == dns.RcodeSuccess && len(m.Answer) > 0 {
		ttl := uint32(cacheLongest / time.Second)
		for _, rr := range m.Answer {
			ttl = min(ttl, rr.Header().Ttl)
		}
		return time.Duration(ttl) * time.Second
	}
	if m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError {
		return 0
	}
	for _, rr := range m.Ns {
		if soa, ok := rr.(*dns.SOA); ok {
			ttl := min(soa.Hdr.Ttl, soa.Minttl, uint32(cacheNothing/time.Second))
			return time.Duration(ttl) * time.Second
		}
	}
	return 0
}

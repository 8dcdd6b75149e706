package etcd

import (
	"container/heap"
	"errors"
	"time"
)

// Limit bounds what is followed of one class of keys.
type Limit struct {
	Keys  int // how many; 0: none
	Bytes int // of keys and values together
	Value int // of one value: a longer one is left out, see [Item.Cut]
}

// Bound has Follow keep to limits: whoever writes to etcd can make more keys than a node has memory for. F tells the
// class of an item, which may have no value, and the class's limit. Of more keys than that, the oldest are followed, on
// every node the same: those that somebody adds take no place from what was there before. The others cost no memory,
// are counted in [Update.Excess], and are followed once there is room: it is looked for that often at most.
func Bound(often time.Duration, f func(*Item) (class string, l Limit)) FollowOption {
	return func(w *follower) { w.room = &room{of: f, often: often} }
}

// errRoom says that keys that were left out can be followed now.
var errRoom = errors.New("there is room for more keys")

// room keeps count of what is followed. A nil room has no limits.
type room struct {
	of      func(*Item) (string, Limit)
	often   time.Duration
	classes map[string]*class
	listed  time.Time
	timer   *time.Timer // until keys that were left out are looked for; nil: there is no room for any
}

type class struct {
	limit  Limit
	keys   int
	bytes  int
	excess int     // how many keys there are besides
	items  byBirth // while they are listed
}

func (i *Item) size() int { return len(i.Key) + len(i.Value) }

// begin starts a list.
func (r *room) begin() {
	if r != nil {
		r.classes, r.listed = map[string]*class{}, time.Now()
		r.end()
	}
}

// end stops the timer.
func (r *room) end() {
	if r != nil && r.timer != nil {
		r.timer.Stop()
		r.timer = nil
	}
}

// due wakes when keys that were left out are to be looked for.
func (r *room) due() <-chan time.Time {
	if r == nil || r.timer == nil {
		return nil
	}
	return r.timer.C
}

func (r *room) class(i *Item) *class {
	name, limit := r.of(i)
	c := r.classes[name]
	if c == nil {
		c = &class{limit: limit}
		r.classes[name] = c
	}
	return c
}

// cut leaves out a value that is too long.
func (c *class) cut(i *Item) {
	if len(i.Value) > c.limit.Value {
		i.Value, i.Cut = []byte{}, true
	}
}

// list enters a listed item, and takes the youngest of its class out while there are too many.
func (r *room) list(next map[string]*Item, i *Item) {
	if r == nil {
		next[i.Key] = i
		return
	}
	c := r.class(i)
	c.cut(i)
	next[i.Key] = i
	heap.Push(&c.items, i)
	for c.bytes += i.size(); len(c.items) > c.limit.Keys || c.bytes > c.limit.Bytes; c.excess++ {
		out := heap.Pop(&c.items).(*Item)
		c.bytes -= out.size()
		delete(next, out.Key)
	}
}

// done ends a list.
func (r *room) done() {
	if r == nil {
		return
	}
	for _, c := range r.classes {
		c.keys, c.items = len(c.items), nil
	}
}

// put reports whether an item that has come or changed is followed.
func (r *room) put(old, now *Item) bool {
	if r == nil {
		return true
	}
	c := r.class(now)
	c.cut(now)
	if old != nil {
		was := r.class(old)
		was.keys--
		was.bytes -= old.size()
		if c.bytes+now.size() > c.limit.Bytes {
			now.Value, now.Cut = []byte{}, true // its key stays: what is gone and what is too large are not alike
		}
	} else if now.Create != now.Mod {
		return false // one of the excess has changed
	} else if c.keys+1 > c.limit.Keys || c.bytes+now.size() > c.limit.Bytes {
		c.excess++
		return false
	}
	c.keys++
	c.bytes += now.size()
	return true
}

// gone takes note that a key is gone.
func (r *room) gone(key string, old *Item) {
	switch {
	case r == nil:
	case old == nil:
		c := r.class(&Item{Key: key})
		c.excess = max(c.excess-1, 0)
	default:
		c := r.class(old)
		c.keys--
		c.bytes -= old.size()
		if c.excess > 0 && r.timer == nil {
			r.timer = time.NewTimer(r.often - time.Since(r.listed))
		}
	}
}

// excess is how many keys of each class are left out; nil: none.
func (r *room) excess() map[string]int {
	if r == nil {
		return nil
	}
	var out map[string]int
	for name, c := range r.classes {
		if c.excess > 0 {
			if out == nil {
				out = map[string]int{}
			}
			out[name] = c.excess
		}
	}
	return out
}

// byBirth is a heap with the youngest item first.
type byBirth []*Item

func (h byBirth) Len() int { return len(h) }
func (h byBirth) Less(i, j int) bool {
	if h[i].Create != h[j].Create {
		return h[i].Create > h[j].Create
	}
	return h[i].Key > h[j].Key
}
func (h byBirth) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *byBirth) Push(i any)   { *h = append(*h, i.(*Item)) }
func (h *byBirth) Pop() any {
	old := *h
	last := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return last
}

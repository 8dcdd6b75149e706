package image

import (
	"context"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// pin keeps a blob or a layer that no record names yet from being collected, and lets one operation at a time make it.
type pin struct {
	holders int
	turn    chan struct{} // holds a token when no one makes it
	// What the one who had the turn left for the others, to be looked at with the turn alone.
	staged   *unpacked // a layer that was unpacked and has not appeared yet
	verified bool      // a blob is whole where it is fetched into, or has appeared since
	size     int64     // bytes of a verified blob

	mu       sync.Mutex
	watchers map[int]func(Progress) // who wants to know how far it is
	next     int
}

// pinKey tells blobs from layers: an uncompressed layer has the same digest as a blob and as a layer.
func pinKey(kind, hex string) string { return kind + ":" + hex }

const (
	pinBlob  = "blob"
	pinLayer = "layer"
)

// hold pins a thing until release is called. What its last holder leaves unpublished is removed.
func (c *content) hold(kind, hex string) (p *pin, release func()) {
	key := pinKey(kind, hex)
	c.mu.Lock()
	defer c.mu.Unlock()
	p = c.pins[key]
	if p == nil {
		p = &pin{turn: make(chan struct{}, 1), watchers: map[int]func(Progress){}}
		p.turn <- struct{}{}
		c.pins[key] = p
	}
	p.holders++
	return p, sync.OnceFunc(func() {
		c.mu.Lock()
		p.holders--
		last := p.holders == 0
		if last {
			delete(c.pins, key)
		}
		c.mu.Unlock()
		if last && p.staged != nil {
			if err := p.staged.discard(); err != nil {
				c.log.Warn("cannot remove a layer that is not needed", "dir", p.staged.dir, "err", err)
			}
		}
	})
}

// shared is the layer that is staged for all who wait for it, if there is one. One that is given is that from now on.
func (p *pin) shared(u *unpacked) *unpacked {
	p.mu.Lock()
	defer p.mu.Unlock()
	if u != nil {
		p.staged = u
	}
	return p.staged
}

// take waits for the turn to make a thing; the caller gives it back with done.
func (p *pin) take(ctx context.Context) (done func(), err error) {
	select {
	case <-p.turn:
		return func() { p.turn <- struct{}{} }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// watch has report called with what [pin.tell] is, until stop.
func (p *pin) watch(report func(Progress)) (stop func()) {
	if report == nil {
		return func() {}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	id := p.next
	p.next++
	p.watchers[id] = report
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.watchers, id)
	}
}

// tell says how far the thing is to all who wait for it.
func (p *pin) tell(m Progress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, report := range p.watchers {
		report(m)
	}
}

// chainIDs names each layer with all that is below it, as the OCI image specification has it ("Layer ChainID").
func chainIDs(diffIDs []v1.Hash) []v1.Hash {
	chains := make([]v1.Hash, len(diffIDs))
	for i, d := range diffIDs {
		if i == 0 {
			chains[i] = d
			continue
		}
		chains[i] = digestOf([]byte(chains[i-1].String() + " " + d.String()))
	}
	return chains
}

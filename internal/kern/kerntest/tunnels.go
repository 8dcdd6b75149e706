package kerntest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/vethloom/vethloom/plan"
)

// Tunnels is a kern.TunnelHost that carries nothing but is strict about the order of calls.
// The zero value is ready to use.
type Tunnels struct {
	mu      sync.Mutex
	tunnels map[string]plan.Tunnel
	remotes map[string]plan.TunnelPeer
	fail    error
}

// FailWith makes every further call of Open and Add return err; nil ends it.
func (h *Tunnels) FailWith(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fail = err
}

// Restart does what the end of the process does.
func (h *Tunnels) Restart() {
	h.mu.Lock()
	defer h.mu.Unlock()
	clear(h.tunnels)
	clear(h.remotes)
}

// Open notes a tunnel.
func (h *Tunnels) Open(_ context.Context, t plan.Tunnel) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fail != nil {
		return h.fail
	}
	if h.tunnels == nil {
		h.tunnels, h.remotes = map[string]plan.Tunnel{}, map[string]plan.TunnelPeer{}
	}
	h.tunnels[t.Link] = t
	return nil
}

// Close forgets a tunnel; its remotes stay.
func (h *Tunnels) Close(link string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.tunnels, link)
	return nil
}

// Add notes a remote of an open tunnel.
func (h *Tunnels) Add(r plan.TunnelPeer) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fail != nil {
		return h.fail
	}
	if _, ok := h.tunnels[r.Link]; !ok {
		return fmt.Errorf("%s: no such tunnel", r)
	}
	h.remotes[r.Key()] = r
	return nil
}

// Remove forgets a remote, which must be there.
func (h *Tunnels) Remove(r plan.TunnelPeer) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, ok := h.remotes[r.Key()]; !ok {
		return fmt.Errorf("%s: no such remote", r)
	}
	delete(h.remotes, r.Key())
	return nil
}

// List returns what there is.
func (h *Tunnels) List() ([]plan.Tunnel, []plan.TunnelPeer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Collect(maps.Values(h.tunnels)), slices.Collect(maps.Values(h.remotes))
}

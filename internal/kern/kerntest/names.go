package kerntest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/vethloom/vethloom/internal/descriptor"
	"github.com/vethloom/vethloom/internal/resolver/control"
	"github.com/vethloom/vethloom/plan"
)

// Names is a kern.NameHost that answers nothing and holds what it is given. The zero value is ready for use.
type Names struct {
	mu      sync.Mutex
	zones   map[string]plan.NameZone
	members map[string]plan.NameMember
	servers map[string]NameServer
}

// NameServer is a server with its sockets.
type NameServer struct {
	plan.NameServer
	Sockets control.Sockets
}

func (h *Names) init() {
	if h.zones == nil {
		h.zones, h.members = map[string]plan.NameZone{}, map[string]plan.NameMember{}
		h.servers = map[string]NameServer{}
	}
}

// Names notes operations.
func (h *Names) Names(_ context.Context, ops []plan.Op) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.init()
	for _, op := range ops {
		switch o := op.Object.(type) {
		case plan.NameZone:
			note(h.zones, op.Verb, o)
		case plan.NameMember:
			note(h.members, op.Verb, o)
		default:
			return fmt.Errorf("%s is no name", op)
		}
	}
	return nil
}

func note[T plan.Object](m map[string]T, v plan.Verb, o T) {
	if v == plan.Delete {
		delete(m, o.Key())
		return
	}
	m[o.Key()] = o
}

// Serve keeps sockets.
func (h *Names) Serve(_ context.Context, n plan.NameServer, s control.Sockets) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.init()
	h.servers[n.Key()].Sockets.Close()
	h.servers[n.Key()] = NameServer{n, s}
	return nil
}

// Stop closes a server's sockets.
func (h *Names) Stop(_ context.Context, key string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.servers[key].Sockets.Close()
	delete(h.servers, key)
	return nil
}

// List returns what there is.
func (h *Names) List() ([]plan.NameZone, []plan.NameMember, []control.Held) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var held []control.Held
	for _, s := range h.servers {
		held = append(held, control.Held{NameServer: s.NameServer, UDP: s.Sockets.UDP})
	}
	return slices.Collect(maps.Values(h.zones)), slices.Collect(maps.Values(h.members)), held
}

// Server is the server of a key with further descriptors of its sockets.
func (h *Names) Server(key string) (udp, tcp descriptor.Descriptor, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s, ok := h.servers[key]
	if !ok {
		return udp, tcp, fmt.Errorf("no server %q", key)
	}
	if udp, err = s.Sockets.UDP.Duplicate(); err == nil {
		tcp, err = s.Sockets.TCP.Duplicate()
	}
	return udp, tcp, err
}

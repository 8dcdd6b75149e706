package cnm

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/vethloom/vethloom/internal/plan"
)

// SandboxRequest asks for a network stack with endpoints in it.
type SandboxRequest struct {
	ID        string // chosen by the caller, which makes the call idempotent; "": made here
	Container string
	Labels    map[string]string
	Host      bool            // the fabric's own namespace; the same as attaching to network host alone
	Attach    []AttachRequest // Sandbox is ignored; network host or none stands alone
	Ports     []PortMapping   // published on the endpoint that provides the default route
}

// CreateSandbox makes a sandbox with all its endpoints, or nothing, in one commit and
// one pass. When the sandbox exists with the same networks it returns that.
func (k *Controller) CreateSandbox(ctx context.Context, r SandboxRequest) (Sandbox, []Endpoint, error) {
	if err := checkSandbox(&r); err != nil {
		return Sandbox{}, nil, err
	}
	if err := k.placePorts(&r); err != nil {
		return Sandbox{}, nil, err
	}
	if r.ID == "" {
		k.mu.Lock()
		id, err := k.newID(KindSandbox)
		k.mu.Unlock()
		if err != nil {
			return Sandbox{}, nil, err
		}
		r.ID = id
	}
	unlock, err := k.locks.lock(ctx, "sandbox/"+r.ID)
	if err != nil {
		return Sandbox{}, nil, err
	}
	defer unlock()
	if s, ok, err := k.existing(ctx, r); ok || err != nil {
		if err != nil {
			return Sandbox{}, nil, inSandbox(r, r.ID, err)
		}
		endpoints, err := k.EndpointsOf(ctx, s.ID)
		return s, endpoints, err
	}
	s, err := k.holdSandbox(r)
	if err != nil {
		return Sandbox{}, nil, err
	}
	endpoints, err := k.join(ctx, s, true, r.Attach)
	if err != nil {
		return Sandbox{}, nil, inSandbox(r, s.ID, err)
	}
	k.emit(Event{Kind: KindSandbox, Action: ActionCreate, ID: s.ID, Container: s.Container})
	for _, e := range endpoints {
		k.emitEndpoint(ActionConnect, e, s.Container)
	}
	return copySandbox(s), endpoints, nil
}

func checkSandbox(r *SandboxRequest) (err error) {
	if r.ID != "" {
		if err := checkID(r.ID); err != nil {
			return err
		}
	}
	r.Attach = slices.Clone(r.Attach)
	if r.Host && len(r.Attach) == 0 {
		r.Attach = []AttachRequest{{Network: NetworkHost}}
	}
	for i := range r.Attach {
		if err := checkAttach(r.Attach[i]); err != nil {
			return err
		}
		if r.Attach[i].Ports, err = normalizePorts(r.Attach[i].Ports); err != nil {
			return err
		}
	}
	r.Ports, err = normalizePorts(r.Ports)
	return err
}

// placePorts resolves networks host and none, and hands the sandbox's ports to the endpoint
// with the highest gateway priority whose network can publish them.
func (k *Controller) placePorts(r *SandboxRequest) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	best := -1
	for i, a := range r.Attach {
		n, err := k.findNetwork(a.Network)
		if err != nil {
			return err
		}
		if n.Driver == DriverHost || n.Driver == DriverNull {
			return k.standAlone(r, n)
		}
		d, err := k.driver(n.Driver)
		if err != nil {
			return err
		}
		if d.Capabilities().Ports && !n.Internal && (best < 0 || a.Priority > r.Attach[best].Priority) {
			best = i
		}
	}
	if len(r.Ports) == 0 {
		return hostAlone(r)
	}
	if best < 0 {
		return badPort(r.Ports[0], "none of the sandbox's networks can publish ports", "attach it to a bridge network that is not internal")
	}
	r.Attach[best].Ports = append(slices.Clone(r.Attach[best].Ports), r.Ports...)
	return hostAlone(r)
}

func hostAlone(r *SandboxRequest) error {
	if r.Host && len(r.Attach) > 0 {
		return &Error{Kind: ErrInvalid, Field: "network", Value: r.Attach[0].Network, Reason: "the sandbox is the host's own network stack", Remedy: "attach it to no network, or make it a sandbox of its own"}
	}
	return nil
}

// standAlone checks a request for network host or none. On none there is no
// endpoint; on host there is one, without links or addresses, so that the network knows
// its members.
func (k *Controller) standAlone(r *SandboxRequest, n Network) error {
	a := r.Attach[0]
	if len(r.Attach) > 1 || r.Host && n.Driver == DriverNull {
		return &Error{Kind: ErrInvalid, Field: "network", Value: n.Name, Reason: "it cannot be combined with other networks", Remedy: "leave it or the others out"}
	}
	if len(a.Addrs) > 0 || a.MAC != (plan.MAC{}) {
		return &Error{Kind: ErrInvalid, Field: "network", Value: n.Name, Reason: "addresses cannot be chosen on it", Remedy: "leave them out"}
	}
	if ports := append(slices.Clone(a.Ports), r.Ports...); len(ports) > 0 {
		reason, remedy := "a sandbox on network none reaches nothing", "choose a bridge network"
		if n.Driver == DriverHost {
			reason, remedy = "a sandbox on network host has the host's ports already", "leave the ports out: what listens in it is reachable"
		}
		return badPort(ports[0], reason, remedy)
	}
	if n.Driver == DriverNull {
		r.Attach = nil
	}
	r.Host = n.Driver == DriverHost
	return nil
}

// existing answers a request for a sandbox that exists; one that is on its
// way out is removed first.
func (k *Controller) existing(ctx context.Context, r SandboxRequest) (Sandbox, bool, error) {
	k.mu.Lock()
	ent := k.ix.sandboxes[r.ID]
	var s Sandbox
	same := ent != nil
	var scopes []plan.Scope
	if ent != nil {
		s = copySandbox(ent.v)
		scopes = k.scopesOf(r.ID)
		same = k.sameNetworks(r) && s.Host == r.Host
	}
	k.mu.Unlock()
	switch {
	case ent == nil:
		return Sandbox{}, false, nil
	case s.Phase == Deleting:
		return Sandbox{}, false, k.dissolve(ctx, r.ID)
	case !same:
		return Sandbox{}, false, &Error{
			Kind: ErrExists, Field: "sandbox", Value: Short(r.ID), Reason: "it exists, with other networks",
			Remedy: "remove it first, or connect and disconnect it",
		}
	}
	return s, true, k.converge(ctx, scopes...)
}

// sameNetworks tells whether the sandbox is on just the networks of the
// request. The caller holds mu.
func (k *Controller) sameNetworks(r SandboxRequest) bool {
	want := map[string]bool{}
	for _, a := range r.Attach {
		n, err := k.findNetwork(a.Network)
		if err != nil {
			return false
		}
		want[n.ID] = true
	}
	have := map[string]bool{}
	for _, e := range k.ix.ofSandbox[r.ID] {
		if e.v.Phase == Active {
			have[e.v.Network] = true
		}
	}
	return maps.Equal(want, have)
}

// scopesOf are the scopes of a sandbox and its endpoints. The caller holds mu.
func (k *Controller) scopesOf(sandbox string) []plan.Scope {
	scopes := []plan.Scope{SandboxScope(sandbox)}
	for _, e := range k.ix.endpointsOf(sandbox) {
		scopes = append(scopes, EndpointScope(e.ID))
	}
	return scopes
}

func (k *Controller) holdSandbox(r SandboxRequest) (Sandbox, error) {
	s := copySandbox(Sandbox{ID: r.ID, Host: r.Host, Container: r.Container, Labels: r.Labels, Phase: Active})
	if !r.Host {
		s.NetNS = plan.NetNS(Short(r.ID))
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ix.shortTaken(KindSandbox, r.ID) {
		return s, &Error{
			Kind: ErrExists, Field: "sandbox", Value: r.ID, Reason: fmt.Sprintf("another one begins with the same %d digits", ShortLen),
			Remedy: "choose another ID",
		}
	}
	k.ix.putSandbox(s, true)
	return s, nil
}

// inSandbox says which sandbox could not be made, unless it is a container's: then the
// container is what the user knows.
func inSandbox(r SandboxRequest, id string, err error) error {
	if r.Container != "" {
		return err
	}
	return fmt.Errorf("create sandbox %s: %w", Short(id), err)
}

// DeleteSandbox detaches and removes everything of a sandbox; one that does not exist
// is no error. When the kernel cannot be made to agree, the records stay marked
// and go with a later pass.
func (k *Controller) DeleteSandbox(ctx context.Context, id string) error {
	unlock, err := k.locks.lock(ctx, "sandbox/"+id)
	if err != nil {
		return err
	}
	defer unlock()
	if err := k.dissolve(ctx, id); err != nil {
		return fmt.Errorf("remove sandbox %s: %w", Short(id), err)
	}
	return nil
}

// dissolve removes a sandbox and its endpoints: mark, converge, forget. The
// caller holds the sandbox's lock.
func (k *Controller) dissolve(ctx context.Context, id string) error {
	k.mu.Lock()
	ent := k.ix.sandboxes[id]
	endpoints := k.ix.endpointsOf(id)
	scopes := k.scopesOf(id)
	k.mu.Unlock()
	if ent == nil {
		return nil
	}
	if err := k.mark(ctx, id, endpoints); err != nil {
		return err
	}
	return k.finish(ctx, scopes...)
}

// mark puts endpoints, and the sandbox unless it is "", into phase Deleting.
func (k *Controller) mark(ctx context.Context, sandbox string, endpoints []Endpoint) error {
	err := k.commit(ctx, func() ([]Write, error) {
		var writes []Write
		if sandbox != "" {
			w, err := change(ctx, k.store, KindSandbox, sandbox, func(s *Sandbox) { s.Phase = Deleting })
			if err != nil {
				return nil, err
			}
			writes = append(writes, w)
		}
		for _, e := range endpoints {
			w, err := change(ctx, k.store, KindEndpoint, e.ID, func(e *Endpoint) { e.Phase = Deleting })
			if err != nil {
				return nil, err
			}
			writes = append(writes, w)
		}
		return writes, nil
	})
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if ent := k.ix.sandboxes[sandbox]; ent != nil {
		ent.v.Phase, ent.owned = Deleting, true
	}
	for _, e := range endpoints {
		if ent := k.ix.endpoints[e.ID]; ent != nil {
			ent.v.Phase, ent.owned = Deleting, true
		}
	}
	return nil
}

// Sandboxes lists the sandboxes by ID.
func (k *Controller) Sandboxes(ctx context.Context) ([]Sandbox, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	out := make([]Sandbox, 0, len(k.ix.sandboxes))
	for _, e := range k.ix.sandboxes {
		if !e.pending {
			out = append(out, copySandbox(e.v))
		}
	}
	slices.SortFunc(out, func(a, b Sandbox) int { return cmp.Compare(a.ID, b.ID) })
	return out, nil
}

// Sandbox finds a sandbox by ID or the unambiguous beginning of one.
func (k *Controller) Sandbox(ctx context.Context, ref string) (Sandbox, error) {
	if err := ctx.Err(); err != nil {
		return Sandbox{}, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	s, err := find("sandbox", ref, k.ix.sandboxes, nil)
	return copySandbox(s), err
}

// Endpoints lists all endpoints by ID.
func (k *Controller) Endpoints(ctx context.Context) ([]Endpoint, error) {
	return k.listEndpoints(ctx, func() map[string]*entry[Endpoint] { return k.ix.endpoints },
		func(a, b Endpoint) int { return cmp.Compare(a.ID, b.ID) })
}

// EndpointsOf lists the endpoints of a sandbox by index.
func (k *Controller) EndpointsOf(ctx context.Context, sandbox string) ([]Endpoint, error) {
	return k.listEndpoints(ctx, func() map[string]*entry[Endpoint] { return k.ix.ofSandbox[sandbox] }, byIndex)
}

// EndpointsOn lists the endpoints on a network by ID.
func (k *Controller) EndpointsOn(ctx context.Context, network string) ([]Endpoint, error) {
	return k.listEndpoints(ctx, func() map[string]*entry[Endpoint] { return k.ix.ofNetwork[network] },
		func(a, b Endpoint) int { return cmp.Compare(a.ID, b.ID) })
}

func (k *Controller) listEndpoints(ctx context.Context, from func() map[string]*entry[Endpoint], by func(a, b Endpoint) int) ([]Endpoint, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	out := make([]Endpoint, 0)
	for _, e := range from() {
		if !e.pending {
			out = append(out, copyEndpoint(e.v))
		}
	}
	slices.SortFunc(out, by)
	return out, nil
}

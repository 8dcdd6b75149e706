package controller

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/plan"
)

// sandboxes makes and removes network stacks.
type sandboxes struct {
	*records
	ends *endpoints
	out  *removals
}

// CreateSandbox makes a sandbox with all its endpoints, or nothing, in one commit and
// one pass. When the sandbox exists with the same networks it returns that.
func (k *sandboxes) CreateSandbox(ctx context.Context, r cnm.SandboxRequest) (cnm.Sandbox, []cnm.Endpoint, error) {
	if err := checkSandbox(&r); err != nil {
		return cnm.Sandbox{}, nil, err
	}
	if err := k.placePorts(&r); err != nil {
		return cnm.Sandbox{}, nil, err
	}
	if r.ID == "" {
		k.mu.Lock()
		id, err := k.newID(cnm.KindSandbox)
		k.mu.Unlock()
		if err != nil {
			return cnm.Sandbox{}, nil, err
		}
		r.ID = id
	}
	unlock, err := k.locks.Lock(ctx, "sandbox/"+r.ID)
	if err != nil {
		return cnm.Sandbox{}, nil, err
	}
	defer unlock()
	if s, ok, err := k.existing(ctx, r); ok || err != nil {
		if err != nil {
			return cnm.Sandbox{}, nil, inSandbox(r, r.ID, err)
		}
		endpoints, err := k.EndpointsOf(ctx, s.ID)
		return s, endpoints, err
	}
	s, err := k.newSandbox(r)
	if err == nil {
		err = k.holdSandbox(s)
	}
	if err != nil {
		return cnm.Sandbox{}, nil, err
	}
	endpoints, err := k.ends.join(ctx, s, true, r.Attach)
	if err != nil {
		return cnm.Sandbox{}, nil, inSandbox(r, s.ID, err)
	}
	k.emit(Event{Kind: cnm.KindSandbox, Action: ActionCreate, ID: s.ID, Container: s.Container})
	for _, e := range endpoints {
		k.emitEndpoint(ActionConnect, e, s.Container)
	}
	return copySandbox(s), endpoints, nil
}

func checkSandbox(r *cnm.SandboxRequest) (err error) {
	if r.ID != "" {
		if err := cnm.CheckID(r.ID); err != nil {
			return err
		}
	}
	r.Attach = slices.Clone(r.Attach)
	if r.Host && len(r.Attach) == 0 {
		r.Attach = []cnm.AttachRequest{{Network: cnm.NetworkHost}}
	}
	for i := range r.Attach {
		if r.Attach[i].Name == "" {
			r.Attach[i].Name = r.Name
		}
		if err := r.Attach[i].Check(); err != nil {
			return err
		}
		if r.Attach[i].Ports, err = cnm.NormalizePorts(r.Attach[i].Ports); err != nil {
			return err
		}
	}
	if err := cnm.CheckLinkNames(r.Attach); err != nil {
		return err
	}
	r.Ports, err = cnm.NormalizePorts(r.Ports)
	return err
}

// placePorts resolves networks host and none, and hands the sandbox's ports to the endpoint
// with the highest gateway priority whose network can publish them.
func (k *sandboxes) placePorts(r *cnm.SandboxRequest) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	best := -1
	for i, a := range r.Attach {
		n, err := k.findNetwork(a.Network)
		if err != nil {
			return err
		}
		if n.ConfigOnly {
			return cnm.ConfigOnlyError(n.Name)
		}
		if n.Driver == cnm.DriverHost || n.Driver == cnm.DriverNull {
			return k.standAlone(r, n)
		}
		d, err := k.driver(n)
		if err != nil {
			return err
		}
		if cnm.Publishes(d, n) && (best < 0 || a.GwPriority > r.Attach[best].GwPriority) {
			best = i
		}
	}
	if len(r.Ports) == 0 {
		return hostAlone(r)
	}
	if best < 0 {
		return r.Ports[0].Refuse("none of the sandbox's networks can publish ports",
			"attach it to a bridge network that is not internal")
	}
	r.Attach[best].Ports = append(slices.Clone(r.Attach[best].Ports), r.Ports...)
	return hostAlone(r)
}

func hostAlone(r *cnm.SandboxRequest) error {
	if r.Host && len(r.Attach) > 0 {
		return &cnm.Error{Kind: cnm.ErrInvalid, Field: "network", Value: r.Attach[0].Network,
			Reason: "the sandbox is the host's own network stack",
			Remedy: "attach it to no network, or make it a sandbox of its own"}
	}
	return nil
}

// standAlone checks a request for network host or none. On none there is no
// endpoint; on host there is one, without links or addresses, so that the network knows
// its members.
func (k *sandboxes) standAlone(r *cnm.SandboxRequest, n cnm.Network) error {
	a := r.Attach[0]
	if len(r.Attach) > 1 || r.Host && n.Driver == cnm.DriverNull {
		return &cnm.Error{Kind: cnm.ErrInvalid, Field: "network", Value: n.Name,
			Reason: "it cannot be combined with other networks", Remedy: "leave it or the others out"}
	}
	if len(a.Addrs)+len(a.Outbound) > 0 || a.MAC != (plan.MAC{}) || a.LinkOptions.Given() {
		return &cnm.Error{Kind: cnm.ErrInvalid, Field: "network", Value: n.Name,
			Reason: "addresses and link options cannot be chosen on it", Remedy: "leave them out"}
	}
	if ports := append(slices.Clone(a.Ports), r.Ports...); len(ports) > 0 {
		reason, remedy := "a sandbox on network none reaches nothing", "choose a bridge network"
		if n.Driver == cnm.DriverHost {
			reason, remedy = "a sandbox on network host has the host's ports already",
				"leave the ports out: what listens in it is reachable"
		}
		return ports[0].Refuse(reason, remedy)
	}
	if n.Driver == cnm.DriverNull {
		r.Attach = nil
	}
	r.Host = n.Driver == cnm.DriverHost
	return nil
}

// existing answers a request for a sandbox that exists; one that is on its
// way out is removed first.
func (k *sandboxes) existing(ctx context.Context, r cnm.SandboxRequest) (cnm.Sandbox, bool, error) {
	k.mu.Lock()
	ent := k.ix.sandboxes[r.ID]
	var s cnm.Sandbox
	same := ent != nil
	var owners []plan.Owner
	if ent != nil {
		s = copySandbox(ent.v)
		owners = k.ownersOf(r.ID)
		same = k.sameNetworks(r) && s.Host == r.Host
	}
	k.mu.Unlock()
	switch {
	case ent == nil:
		return cnm.Sandbox{}, false, nil
	case s.Phase == cnm.Deleting:
		return cnm.Sandbox{}, false, k.dissolve(ctx, r.ID)
	case !same:
		return cnm.Sandbox{}, false, &cnm.Error{
			Kind: cnm.ErrExists, Field: "sandbox", Value: cnm.Short(r.ID), Reason: "it exists, with other networks",
			Remedy: "remove it first, or connect and disconnect it",
		}
	}
	return s, true, k.converge(ctx, owners...)
}

// sameNetworks reports whether the sandbox is on just the networks of the
// request. The caller holds mu.
func (k *sandboxes) sameNetworks(r cnm.SandboxRequest) bool {
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
		if e.v.Phase == cnm.Active {
			have[e.v.Network] = true
		}
	}
	return maps.Equal(want, have)
}

// ownersOf are the owners of a sandbox and its endpoints. The caller holds mu.
func (k *records) ownersOf(sandbox string) []plan.Owner {
	owners := []plan.Owner{cnm.SandboxOwner(sandbox)}
	for _, e := range k.ix.endpointsOf(sandbox) {
		owners = append(owners, cnm.EndpointOwner(e.ID))
	}
	return owners
}

// newSandbox is the record of a sandbox.
func (k *sandboxes) newSandbox(r cnm.SandboxRequest) (cnm.Sandbox, error) {
	s := copySandbox(cnm.Sandbox{ID: r.ID, Host: r.Host, Engine: r.Engine, Container: r.Container, Labels: r.Labels,
		DNS: r.DNS, Phase: cnm.Active})
	switch {
	case r.Host && r.Handed:
		return s, &cnm.Error{Kind: cnm.ErrInvalid, Field: "network", Value: cnm.NetworkHost,
			Reason: "there is no link on it to hand over", Remedy: "use the engine's own network of that kind"}
	case r.Host:
	case r.Handed:
		s.Handed = true
	case r.Adopt == "":
		s.NetNS = plan.NetNS(cnm.Short(r.ID))
	default:
		if k.identify == nil {
			return s, foreign(r.Adopt, "this netd adopts none", "")
		}
		cookie, err := k.identify(r.Adopt)
		if no, ok := errors.AsType[*plan.NoNamespaceError](err); ok {
			return s, foreign(r.Adopt, no.Reason, "give the path of the container's namespace")
		}
		if err != nil {
			return s, err
		}
		s.NetNS, s.Adopted = plan.AdoptedNetNS(cnm.Short(r.ID)), &cnm.Adopted{Path: r.Adopt, Cookie: cookie}
	}
	return s, nil
}

func foreign(path, reason, remedy string) error {
	return &cnm.Error{Kind: cnm.ErrInvalid, Field: cnm.FieldNetNS, Value: path, Reason: reason, Remedy: remedy}
}

// holdSandbox enters a new sandbox into the index, so that no other request takes its place.
func (k *sandboxes) holdSandbox(s cnm.Sandbox) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ix.shortTaken(cnm.KindSandbox, s.ID) {
		return &cnm.Error{
			Kind: cnm.ErrExists, Field: "sandbox", Value: s.ID,
			Reason: fmt.Sprintf("another one begins with the same %d digits", cnm.ShortLen),
			Remedy: "choose another ID",
		}
	}
	for _, o := range k.ix.sandboxes {
		if a := o.v.Adopted; a != nil && s.Adopted != nil && a.Cookie == s.Adopted.Cookie {
			return foreign(s.Adopted.Path, fmt.Sprintf("is that of %s container %s already", o.v.Engine,
				cnm.Short(o.v.Container)),
				"remove that container first")
		}
	}
	k.ix.putSandbox(s, true)
	return nil
}

// inSandbox says which sandbox could not be made, unless it is a container's: then the
// container is what the user knows.
func inSandbox(r cnm.SandboxRequest, id string, err error) error {
	if r.Container != "" {
		return err
	}
	return fmt.Errorf("create sandbox %s: %w", cnm.Short(id), err)
}

// Repair makes the kernel agree with a sandbox and its endpoints.
func (k *sandboxes) Repair(ctx context.Context, sandbox string) error {
	k.mu.Lock()
	owners := k.ownersOf(sandbox)
	k.mu.Unlock()
	return k.converge(ctx, owners...)
}

// DeleteSandbox detaches and removes everything of a sandbox; one that does not exist
// is no error. When the kernel cannot be made to agree, the records stay marked
// and go with a later pass.
func (k *sandboxes) DeleteSandbox(ctx context.Context, id string) error {
	unlock, err := k.locks.Lock(ctx, "sandbox/"+id)
	if err != nil {
		return err
	}
	defer unlock()
	if err := k.dissolve(ctx, id); err != nil {
		return fmt.Errorf("remove sandbox %s: %w", cnm.Short(id), err)
	}
	return nil
}

// dissolve removes a sandbox and its endpoints: mark, converge, forget. The
// caller holds the sandbox's lock.
func (k *sandboxes) dissolve(ctx context.Context, id string) error {
	k.mu.Lock()
	ent := k.ix.sandboxes[id]
	endpoints := k.ix.endpointsOf(id)
	owners := k.ownersOf(id)
	k.mu.Unlock()
	if ent == nil {
		return nil
	}
	if err := k.out.mark(ctx, id, endpoints); err != nil {
		return err
	}
	return k.out.finish(ctx, owners...)
}

// mark puts endpoints, and the sandbox unless it is "", into phase Deleting.
func (k *removals) mark(ctx context.Context, sandbox string, endpoints []cnm.Endpoint) error {
	err := k.commit(ctx, func() ([]cnm.Write, error) {
		var writes []cnm.Write
		if sandbox != "" {
			w, err := cnm.Change(ctx, k.store, cnm.KindSandbox, sandbox,
				func(s *cnm.Sandbox) { s.Phase = cnm.Deleting })
			if err != nil {
				return nil, err
			}
			writes = append(writes, w)
		}
		for _, e := range endpoints {
			w, err := cnm.Change(ctx, k.store, cnm.KindEndpoint, e.ID, func(e *cnm.Endpoint) { e.Phase = cnm.Deleting })
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
		ent.v.Phase, ent.owned = cnm.Deleting, true
	}
	for _, e := range endpoints {
		if ent := k.ix.endpoints[e.ID]; ent != nil {
			ent.v.Phase, ent.owned = cnm.Deleting, true
		}
	}
	return nil
}

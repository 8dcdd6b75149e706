package cnm

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vethloom/vethloom/internal/plan"
)

// portTries bounds how often another dynamic host port is picked when a
// process outside of our records has the first one.
const portTries = 10

// AttachRequest asks for an endpoint of a sandbox on a network.
type AttachRequest struct {
	Sandbox  string       // ID
	Network  string       // name, ID or the unambiguous beginning of an ID
	Name     string       // what the sandbox is called, for people and for name resolution
	Aliases  []string     // further names on this network
	Addrs    []netip.Addr // at most one a family; a family without one gets a free address
	MAC      plan.MAC     // the zero value: derived from the first address
	Priority int          // gateway priority
	Ports    []PortMapping
}

// joining is an endpoint on its way into the store.
type joining struct {
	request AttachRequest
	network Network
	e       Endpoint
	claim   *Claim
}

// Attach makes an endpoint, or nothing. It returns once the kernel has it.
func (k *Controller) Attach(ctx context.Context, r AttachRequest) (Endpoint, error) {
	err := checkAttach(r)
	if err != nil {
		return Endpoint{}, err
	}
	if r.Ports, err = normalizePorts(r.Ports); err != nil {
		return Endpoint{}, err
	}
	unlock, err := k.locks.lock(ctx, "sandbox/"+r.Sandbox)
	if err != nil {
		return Endpoint{}, err
	}
	defer unlock()
	s, err := k.joinable(r)
	if err != nil {
		return Endpoint{}, err
	}
	endpoints, err := k.join(ctx, s, false, []AttachRequest{r})
	if err != nil {
		return Endpoint{}, fmt.Errorf("attach sandbox %s to network %s: %w", Short(s.ID), r.Network, err)
	}
	k.emitEndpoint(ActionConnect, endpoints[0], s.Container)
	return endpoints[0], nil
}

// joinable finds the sandbox of a request and refuses networks that must be
// chosen when the sandbox is made.
func (k *Controller) joinable(r AttachRequest) (Sandbox, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	ent := k.ix.sandboxes[r.Sandbox]
	if ent == nil {
		return Sandbox{}, notFound("sandbox", Short(r.Sandbox), nil)
	}
	if ent.v.Phase == Deleting {
		return Sandbox{}, &Error{Kind: ErrInUse, Field: "sandbox", Value: Short(r.Sandbox), Reason: "being removed", Remedy: "make another one"}
	}
	n, err := k.findNetwork(r.Network)
	if err != nil {
		return Sandbox{}, err
	}
	if ent.v.Host {
		return Sandbox{}, &Error{Kind: ErrForbidden, Field: "network", Value: n.Name, Reason: "the sandbox is the host's own network stack, which joins no network", Remedy: "start the container without network host"}
	}
	if n.Driver == DriverHost || n.Driver == DriverNull {
		return Sandbox{}, &Error{Kind: ErrForbidden, Field: "network", Value: n.Name, Reason: "a sandbox that exists cannot be connected to it", Remedy: "choose it when the container is made"}
	}
	return ent.v, nil
}

// join makes the endpoints, and the sandbox when it is fresh: claim, commit,
// converge; and undoes all of it when that fails. The caller holds the sandbox's lock.
func (k *Controller) join(ctx context.Context, s Sandbox, fresh bool, requests []AttachRequest) ([]Endpoint, error) {
	js, err := k.prepare(ctx, s, requests)
	if err == nil {
		err = k.commitJoin(ctx, s, fresh, js)
	}
	k.settleJoin(s, fresh, js, err == nil)
	if err != nil {
		return nil, k.undo(ctx, err, func(ctx context.Context) error { return k.leave(ctx, js) })
	}
	caught := k.catchUp(ctx, js)
	endpoints := make([]Endpoint, len(js))
	scopes := make([]plan.Scope, 0, len(js)+1)
	if fresh {
		scopes = append(scopes, SandboxScope(s.ID))
	}
	for i, j := range js {
		endpoints[i] = j.e
		scopes = append(scopes, EndpointScope(j.e.ID))
	}
	if err = caught; err == nil {
		err = k.converge(ctx, scopes...)
	}
	for try := 1; err != nil && try < portTries && errors.Is(err, ErrPortTaken) && canRepick(endpoints, err); try++ {
		if e := k.repick(ctx, endpoints); e != nil {
			err = errors.Join(err, e)
			break
		}
		err = k.converge(ctx, scopes...)
	}
	if err != nil {
		return nil, k.undo(ctx, err, func(ctx context.Context) error { return k.part(ctx, s, fresh, endpoints, scopes) })
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.readdress(endpoints)
	for i := range endpoints {
		endpoints[i] = copyEndpoint(endpoints[i])
	}
	return endpoints, nil
}

// part takes back what join has committed.
func (k *Controller) part(ctx context.Context, s Sandbox, fresh bool, endpoints []Endpoint, scopes []plan.Scope) error {
	id := ""
	if fresh {
		id = s.ID
	}
	k.silence(id, endpoints)
	if err := k.mark(ctx, id, endpoints); err != nil {
		return err
	}
	return k.finish(ctx, scopes...)
}

// undo runs the step that takes back a failed change and returns the error of the
// change.
func (k *Controller) undo(ctx context.Context, err error, step func(context.Context) error) error {
	ctx, cancel := undoing(ctx)
	defer cancel()
	if e := step(ctx); e != nil {
		return fmt.Errorf("%w (and taking it back, which later passes go on with: %w)", err, e)
	}
	return err
}

// prepare holds names, addresses, MACs and ports for the requests. It returns
// what it holds even when it fails.
func (k *Controller) prepare(ctx context.Context, s Sandbox, requests []AttachRequest) ([]*joining, error) {
	var js []*joining
	for _, r := range requests {
		j, err := k.hold(s, r)
		if err != nil {
			return js, err
		}
		js = append(js, j)
		if !k.drivers[j.network.Driver].Capabilities().Addresses {
			continue
		}
		if err := k.claim(ctx, j); err != nil {
			return js, k.explain(err, j.network, r.Addrs)
		}
		j.e.Addrs = j.claim.Addrs
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, j := range js {
		if err := k.complete(j); err != nil {
			return js, err
		}
	}
	return js, nil
}

// owner is what address records know an endpoint by.
func owner(endpoint string) string { return "endpoint/" + endpoint }

// hold enters an endpoint into the index, so that no other request takes its
// place.
func (k *Controller) hold(s Sandbox, r AttachRequest) (*joining, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	n, err := k.findNetwork(r.Network)
	if err != nil {
		return nil, err
	}
	if n.Phase == Deleting {
		return nil, &Error{Kind: ErrInUse, Field: "network", Value: n.Name, Reason: "being removed", Remedy: "make it again and retry"}
	}
	if n.gone() {
		return nil, &Error{Kind: ErrInUse, Field: "network", Value: n.Name, Reason: "removed from the cluster; it goes with the last endpoint on it", Remedy: "choose another network"}
	}
	d, err := k.driver(n.Driver)
	if err != nil {
		return nil, err
	}
	for _, other := range k.ix.ofSandbox[s.ID] {
		if other.v.Network == n.ID {
			return nil, &Error{Kind: ErrExists, Field: "network", Value: n.Name, Reason: "the sandbox is on it already", Remedy: "disconnect it first to connect it in another way"}
		}
	}
	if err := checkPublish(n, d, r.Ports); err != nil {
		return nil, err
	}
	if err := k.freeMAC(n, r.MAC); err != nil {
		return nil, err
	}
	id, err := k.newID(KindEndpoint)
	if err != nil {
		return nil, err
	}
	e := Endpoint{
		ID: id, Network: n.ID, Sandbox: s.ID, NetNS: s.NetNS, Index: k.ix.freeIndex(s.ID), Name: r.Name,
		Aliases: slices.Clone(r.Aliases), MAC: r.MAC, Priority: r.Priority, Phase: Active,
	}
	k.ix.putEndpoint(e, true)
	return &joining{request: r, network: n, e: e}, nil
}

func (k *Controller) freeMAC(n Network, m plan.MAC) error {
	id, taken := k.ix.macs[macKey{n.ID, m}]
	if !taken || m == (plan.MAC{}) {
		return nil
	}
	return &Error{
		Kind: ErrExists, Field: "MAC address", Value: m.String(),
		Reason: fmt.Sprintf("taken by %s on network %q", k.ix.title(k.ix.endpoints[id].v), n.Name),
		Remedy: "choose another one, or none to have one derived",
	}
}

// complete chooses the MAC and the host ports. The caller holds mu.
func (k *Controller) complete(j *joining) error {
	if j.e.MAC == (plan.MAC{}) && len(j.e.Addrs) > 0 {
		mac, err := k.deriveMAC(j.network, j.e.Addrs[0].Addr())
		if err != nil {
			return err
		}
		j.e.MAC = mac
	}
	if err := k.assignPorts(&j.e, j.request.Ports); err != nil {
		return err
	}
	k.ix.putEndpoint(j.e, true)
	return nil
}

// deriveMAC makes a locally administered address (IEEE 802c) out of an IP
// address, so that the same IP address on a network keeps its neighbours' caches right. When
// another endpoint has asked for that one, it is a random one.
func (k *Controller) deriveMAC(n Network, a netip.Addr) (plan.MAC, error) {
	b := a.AsSlice()
	m := plan.MAC{0x02, 0x42}
	copy(m[2:], b[len(b)-4:])
	for {
		if _, taken := k.ix.macs[macKey{n.ID, m}]; !taken {
			return m, nil
		}
		if _, err := rand.Read(m[1:]); err != nil {
			return m, fmt.Errorf("make a MAC address: %w", err)
		}
	}
}

// explain says in whose hands a wanted address is.
func (k *Controller) explain(err error, n Network, want []netip.Addr) error {
	var e *Error
	if !errors.As(err, &e) || e.Kind != ErrExists {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, other := range k.ix.ofNetwork[n.ID] {
		for _, p := range other.v.Addrs {
			if p.Addr().String() == e.Value && slices.Contains(want, p.Addr()) {
				e.Reason = fmt.Sprintf("taken by %s on network %q", k.ix.title(other.v), n.Name)
			}
		}
	}
	return err
}

func (k *Controller) commitJoin(ctx context.Context, s Sandbox, fresh bool, js []*joining) error {
	var writes []Write
	if fresh {
		w, err := put(KindSandbox, s.ID, s, 0)
		if err != nil {
			return err
		}
		writes = append(writes, w)
	}
	for _, j := range js {
		w, err := put(KindEndpoint, j.e.ID, j.e, 0)
		if err != nil {
			return err
		}
		writes = append(writes, w)
		if j.claim != nil {
			writes = append(writes, j.claim.Writes...)
		}
	}
	return k.store.Commit(ctx, writes...)
}

// settleJoin makes what is held visible, or lets go of it.
func (k *Controller) settleJoin(s Sandbox, fresh bool, js []*joining, committed bool) {
	for _, j := range js {
		if j.claim != nil {
			j.claim.Done(committed)
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, j := range js {
		if committed {
			k.ix.putEndpoint(j.e, false)
		} else {
			k.ix.dropEndpoint(j.e.ID)
		}
	}
	switch {
	case fresh && committed:
		k.ix.putSandbox(s, false)
	case fresh:
		k.ix.dropSandbox(s.ID)
	}
}

// canRepick tells whether other dynamic ports could help: there are some, and
// no fixed port is what is known to be taken.
func canRepick(endpoints []Endpoint, err error) bool {
	var taken *PortTakenError
	known := errors.As(err, &taken) && taken.Port != 0
	for _, e := range endpoints {
		for _, m := range e.Ports {
			hit := known && m.Proto == taken.Proto && taken.Port >= m.HostPort && int(taken.Port) < int(m.HostPort)+int(m.Count)
			if m.Dynamic && (!known || hit) {
				return true
			}
		}
	}
	return false
}

// repick gives the endpoints other dynamic host ports.
func (k *Controller) repick(ctx context.Context, endpoints []Endpoint) error {
	k.mu.Lock()
	var err error
	k.readdress(endpoints)
	next := slices.Clone(endpoints)
	for i := range next {
		old := next[i]
		if err = k.assignPorts(&next[i], old.Ports); err != nil {
			next[i] = old
		}
		k.ix.putEndpoint(next[i], false)
	}
	k.mu.Unlock()
	if err != nil {
		return err
	}
	err = k.commit(ctx, func() ([]Write, error) {
		var writes []Write
		for _, n := range next {
			w, err := change(ctx, k.store, KindEndpoint, n.ID, func(e *Endpoint) { e.Ports = n.Ports })
			if err != nil {
				return nil, err
			}
			writes = append(writes, w)
		}
		return writes, nil
	})
	copy(endpoints, next)
	return err
}

// Detach removes a sandbox's endpoint on a network. When the kernel cannot be made
// to agree, the endpoint stays marked and goes with a later pass.
func (k *Controller) Detach(ctx context.Context, sandbox, network string) error {
	unlock, err := k.locks.lock(ctx, "sandbox/"+sandbox)
	if err != nil {
		return err
	}
	defer unlock()
	e, err := k.attached(sandbox, network)
	if err != nil {
		return err
	}
	if err = k.mark(ctx, "", []Endpoint{e}); err == nil {
		err = k.finish(ctx, EndpointScope(e.ID))
	}
	if err != nil {
		return fmt.Errorf("detach sandbox %s from network %s: %w", Short(sandbox), network, err)
	}
	return nil
}

// attached finds a sandbox's endpoint on a network.
func (k *Controller) attached(sandbox, network string) (Endpoint, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.ix.sandboxes[sandbox]
	if s == nil {
		return Endpoint{}, notFound("sandbox", Short(sandbox), nil)
	}
	n, err := k.findNetwork(network)
	if err != nil {
		return Endpoint{}, err
	}
	if s.v.Host {
		return Endpoint{}, &Error{Kind: ErrForbidden, Field: "network", Value: n.Name, Reason: "a sandbox cannot leave the host's network stack", Remedy: "remove the container"}
	}
	var on []string
	for _, e := range k.ix.endpointsOf(sandbox) {
		if e.Network == n.ID {
			return e, nil
		}
		if other := k.ix.networks[e.Network]; other != nil {
			on = append(on, other.v.Name)
		}
	}
	remedy := "it is on no network"
	if len(on) > 0 {
		remedy = "it is on " + joinNames(on)
	}
	return Endpoint{}, &Error{Kind: ErrNotFound, Field: "network", Value: n.Name, Reason: "the sandbox is not connected to it", Remedy: remedy}
}

func (k *Controller) emitEndpoint(a Action, e Endpoint, container string) {
	k.mu.Lock()
	name := ""
	if n := k.ix.networks[e.Network]; n != nil {
		name = n.v.Name
	}
	k.mu.Unlock()
	k.emit(Event{Kind: KindEndpoint, Action: a, ID: e.ID, Name: name, Network: e.Network, Sandbox: e.Sandbox, Container: container})
}

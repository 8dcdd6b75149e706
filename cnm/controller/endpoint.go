package controller

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/plan"
)

// portTries bounds how often another dynamic host port is picked when a
// process outside of our records has the first one.
const portTries = 10

// joining is an endpoint that is about to be committed.
type joining struct {
	request cnm.AttachRequest
	network cnm.Network
	e       cnm.Endpoint
	claim   *cnm.Claim
	demotes *cnm.Endpoint // it provides the default route no more
}

// endpoints attaches sandboxes to networks, and detaches them.
type endpoints struct {
	*records
	addrs *addresses
	out   *removals
}

// Attach makes an endpoint of a sandbox, or nothing. It returns once the kernel has it.
func (k *endpoints) Attach(ctx context.Context, sandbox string, r cnm.AttachRequest) (cnm.Endpoint, error) {
	err := r.Check()
	if err != nil {
		return cnm.Endpoint{}, err
	}
	if r.Ports, err = cnm.NormalizePorts(r.Ports); err != nil {
		return cnm.Endpoint{}, err
	}
	unlock, err := k.locks.Lock(ctx, "sandbox/"+sandbox)
	if err != nil {
		return cnm.Endpoint{}, err
	}
	defer unlock()
	s, err := k.joinable(sandbox, r.Network)
	if err != nil {
		return cnm.Endpoint{}, err
	}
	endpoints, err := k.join(ctx, s, false, []cnm.AttachRequest{r})
	if err != nil {
		return cnm.Endpoint{}, fmt.Errorf("attach sandbox %s to network %s: %w", cnm.Short(s.ID), r.Network, err)
	}
	k.emitEndpoint(ActionConnect, endpoints[0], s.Container)
	return endpoints[0], nil
}

// joinable finds the sandbox of a request and refuses networks that must be
// chosen when the sandbox is made.
func (k *endpoints) joinable(sandbox, network string) (cnm.Sandbox, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	ent := k.ix.sandboxes[sandbox]
	if ent == nil {
		return cnm.Sandbox{}, notFound("sandbox", cnm.Short(sandbox), nil)
	}
	if ent.v.Phase == cnm.Deleting {
		return cnm.Sandbox{}, &cnm.Error{Kind: cnm.ErrInUse, Field: "sandbox", Value: cnm.Short(sandbox),
			Reason: "being removed",
			Remedy: "make another one"}
	}
	n, err := k.findNetwork(network)
	if err != nil {
		return cnm.Sandbox{}, err
	}
	if ent.v.Host {
		return cnm.Sandbox{}, &cnm.Error{Kind: cnm.ErrForbidden, Field: "network", Value: n.Name,
			Reason: "the sandbox is the host's own network stack, which joins no network",
			Remedy: "start the container without network host"}
	}
	if n.ConfigOnly {
		return cnm.Sandbox{}, cnm.ConfigOnlyError(n.Name)
	}
	if n.Driver == cnm.DriverHost || n.Driver == cnm.DriverNull {
		return cnm.Sandbox{}, &cnm.Error{Kind: cnm.ErrForbidden, Field: "network", Value: n.Name,
			Reason: "a sandbox that exists cannot be connected to it", Remedy: "choose it when the container is made"}
	}
	return ent.v, nil
}

// join makes the endpoints, and the sandbox when it is fresh: claim, commit,
// converge; and undoes all of it when that fails. The caller holds the sandbox's lock.
func (k *endpoints) join(ctx context.Context, s cnm.Sandbox, fresh bool, requests []cnm.AttachRequest) (
	[]cnm.Endpoint, error) {
	js, err := k.prepare(ctx, s, requests)
	if err == nil {
		err = k.commitJoin(ctx, s, fresh, js)
	}
	k.settleJoin(s, fresh, js, err == nil)
	if err != nil {
		return nil, k.undo(ctx, err, func(ctx context.Context) error { return k.leave(ctx, js) })
	}
	caught := k.addrs.catchUp(ctx, js)
	endpoints := make([]cnm.Endpoint, len(js))
	owners := make([]plan.Owner, 0, len(js)+1)
	if fresh {
		owners = append(owners, cnm.SandboxOwner(s.ID))
	}
	for i, j := range js {
		if endpoints[i] = j.e; j.demotes != nil { // first: the kernel takes one default route of a metric
			err = k.converge(ctx, cnm.EndpointOwner(j.demotes.ID))
			caught = errors.Join(caught, err)
		}
		owners = append(owners, cnm.EndpointOwner(j.e.ID))
	}
	if err = caught; err == nil {
		err = k.convergeJoin(ctx, endpoints, owners)
	}
	if err != nil {
		return nil, k.undo(ctx, err,
			func(ctx context.Context) error { return k.part(ctx, s, fresh, endpoints, owners) })
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.addrs.readdress(endpoints)
	for i := range endpoints {
		endpoints[i] = copyEndpoint(endpoints[i])
	}
	return endpoints, nil
}

// convergeJoin makes the kernel agree with the endpoints, with other dynamic host ports when a process outside of our
// records has one of them.
func (k *endpoints) convergeJoin(ctx context.Context, endpoints []cnm.Endpoint, owners []plan.Owner) error {
	err := k.converge(ctx, owners...)
	for try := 1; try < portTries && errors.Is(err, cnm.ErrPortTaken) && canRepick(endpoints, err); try++ {
		if e := k.repick(ctx, endpoints); e != nil {
			return errors.Join(err, e)
		}
		err = k.converge(ctx, owners...)
	}
	return err
}

// part takes back what join has committed.
func (k *endpoints) part(ctx context.Context, s cnm.Sandbox, fresh bool, endpoints []cnm.Endpoint,
	owners []plan.Owner) error {
	id := ""
	if fresh {
		id = s.ID
	}
	k.out.silence(id, endpoints)
	if err := k.out.mark(ctx, id, endpoints); err != nil {
		return err
	}
	return k.out.finish(ctx, owners...)
}

// prepare holds names, addresses, MACs and ports for the requests. It returns
// what it holds even when it fails.
func (k *endpoints) prepare(ctx context.Context, s cnm.Sandbox, requests []cnm.AttachRequest) ([]*joining, error) {
	var js []*joining
	for _, r := range requests {
		if err := k.checkOutbound(ctx, r.Outbound); err != nil {
			return js, err
		}
		j, err := k.hold(s, r, requests)
		if err != nil {
			return js, err
		}
		js = append(js, j)
		if !k.driverOf(j.network).Capabilities().Addresses {
			continue
		}
		if err := k.addrs.claim(ctx, j); err != nil {
			return js, k.explain(err, j.network, r.Addrs)
		}
		j.e.Addrs, j.e.Leased = j.claim.Addrs, j.claim.Leased
		if j.claim.MAC != (plan.MAC{}) {
			j.e.MAC = j.claim.MAC
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, j := range js {
		if err := k.complete(j); err != nil {
			return js, err
		}
	}
	k.chooseDefault(s.ID, js)
	return js, nil
}

// chooseDefault has one of the new endpoints provide the sandbox's default route when none does, or a higher gateway
// priority demands it. The caller holds mu.
func (k *endpoints) chooseDefault(sandbox string, js []*joining) {
	fresh := map[string]*joining{}
	for _, j := range js {
		fresh[j.e.ID] = j
	}
	var best, now *cnm.Endpoint
	for _, e := range k.ix.endpointsOf(sandbox) {
		n := k.ix.networks[e.Network]
		if n == nil || e.Phase == cnm.Deleting {
			continue
		}
		if e.Plain {
			now = &e // though its network may have become internal
		}
		if !cnm.LeadsOut(n.v, e) {
			continue
		}
		if best == nil || before(e, *best) {
			best = &e
		}
	}
	if best == nil || best.Plain || fresh[best.ID] == nil {
		return
	}
	j := fresh[best.ID]
	if j.e.Plain = true; now != nil {
		now.Plain = false
		j.demotes = now
	}
	k.ix.putEndpoint(j.e, true)
}

// before reports whether a provides a sandbox's default route rather than b, where a comes later in the sandbox.
func before(a, b cnm.Endpoint) bool {
	return a.GwPriority > b.GwPriority || a.GwPriority == b.GwPriority && a.Plain && !b.Plain
}

// Free refuses when a network has no address for another endpoint. It knows nothing of what a plugin or a DHCP server
// would give, nor of blocks that this node may get.
func (k *endpoints) Free(ctx context.Context, network string) error {
	n, err := k.Network(ctx, network)
	if err != nil {
		return err
	}
	d, err := k.driver(n)
	if err != nil || n.IPAM != nil || !d.Capabilities().Addresses {
		return err
	}
	if n.Cluster != nil {
		cluster, err := k.membership(n)
		if err == nil {
			err = cluster.Usable(n.ID)
		}
		if err != nil {
			return err
		}
	}
	unlock, err := k.locks.Lock(ctx, "free/"+n.ID)
	if err != nil {
		return err
	}
	defer unlock()
	c, err := k.ipam.Claim(ctx, n, "a look", nil, nil)
	if err == nil {
		c.Done(false)
	}
	if errors.Is(err, cnm.ErrNoBlock) {
		return nil
	}
	return err
}

// owner is what address records know an endpoint by.
func owner(endpoint string) string { return "endpoint/" + endpoint }

// hold enters an endpoint into the index, so that no other request takes its
// place. It is one of the requests that are made together.
func (k *endpoints) hold(s cnm.Sandbox, r cnm.AttachRequest, requests []cnm.AttachRequest) (*joining, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	n, err := k.findNetwork(r.Network)
	if err != nil {
		return nil, err
	}
	if n.Phase == cnm.Deleting {
		return nil, &cnm.Error{Kind: cnm.ErrInUse, Field: "network", Value: n.Name, Reason: "being removed",
			Remedy: "make it again and retry"}
	}
	if n.Gone() {
		return nil, &cnm.Error{Kind: cnm.ErrInUse, Field: "network", Value: n.Name,
			Reason: "removed from the cluster; it goes with the last endpoint on it", Remedy: "choose another network"}
	}
	if n.Left() {
		return nil, cnm.LeftError(n.Name)
	}
	d, err := k.driver(n)
	if err != nil {
		return nil, err
	}
	for _, other := range k.ix.ofSandbox[s.ID] {
		if other.v.Network == n.ID {
			return nil, &cnm.Error{Kind: cnm.ErrExists, Field: "network", Value: n.Name,
				Reason: "the sandbox is on it already", Remedy: "disconnect it first to connect it in another way"}
		}
	}
	if err := cnm.CheckPublish(n, d, r.Ports); err != nil {
		return nil, err
	}
	if len(r.Outbound) > 0 && !d.Capabilities().Ports {
		return nil, &cnm.Error{Kind: cnm.ErrInvalid, Field: "outbound-ip", Value: r.Outbound[0].String(),
			Reason: fmt.Sprintf("networks of driver %s translate nothing", n.Driver), Remedy: "leave it out"}
	}
	if r.Limited() && !d.Capabilities().Ports {
		return nil, &cnm.Error{Kind: cnm.ErrInvalid, Field: "rate", Value: fmt.Sprint(max(r.RateIn, r.RateOut)),
			Reason: fmt.Sprintf("endpoints of driver %s have no end on the host that holds them to a rate", n.Driver),
			Remedy: "leave it out, or choose a network with a bridge"}
	}
	if s.Handed {
		if err := k.HandsOver(n.Driver); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(k.freeMAC(n, r.MAC), k.freeLink(s, r.IfName)); err != nil {
		return nil, err
	}
	id, err := k.newID(cnm.KindEndpoint)
	if err != nil {
		return nil, err
	}
	e := cnm.Endpoint{
		ID: id, Network: n.ID, Sandbox: s.ID, NetNS: s.NetNS, Handed: s.Handed, Name: r.Name,
		Index:   cnm.FreeIndex(k.ix.endpointsOf(s.ID), r.LinkOptions, requests),
		Aliases: slices.Clone(r.Aliases), MAC: r.MAC, GwPriority: r.GwPriority, Phase: cnm.Active,
		LinkOptions: cnm.LinkOptions{IfName: r.IfName, Sysctls: maps.Clone(r.Sysctls), RateIn: r.RateIn,
			RateOut: r.RateOut},
		Outbound: slices.Clone(r.Outbound),
		Serves:   slices.Clone(r.Serves), Hostname: r.Hostname, Origin: r.Origin, Engine: s.Engine, Created: k.now(),
	}
	k.ix.putEndpoint(e, true)
	return &joining{request: r, network: n, e: e}, nil
}

// HandsOver refuses drivers of networks that other engines cannot take links of away. One that is not known is left to
// who makes a network of it.
func (k *endpoints) HandsOver(driver string) error {
	if d, ok := k.drivers[driver]; !ok || d.Capabilities().Ports {
		return nil
	}
	return &cnm.Error{Kind: cnm.ErrInvalid, Field: "driver", Value: driver,
		Reason: "its endpoints have no end on the host: another engine cannot be given theirs",
		Remedy: "choose a network of driver bridge, overlay, vxlan, host-gw or udp"}
}

// freeLink refuses the name of a link that is in the sandbox.
func (k *endpoints) freeLink(s cnm.Sandbox, name string) error {
	for _, e := range k.ix.endpointsOf(s.ID) {
		if e.LinkName() == name {
			return cnm.LinkTaken(name, k.ix.networks[e.Network].v.Name)
		}
	}
	return nil
}

func (k *endpoints) freeMAC(n cnm.Network, m plan.MAC) error {
	id, taken := k.ix.macs[macKey{n.ID, m}]
	if !taken || m == (plan.MAC{}) {
		return nil
	}
	return &cnm.Error{
		Kind: cnm.ErrExists, Field: "MAC address", Value: m.String(),
		Reason: fmt.Sprintf("taken by %s on network %q", k.ix.title(k.ix.endpoints[id].v), n.Name),
		Remedy: "choose another one, or none to have one derived",
	}
}

// complete chooses the MAC address and the host ports, and asks the driver whether it can have the
// endpoint. The caller holds mu.
func (k *endpoints) complete(j *joining) error {
	own := k.driverOf(j.network).Capabilities().OwnMACs
	if j.e.MAC == (plan.MAC{}) && len(j.e.Addrs) > 0 && !own {
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
	if d, ok := k.driverOf(j.network).(cnm.EndpointChecker); ok {
		return d.CheckEndpoint(j.network, j.e)
	}
	return nil
}

// deriveMAC makes a locally administered address (IEEE 802c) out of an IP
// address, so that the same IP address on a network keeps its neighbours' caches right. When
// another endpoint has asked for that one, it is a random one.
func (k *endpoints) deriveMAC(n cnm.Network, a netip.Addr) (plan.MAC, error) {
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

// explain says which endpoint has a wanted address.
func (k *endpoints) explain(err error, n cnm.Network, want []netip.Addr) error {
	var e *cnm.Error
	if !errors.As(err, &e) || e.Kind != cnm.ErrExists {
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

func (k *endpoints) commitJoin(ctx context.Context, s cnm.Sandbox, fresh bool, js []*joining) error {
	return k.commit(ctx, func() ([]cnm.Write, error) {
		var writes []cnm.Write
		if fresh {
			w, err := cnm.Put(cnm.KindSandbox, s.ID, s, 0)
			if err != nil {
				return nil, err
			}
			writes = append(writes, w)
		}
		for _, j := range js {
			w, err := j.writes(ctx, k.store)
			if err != nil {
				return nil, err
			}
			writes = append(writes, w...)
		}
		return writes, nil
	})
}

func (j *joining) writes(ctx context.Context, store cnm.Store) ([]cnm.Write, error) {
	w, err := cnm.Put(cnm.KindEndpoint, j.e.ID, j.e, 0)
	writes := []cnm.Write{w}
	if j.claim != nil {
		writes = append(writes, j.claim.Writes...)
	}
	if j.demotes == nil || err != nil {
		return writes, err
	}
	w, err = cnm.Change(ctx, store, cnm.KindEndpoint, j.demotes.ID, func(e *cnm.Endpoint) { e.Plain = false })
	return append(writes, w), err
}

// settleJoin makes what is held visible, or drops it.
func (k *endpoints) settleJoin(s cnm.Sandbox, fresh bool, js []*joining, committed bool) {
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
			k.ix.demote(j.demotes)
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

// canRepick reports whether other dynamic ports could help: there are some, and
// no fixed port is what is known to be taken.
func canRepick(endpoints []cnm.Endpoint, err error) bool {
	var taken *cnm.PortTakenError
	known := errors.As(err, &taken) && taken.Port != 0
	for _, e := range endpoints {
		for _, m := range e.Ports {
			hit := known && m.Proto == taken.Proto && taken.Port >= m.HostPort &&
				int(taken.Port) < int(m.HostPort)+int(m.Count)
			if m.Dynamic && (!known || hit) {
				return true
			}
		}
	}
	return false
}

// repick gives the endpoints other dynamic host ports.
func (k *endpoints) repick(ctx context.Context, endpoints []cnm.Endpoint) error {
	k.mu.Lock()
	var err error
	k.addrs.readdress(endpoints)
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
	err = k.commitPorts(ctx, next)
	copy(endpoints, next)
	return err
}

// commitPorts writes the endpoints' ports.
func (k *endpoints) commitPorts(ctx context.Context, endpoints []cnm.Endpoint) error {
	return k.commit(ctx, func() ([]cnm.Write, error) {
		var writes []cnm.Write
		for _, n := range endpoints {
			w, err := cnm.Change(ctx, k.store, cnm.KindEndpoint, n.ID, func(e *cnm.Endpoint) { e.Ports = n.Ports })
			if err != nil {
				return nil, err
			}
			writes = append(writes, w)
		}
		return writes, nil
	})
}

// Detach removes a sandbox's endpoint on a network. When the kernel cannot be made
// to agree, the endpoint stays marked and goes with a later pass.
func (k *endpoints) Detach(ctx context.Context, sandbox, network string) error {
	unlock, err := k.locks.Lock(ctx, "sandbox/"+sandbox)
	if err != nil {
		return err
	}
	defer unlock()
	e, err := k.attached(sandbox, network)
	if err != nil {
		return err
	}
	if err = k.out.mark(ctx, "", []cnm.Endpoint{e}); err == nil {
		err = k.out.finish(ctx, cnm.EndpointOwner(e.ID))
	}
	if err != nil {
		return fmt.Errorf("detach sandbox %s from network %s: %w", cnm.Short(sandbox), network, err)
	}
	return nil
}

// attached finds a sandbox's endpoint on a network.
func (k *endpoints) attached(sandbox, network string) (cnm.Endpoint, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.ix.sandboxes[sandbox]
	if s == nil {
		return cnm.Endpoint{}, notFound("sandbox", cnm.Short(sandbox), nil)
	}
	n, err := k.findNetwork(network)
	if err != nil {
		return cnm.Endpoint{}, err
	}
	if s.v.Host {
		return cnm.Endpoint{}, &cnm.Error{Kind: cnm.ErrForbidden, Field: "network", Value: n.Name,
			Reason: "a sandbox cannot leave the host's network stack", Remedy: "remove the container"}
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
	return cnm.Endpoint{}, &cnm.Error{Kind: cnm.ErrNotFound, Field: "network", Value: n.Name,
		Reason: "the sandbox is not connected to it", Remedy: remedy}
}

package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine/image"
	"github.com/vethloom/vethloom/plan"
)

// joinPrefix begins a network request for the sandbox of another container.
const joinPrefix = "container:"

// sandbox is a network stack and the containers that run in it. It goes with
// the last of them: who uses it follows from which containers run.
type sandbox struct {
	op    chan struct{}
	users map[string]bool // guarded by op
	netns string          // guarded by op; "": not known since netd started
	gone  bool            // guarded by op
}

func (e *sandboxes) lockSandbox(ctx context.Context, id string) (*sandbox, error) {
	for {
		e.mu.Lock()
		s := e.sandboxes[id]
		if s == nil {
			s = &sandbox{op: make(chan struct{}, 1), users: map[string]bool{}}
			e.sandboxes[id] = s
		}
		e.mu.Unlock()
		select {
		case s.op <- struct{}{}:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if !s.gone {
			return s, nil
		}
		<-s.op
	}
}

// unlockSandbox forgets a sandbox that nobody uses.
func (e *sandboxes) unlockSandbox(id string, s *sandbox) {
	if len(s.users) == 0 {
		s.gone = true
		e.mu.Lock()
		delete(e.sandboxes, id)
		e.mu.Unlock()
	}
	<-s.op
}

// joinedContainer is the container whose sandbox a spec asks for, "" for none.
func joinedContainer(s Spec) string {
	for _, n := range s.Networks {
		if ref, ok := strings.CutPrefix(n.Network, joinPrefix); ok {
			return ref
		}
	}
	return ""
}

// enter makes the container's sandbox, or takes part in one that is in use. It
// returns the endpoints of a sandbox it made.
func (e *sandboxes) enter(ctx context.Context, c *container, rec record, img image.Image) (netns, id string,
	eps []cnm.Endpoint, err error) {
	id = c.id
	other := joinedContainer(rec.Spec)
	if other != "" {
		target, err := e.find(other)
		if err != nil {
			return "", "", nil, err
		}
		id = e.snapshot(target).Sandbox
	}
	s, err := e.lockSandbox(ctx, id)
	if err != nil {
		return "", "", nil, err
	}
	defer e.unlockSandbox(id, s)
	switch {
	case len(s.users) > 0:
	case other != "":
		return "", "", nil, &cnm.Error{Kind: cnm.ErrForbidden, Cause: ErrNotRunning, Field: "network",
			Value:  joinPrefix + other,
			Reason: "there is no network stack to share", Remedy: "start that container first"}
	default:
		ports := rec.Spec.Ports
		if len(rec.Spec.Networks) == 1 && rec.Spec.Networks[0].Network == cnm.NetworkNone {
			ports = nil // disconnected from all: they wait for a network
		}
		made, endpoints, err := e.c.Networks.CreateSandbox(ctx, cnm.SandboxRequest{
			ID: id, Container: c.id, Name: rec.Spec.Name, Attach: e.again(ctx, rec, img), Ports: ports,
			DNS: rec.Spec.DNS,
		})
		if err != nil {
			return "", "", nil, err
		}
		eps, s.netns = endpoints, e.pathOf(made)
	}
	if netns = s.netns; netns == "" {
		if netns, err = e.netnsOf(s); err != nil {
			return "", "", nil, err
		}
	}
	s.users[c.id] = true
	return netns, id, eps, nil
}

// pathOf is where a sandbox's namespace is, as records have it.
func (e *sandboxes) pathOf(s cnm.Sandbox) string {
	if s.Host {
		return hostNetNS
	}
	return e.c.Networks.NetNSPath(s)
}

// again are the networks that a container is to join, with the addresses that it had on them the last time: what
// others know it by, and what their caches hold, stays right.
func (e *sandboxes) again(ctx context.Context, rec record, img image.Image) []cnm.AttachRequest {
	joins := slices.Clone(rec.Spec.Networks)
	for i, j := range joins {
		if n, err := e.c.Networks.Network(ctx, j.Network); err == nil {
			joins[i].Before = rec.Addrs[n.ID]
		}
		joins[i].Serves, joins[i].Hostname = serves(rec.Spec, img), rec.Spec.Hostname
	}
	return joins
}

// serves are the ports that a container says it serves: those of its image, and its own.
func serves(s Spec, img image.Image) []plan.NamePort {
	out := slices.Clone(s.Expose)
	for _, text := range slices.Sorted(maps.Keys(img.Config.ExposedPorts)) {
		number, proto, _ := strings.Cut(text, "/")
		port, err := strconv.ParseUint(number, 10, 16)
		if proto == "" {
			proto = string(plan.TCP)
		}
		p := plan.NamePort{Proto: plan.L4(proto), Port: uint16(port)}
		known := p.Proto == plan.TCP || p.Proto == plan.UDP || p.Proto == plan.SCTP
		if err == nil && port > 0 && known && !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	return out
}

// withAddrs are a container's addresses by network with those of further endpoints.
func withAddrs(have map[string][]netip.Addr, eps ...cnm.Endpoint) map[string][]netip.Addr {
	out := maps.Clone(have)
	for _, ep := range eps {
		if len(ep.Addrs) == 0 {
			continue
		}
		if out == nil {
			out = map[string][]netip.Addr{}
		}
		out[ep.Network] = nil
		for _, p := range ep.Addrs {
			out[ep.Network] = append(out[ep.Network], p.Addr())
		}
	}
	return out
}

// hostNetNS stands for netd's own network namespace, which has no path that
// means the same to everyone.
const hostNetNS = "host"

// netnsOf finds a sandbox's namespace by a process that is in it. The caller
// holds the sandbox's lock.
func (e *sandboxes) netnsOf(s *sandbox) (string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for id := range s.users {
		if c := e.containers[id]; c != nil && isLive(c.rec.Status) && c.rec.Pid > 0 {
			return fmt.Sprintf("/proc/%d/ns/net", c.rec.Pid), nil
		}
	}
	return "", errors.New("find the network namespace to share: its containers have just ended")
}

// claim enters a container that may be running already.
func (e *sandboxes) claim(ctx context.Context, rec record) error {
	s, err := e.lockSandbox(ctx, rec.Sandbox)
	if err != nil {
		return err
	}
	s.users[rec.ID] = true
	if rec.NetNS != "" {
		s.netns = rec.NetNS
	}
	e.unlockSandbox(rec.Sandbox, s)
	return nil
}

// leave ends a container's part in its sandbox; the last removes it.
func (e *sandboxes) leave(ctx context.Context, c *container, id string) error {
	s, err := e.lockSandbox(ctx, id)
	if err != nil {
		return err
	}
	defer e.unlockSandbox(id, s)
	delete(s.users, c.id)
	if len(s.users) > 0 {
		return nil
	}
	if err := e.c.Networks.DeleteSandbox(ctx, id); err != nil {
		return fmt.Errorf("remove the network of container %s: %w", cnm.Short(c.id), err)
	}
	return nil
}

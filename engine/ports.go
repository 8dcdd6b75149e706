package engine

import (
	"context"
	"errors"
	"slices"

	"github.com/vethloom/vethloom/cnm"
)

// ChangePorts takes ports from a container and then gives it others, or changes nothing. What is to be removed is named
// by its container port alone, or by the host port and address as well. The record has the ports of a container that
// does not run, which it gets with its next start.
func (e *connector) ChangePorts(ctx context.Context, ref string, add, remove []cnm.PortMapping) error {
	c, rec, err := e.settled(ctx, ref)
	if err != nil {
		return err
	}
	if joinedContainer(rec.Spec) != "" {
		return &cnm.Error{Kind: cnm.ErrForbidden, Field: "container", Value: rec.Spec.Name,
			Reason: "its network is that of another container, which has the ports", Remedy: "change them there"}
	}
	unlock, err := e.lockKnown(ctx, c, ref)
	if err != nil {
		return err
	}
	defer unlock()
	rec = e.snapshot(c)
	ports, err := e.changedPorts(ctx, rec, add, remove)
	if err != nil {
		return err
	}
	// Others may live on in the sandbox of a container that has ended. Where there is none, nothing happens.
	if err := e.c.Networks.Publish(ctx, rec.Sandbox, ports); err != nil {
		return err
	}
	// From here on it is so: a netd that was killed before goes back to the record.
	e.change(c, func(r *record) { r.Spec.Ports = ports })
	err = e.save(ctx, c)
	if err == nil {
		return nil
	}
	undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
	defer cancel()
	e.change(c, func(r *record) { r.Spec.Ports = rec.Spec.Ports })
	return errors.Join(err, e.save(undo, c), e.c.Networks.Publish(undo, rec.Sandbox, rec.Spec.Ports))
}

// changedPorts are the ports that a container has after a change.
func (e *connector) changedPorts(ctx context.Context, rec record, add, remove []cnm.PortMapping) ([]cnm.PortMapping,
	error) {
	add, err := cnm.NormalizePorts(add)
	if err != nil {
		return nil, err
	}
	ports := slices.Clone(rec.Spec.Ports)
	for _, m := range remove {
		kept := slices.DeleteFunc(slices.Clone(ports), m.Names)
		if len(kept) == len(ports) {
			return nil, notPublished(rec.Spec, m)
		}
		ports = kept
	}
	if len(add) == 0 {
		return ports, nil
	}
	var has cnm.Publications
	for _, o := range ports {
		has.Add(o)
	}
	for _, m := range add {
		if o, found := has.Overlap(m); found {
			return nil, &cnm.Error{Kind: cnm.ErrExists, Field: "port", Value: m.String(),
				Reason: "container " + rec.Spec.Name + " publishes " + o.String() + " already",
				Remedy: "remove that one first"}
		}
	}
	return append(ports, add...), e.mayPublish(ctx, rec, add[0])
}

// notPublished is the error of a port to be removed that a container does not have.
func notPublished(s Spec, m cnm.PortMapping) error {
	err := &cnm.Error{Kind: cnm.ErrNotFound, Field: "port", Value: m.String(),
		Reason: "container " + s.Name + " does not publish it", Remedy: "see 'net port ls " + s.Name + "'"}
	for _, o := range s.Ports {
		switch {
		case !m.Dynamic && !o.Dynamic && m.Overlaps(o):
			err.Reason += "; it publishes " + o.String()
			return err
		case o.Dynamic && !m.Dynamic && m.Proto == o.Proto && m.Port == o.Port:
			err.Reason += " by that number: netd has picked the host port"
			err.Remedy = "name the container's port alone: " + o.String()
			return err
		}
	}
	return err
}

// mayPublish refuses ports of a container that none of its networks can publish.
func (e *connector) mayPublish(ctx context.Context, rec record, m cnm.PortMapping) error {
	if e.onHost(rec) {
		return m.Refuse("container "+rec.Spec.Name+" is on network host and has the host's ports already",
			"what listens in it is reachable")
	}
	for _, a := range rec.Spec.Networks {
		n, err := e.c.Networks.Network(ctx, a.Network)
		if err != nil && !errors.Is(err, cnm.ErrNotFound) {
			return err
		}
		if err != nil || !n.Internal && n.Name != cnm.NetworkNone {
			return nil // of one that is gone the next start tells
		}
	}
	return m.Refuse("no network that container "+rec.Spec.Name+" is on can publish ports",
		"connect it to a bridge network that is not internal")
}

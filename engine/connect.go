package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/vethloom/vethloom/cnm"
)

// connector changes the networks of containers. What a container is on is part of its record: it is so again after
// its next start, and a container that does not run is changed by its record alone.
type connector struct{ *settler }

// Connect has a container join a further network. The endpoint is the zero value while the container does not run.
func (e *connector) Connect(ctx context.Context, ref string, r cnm.AttachRequest) (ep cnm.Endpoint, err error) {
	c, unlock, err := e.ownerOf(ctx, ref, false)
	if err != nil {
		return ep, err
	}
	defer unlock()
	rec := e.snapshot(c)
	n, err := e.c.Networks.Network(ctx, r.Network)
	if err != nil {
		return ep, err
	}
	live := e.inUse(rec)
	if err := e.mayJoin(ctx, rec, n, r, live); err != nil {
		return ep, err
	}
	r.Network, r.Name, r.Before = n.Name, rec.Spec.Name, rec.Addrs[n.ID]
	if live {
		img, missing := e.c.Images.Resolve(ctx, rec.ImageID)
		if missing != nil {
			return ep, fmt.Errorf("find the image %s: %w", rec.Spec.Image, missing)
		}
		r.Serves, r.Hostname = serves(rec.Spec, img), rec.Spec.Hostname
		if ep, err = e.c.Networks.Attach(ctx, rec.Sandbox, r); err != nil {
			return ep, err
		}
		err = e.c.Networks.Publish(ctx, rec.Sandbox, rec.Spec.Ports)
	}
	if err == nil {
		joined := slices.Clone(rec.Spec.Networks)
		if i := e.indexOf(ctx, rec, n); i >= 0 {
			joined[i] = r // with other wishes, for the next start
		} else {
			joined = append(joined, r)
		}
		joined = slices.DeleteFunc(joined, func(a cnm.AttachRequest) bool { return a.Network == cnm.NetworkNone })
		e.change(c, func(r *record) { r.Spec.Networks, r.Addrs = joined, withAddrs(r.Addrs, ep) })
		err = e.save(ctx, c)
	}
	if err == nil {
		return ep, nil
	}
	undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
	defer cancel()
	e.change(c, func(r *record) { r.Spec.Networks = rec.Spec.Networks })
	err = errors.Join(err, e.save(undo, c))
	if live {
		err = errors.Join(err, e.c.Networks.Detach(undo, rec.Sandbox, n.ID),
			e.c.Networks.Publish(undo, rec.Sandbox, rec.Spec.Ports))
	}
	return cnm.Endpoint{}, err
}

// inUse reports whether a container's sandbox is there: it runs, or others live on in it.
func (e *connector) inUse(rec record) bool {
	return slices.ContainsFunc(e.all(), func(c *container) bool {
		r := e.snapshot(c)
		return r.Sandbox == rec.Sandbox && isLive(r.Status)
	})
}

// mayJoin refuses what the controller would refuse of a sandbox that is there.
func (e *connector) mayJoin(ctx context.Context, rec record, n cnm.Network, r cnm.AttachRequest, live bool) error {
	if err := r.Check(); err != nil {
		return err
	}
	switch {
	case n.ConfigOnly:
		return cnm.ConfigOnlyError(n.Name)
	case n.Driver == cnm.DriverHost || n.Driver == cnm.DriverNull:
		return &cnm.Error{Kind: cnm.ErrForbidden, Field: "network", Value: n.Name,
			Reason: "a container that exists cannot be connected to it", Remedy: "choose it when the container is made"}
	case e.onHost(rec):
		return &cnm.Error{Kind: cnm.ErrForbidden, Field: "network", Value: n.Name,
			Reason: "container " + rec.Spec.Name + " is on the host's own network, which joins no other",
			Remedy: "make the container without network host"}
	}
	others, i := slices.Clone(rec.Spec.Networks), e.indexOf(ctx, rec, n)
	if i >= 0 && live {
		return &cnm.Error{Kind: cnm.ErrExists, Field: "network", Value: n.Name,
			Reason: "container " + rec.Spec.Name + " is on it already", Remedy: "disconnect it first"}
	}
	if i >= 0 {
		others = slices.Delete(others, i, i+1)
	}
	return cnm.CheckLinkNames(append(others, r))
}

// Disconnect takes a container from a network. With force it is no error that it is not on it.
func (e *connector) Disconnect(ctx context.Context, ref, network string, force bool) error {
	c, unlock, err := e.ownerOf(ctx, ref, true)
	if err != nil {
		return err
	}
	defer unlock()
	rec := e.snapshot(c)
	n, err := e.c.Networks.Network(ctx, network)
	if errors.Is(err, cnm.ErrNotFound) && force {
		n, err = cnm.Network{Name: network}, nil // the record may name one that is gone
	}
	if err != nil {
		return err
	}
	i, live := e.indexOf(ctx, rec, n), e.inUse(rec)
	if live {
		if n.ID != "" {
			network = n.ID // the one that was found, whatever is renamed meanwhile
		}
		err := e.c.Networks.Detach(ctx, rec.Sandbox, network)
		if err != nil && !(errors.Is(err, cnm.ErrNotFound) && (force || i >= 0)) {
			return err
		}
	} else if i < 0 && !force {
		return &cnm.Error{Kind: cnm.ErrNotFound, Field: "network", Value: n.Name,
			Reason: "container " + rec.Spec.Name + " is not on it", Remedy: "see what it is on with 'net inspect'"}
	}
	if i >= 0 {
		left := slices.Delete(slices.Clone(rec.Spec.Networks), i, i+1)
		if len(left) == 0 {
			left = []cnm.AttachRequest{{Network: cnm.NetworkNone}} // an empty list is the default network
		}
		e.change(c, func(r *record) { r.Spec.Networks = left })
		if err := e.save(ctx, c); err != nil {
			return err
		}
	}
	if !live {
		return nil
	}
	if err := e.c.Networks.Publish(ctx, rec.Sandbox, rec.Spec.Ports); err != nil {
		return fmt.Errorf("container %s has left network %s, and no other could have its ports: %w", rec.Spec.Name,
			n.Name, err)
	}
	return nil
}

// indexOf is where a container's record has a network, by name, ID or the beginning of one; negative for nowhere.
func (e *connector) indexOf(ctx context.Context, rec record, n cnm.Network) int {
	return slices.IndexFunc(rec.Spec.Networks, func(a cnm.AttachRequest) bool {
		if a.Network == n.Name {
			return true
		}
		have, err := e.c.Networks.Network(ctx, a.Network)
		return err == nil && have.ID == n.ID
	})
}

func (e *connector) onHost(rec record) bool {
	return slices.ContainsFunc(rec.Spec.Networks, func(a cnm.AttachRequest) bool {
		return a.Network == cnm.NetworkHost
	})
}

// ownerOf finds and locks the container whose network a container has: its own, or that of another. Where that one was
// removed and orphans are fine, it is the container that lives on in the network.
func (e *connector) ownerOf(ctx context.Context, ref string, orphans bool) (*container, func(), error) {
	c, rec, err := e.settled(ctx, ref)
	if err != nil {
		return nil, nil, err
	}
	if joined := joinedContainer(rec.Spec); joined != "" {
		owner, err := e.find(joined)
		switch {
		case err == nil:
			c = owner
		case !orphans:
			return nil, nil, &cnm.Error{Kind: cnm.ErrForbidden, Field: "container", Value: rec.Spec.Name,
				Reason: "its network is that of a container that was removed",
				Remedy: "make the container again", Cause: err}
		}
	}
	unlock, err := e.lockKnown(ctx, c, ref)
	return c, unlock, err
}

// lockKnown locks a container that was found by ref, unless it was removed meanwhile.
func (e *connector) lockKnown(ctx context.Context, c *container, ref string) (func(), error) {
	unlock, err := e.lock(ctx, c)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	known := e.containers[c.id] == c
	e.mu.Unlock()
	if !known {
		unlock()
		return nil, notFound(strings.TrimPrefix(ref, "/"))
	}
	return unlock, nil
}

package server

import (
	"context"
	"errors"
	"time"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/plugin/attach"
)

// lookTime is how often netd looks for namespaces that are gone and for detaches that were left.
const lookTime = 10 * time.Second

// collect detaches all of a network of the engine's but what it says it has.
func (s *Server) collect(ctx context.Context, r attach.Request) (int, error) {
	valid := make(map[attach.Key]bool, len(r.Valid))
	for _, k := range r.Valid {
		valid[attach.Key{Engine: r.Engine, Container: k.Container, Interface: k.Interface}] = true
	}
	sandboxes, err := s.Controller.Sandboxes(ctx)
	if err != nil {
		return 0, err
	}
	var failed []error
	gone := 0
	for _, sb := range sandboxes {
		if sb.Engine != r.Engine {
			continue
		}
		ends, err := s.Controller.EndpointsOf(ctx, sb.ID)
		if err != nil {
			return gone, err
		}
		for _, e := range ends {
			k := attach.Key{Engine: sb.Engine, Container: sb.Container, Interface: e.LinkName()}
			if e.Origin != r.Origin || valid[k] {
				continue
			}
			if err := s.detach(ctx, k); err != nil {
				failed = append(failed, err) // the others go all the same
				continue
			}
			gone++
		}
	}
	unused, err := s.unused(ctx, r, valid)
	failed = append(failed, err)
	for k := range unused {
		if err := s.detach(ctx, k); err != nil {
			failed = append(failed, err)
			continue
		}
		gone++
	}
	return gone, errors.Join(failed...)
}

// Watch removes, until the context ends, what engines have not detached: sandboxes whose namespaces are gone, and
// those whose detach was left while netd was away. So it does with addresses that were reserved.
func (s *Server) Watch(ctx context.Context) {
	tick := time.NewTicker(lookTime)
	defer tick.Stop()
	for {
		if err := s.Look(ctx); err != nil && ctx.Err() == nil {
			s.Log.WarnContext(ctx, "could not remove what an engine has left; trying again", "err", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// Look does it once.
func (s *Server) Look(ctx context.Context) error {
	left, err := attach.Left(s.Later)
	failed := []error{err}
	for _, k := range left {
		failed = append(failed, s.leftBehind(ctx, k))
	}
	sandboxes, err := s.Controller.Sandboxes(ctx)
	failed = append(failed, err)
	for _, sb := range sandboxes {
		if sb.Adopted != nil && !s.holds(sb) {
			failed = append(failed, s.forgotten(ctx, sb))
		}
	}
	return errors.Join(append(failed, s.abandoned(ctx))...)
}

func (s *Server) leftBehind(ctx context.Context, k attach.Key) error {
	_, unlock, err := s.lock(ctx, k)
	if err != nil {
		return err
	}
	defer unlock()
	return s.finishLater(ctx, k)
}

// finishLater carries out the detach of an attachment that was left, if one was. The caller holds the container's lock.
func (s *Server) finishLater(ctx context.Context, k attach.Key) error {
	if !attach.IsLeft(s.Later, k) {
		return nil
	}
	if err := s.detachLocked(ctx, k); err != nil {
		return err
	}
	s.Log.InfoContext(ctx, "detached what was left to be detached while netd was away", "engine", k.Engine,
		"container", k.Container, "interface", k.Interface)
	return attach.Done(s.Later, k)
}

// forgotten removes a sandbox whose namespace its engine has removed.
func (s *Server) forgotten(ctx context.Context, sb cnm.Sandbox) error {
	_, unlock, err := s.lock(ctx, attach.Key{Engine: sb.Engine, Container: sb.Container})
	if err != nil {
		return err
	}
	defer unlock()
	now, ok, err := s.standing(ctx, sb.ID)
	if err == nil && !ok {
		s.Log.InfoContext(ctx, "the network namespace of a container is gone; removed what it had",
			"engine", sb.Engine, "container", sb.Container, "netns", sb.Adopted.Path, "phase", now.Phase)
	}
	return err
}

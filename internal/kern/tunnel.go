package kern

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vethloom/vethloom/plan"
	"golang.org/x/sys/unix"
)

// TunnelHost carries the packets of TUN links in this process. Its methods may be called
// concurrently; the [Kernel] makes and removes the links.
type TunnelHost interface {
	// Open carries a link's packets from now on, or carries them otherwise from now on: then
	// the remotes stay. It is called on a thread in the fabric's namespace and returns when the
	// socket is bound; a port that is taken is an error that wraps
	// [plan.ErrPortTaken], or EADDRINUSE when nobody was looked for.
	Open(context.Context, plan.Tunnel) error
	// Close ends the tunnel of a link. One that is not open is no error.
	Close(link string) error
	// Add adds a remote to an open tunnel, or sends what goes to its prefix elsewhere.
	Add(plan.TunnelPeer) error
	// Remove removes a remote by its link and prefix. One that is not there is no error.
	Remove(plan.TunnelPeer) error
	// List returns what was opened and added. A tunnel that has ended by itself, because
	// its link is gone, is not among it.
	List() ([]plan.Tunnel, []plan.TunnelPeer)
}

// tunnel carries out an operation on a tunnel.
func (k *Kernel) tunnel(ctx context.Context, op plan.Op, t plan.Tunnel) error {
	if op.Verb == plan.Delete {
		return k.closeTunnel(t.Link)
	}
	if k.tunnels == nil {
		return fmt.Errorf("tunnels: %w", plan.ErrUnsupported)
	}
	if op.Verb != plan.Create && op.Verb != plan.Modify {
		return badVerb(op)
	}
	if !t.Local.IsValid() || t.Port == 0 {
		return fmt.Errorf("tunnel %s at %s, port %d: want an address of this host and a port from 1 to 65535", t.Link,
			t.Local, t.Port)
	}
	if op.Verb == plan.Create { // an earlier link of that name may have had one
		if err := k.closeTunnel(t.Link); err != nil {
			return err
		}
	}
	err := k.enter("", func() error { return k.tunnels.Open(ctx, t) })
	if !errors.Is(err, unix.EADDRINUSE) {
		return err
	}
	taken := &plan.PortTakenError{Port: plan.PortReservation{Addr: t.Local, Proto: plan.UDP, From: t.Port, To: t.Port}}
	entered := k.enter("", func() error {
		taken.By = usedBy(plan.UDP, t.Port)
		return nil
	})
	return errors.Join(fmt.Errorf("%w: %w", taken, err), entered)
}

// remote carries out an operation on the far end of a tunnel.
func (k *Kernel) remote(op plan.Op, r plan.TunnelPeer) error {
	switch {
	case k.tunnels == nil && op.Verb == plan.Delete:
		return nil
	case k.tunnels == nil:
		return fmt.Errorf("tunnels: %w", plan.ErrUnsupported)
	}
	r.Prefix = r.Prefix.Masked()
	switch op.Verb {
	case plan.Create, plan.Modify:
		if r.Prefix == (netip.Prefix{}) || !r.Dst.IsValid() {
			return fmt.Errorf("%s: want a prefix and an address", r)
		}
		return k.tunnels.Add(r)
	case plan.Delete:
		return k.tunnels.Remove(r)
	}
	return badVerb(op)
}

// closeTunnel ends what this process does with a link that goes or is made anew, so that
// nothing of it is left for another link of that name.
func (k *Kernel) closeTunnel(link string) error {
	if k.tunnels == nil {
		return nil
	}
	_, remotes := k.tunnels.List()
	errs := []error{k.tunnels.Close(link)}
	for _, r := range remotes {
		if r.Link == link {
			errs = append(errs, k.tunnels.Remove(r))
		}
	}
	return errors.Join(errs...)
}

// listTunnels reads the tunnels of TUN links that are ours. Without its link a tunnel
// carries nothing, so it is not there: the pass that makes the link anew opens it again.
func (k *Kernel) listTunnels(s *plan.State) {
	if k.tunnels == nil {
		return
	}
	tuns := map[string]bool{}
	for _, l := range s.Links {
		if l.Kind == plan.TUN && l.NS == "" {
			tuns[l.Name] = true
		}
	}
	tunnels, remotes := k.tunnels.List()
	open := map[string]bool{}
	for _, t := range tunnels {
		if tuns[t.Link] {
			open[t.Link] = true
			s.Tunnels = append(s.Tunnels, t)
		}
	}
	for _, r := range remotes {
		if open[r.Link] {
			s.TunnelPeers = append(s.TunnelPeers, r)
		}
	}
}

func (k *Kernel) tunnelHandler() handler {
	return handler{
		apply: one(func(ctx context.Context, s *session, op plan.Op, t plan.Tunnel) error {
			return s.k.tunnel(ctx, op,
				t)
		}),
		observe: func(_ context.Context, s *plan.State) error {
			k.listTunnels(s)
			return nil
		},
	}
}

// tunnelPeerHandler observes nothing: tunnels are listed with their peers.
func (k *Kernel) tunnelPeerHandler() handler {
	return handler{apply: one(func(_ context.Context, s *session, op plan.Op, p plan.TunnelPeer) error {
		return s.k.remote(op, p)
	})}
}

package fake

import (
	"errors"
	"fmt"

	"github.com/vethloom/vethloom/plan"
)

// errKind tells that a link is of another kind than what is put on it needs.
var errKind = errors.New("a link of another kind")

// device checks what only some kinds of links can have.
func (t *tables) device(v plan.Verb, l plan.Link) error {
	if old, ok := t.links[l.Key()]; v == plan.Modify && ok && (old.Kind != l.Kind || old.VXLAN != l.VXLAN) {
		return fmt.Errorf("change what %s was made with: %w", l.Name, ErrExists)
	}
	switch l.Kind {
	case plan.TUN:
		if l.Master != "" || l.MAC != (plan.MAC{}) {
			return fmt.Errorf("a bridge port or a hardware address: %w", errKind)
		}
	case plan.VXLAN:
		if !l.VXLAN.Local.IsValid() || l.VXLAN.Port == 0 {
			return fmt.Errorf("source address or port: %w", ErrMissing)
		}
		for _, o := range t.links {
			if o.Kind == plan.VXLAN && o.NS == l.NS && o.Name != l.Name && o.VXLAN.VNI == l.VXLAN.VNI &&
				o.VXLAN.Port == l.VXLAN.Port &&
				o.VXLAN.Local.Is4() == l.VXLAN.Local.Is4() {
				return fmt.Errorf("identifier %d on port %d of %s: %w", l.VXLAN.VNI, l.VXLAN.Port, o.Name, ErrExists)
			}
		}
	}
	return nil
}

// forward adds a forwarding entry of a VXLAN device, or of the bridge of a port.
func (t *tables) forward(v plan.Verb, f plan.FDBEntry) error {
	if l, ok := t.find(f.NS, f.Link); ok && (f.Dst.IsValid() && l.Kind != plan.VXLAN ||
		!f.Dst.IsValid() && l.Master == "") {
		return fmt.Errorf("forwarding entry of %s: %w", f.Link, errKind)
	}
	return onLink(t, t.fdb, v, f)
}

func (t *tables) tunnel(v plan.Verb, u plan.Tunnel) error {
	if err := t.place("", u.Link); err != nil {
		return err
	}
	if l, _ := t.find("", u.Link); l.Kind != plan.TUN {
		return fmt.Errorf("tunnel on %s: %w", u.Link, errKind)
	}
	return put(t.tunnels, v, u)
}

func (t *tables) remote(v plan.Verb, r plan.TunnelPeer) error {
	if _, ok := t.tunnels[r.Link]; !ok {
		return fmt.Errorf("tunnel of %s: %w", r.Link, ErrMissing)
	}
	return put(t.remotes, v, r)
}

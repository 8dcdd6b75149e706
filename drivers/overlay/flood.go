package overlay

import (
	"net/netip"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/plan"
)

// floods reports whether what is for many endpoints goes to other nodes. Endpoints that reach no others send them
// nothing.
func (o Options) floods() bool { return o.Multicast && o.Bridge.ICC }

// RenderNode implements [cnm.Flooder]: the VXLAN device sends a copy of each broadcast and multicast frame to the node.
// The device's entries are of one family, so a node's address of the other one renders nothing.
func (Driver) RenderNode(n cnm.Network, node netip.Addr, h cnm.Host) (plan.State, error) {
	if n.Phase == cnm.Deleting || !meets(n, h) {
		return plan.State{}, nil
	}
	o, err := options(n)
	if err != nil || !o.floods() || own(node, h) || !leads(node, local(h)) {
		return plan.State{}, err
	}
	return plan.State{FDB: []plan.FDBEntry{{Link: LinkName(n.ID), Dst: node}}}, nil
}

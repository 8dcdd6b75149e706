package controller

import (
	"context"
	"fmt"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/plan"
)

// LeaveNetwork takes down what this node has of a network of the cluster, which goes on everywhere else, and keeps it
// down until JoinNetwork. It needs no cluster, so that a network which cuts this node off from it can be got rid of.
// While endpoints of this node are on the network it is an ErrInUse that names them.
func (k *shared) LeaveNetwork(ctx context.Context, ref string) (cnm.Network, error) {
	n, err := k.sharedNetwork(ctx, ref)
	if err != nil {
		return cnm.Network{}, err
	}
	if err := k.setLeft(ctx, n, true); err != nil {
		return cnm.Network{}, fmt.Errorf("leave network %s: %w", n.Name, err)
	}
	return n, nil
}

// JoinNetwork takes up again a network that this node has left, unless this host cannot have it.
func (k *shared) JoinNetwork(ctx context.Context, ref string) (cnm.Network, error) {
	n, err := k.sharedNetwork(ctx, ref)
	if err != nil || !n.Left() {
		return n, err
	}
	cluster, err := k.membership(n)
	if err == nil {
		err = cluster.Admit(ctx, n)
	}
	if err == nil {
		err = k.setLeft(ctx, n, false)
	}
	if err != nil {
		return cnm.Network{}, fmt.Errorf("join network %s: %w", n.Name, err)
	}
	return n, nil
}

// sharedNetwork finds a network of the cluster.
func (k *shared) sharedNetwork(ctx context.Context, ref string) (cnm.Network, error) {
	n, err := k.Network(ctx, ref)
	if err == nil && n.Cluster == nil {
		err = &cnm.Error{Kind: cnm.ErrForbidden, Field: "network", Value: n.Name, Reason: "of this node alone",
			Remedy: fmt.Sprintf("only networks of a cluster are left and joined; net network rm %s removes it", n.Name)}
	}
	return n, err
}

// setLeft commits that this node has left the network, or has not, and has the kernel agree.
func (k *shared) setLeft(ctx context.Context, n cnm.Network, left bool) error {
	unlock, err := k.locks.Lock(ctx, "network/"+n.ID)
	if err != nil {
		return err
	}
	defer unlock()
	before, after, err := k.holdLeft(ctx, n, left)
	if err != nil || before.Left() == left {
		return err
	}
	if err := k.commitAdopted(ctx, before, after); err != nil {
		k.mu.Lock()
		k.ix.putNetwork(before, false)
		k.mu.Unlock()
		return err
	}
	owners, err := k.ownersOf(ctx, n.ID)
	if err != nil {
		return err
	}
	err = k.converge(ctx, owners...)
	if k.cluster != nil {
		k.cluster.Review(n.ID)
	}
	action := ActionJoin
	if left {
		action = ActionLeave
	}
	k.emitNetwork(action, n)
	return err
}

// holdLeft enters into the index that this node has left the network, so that no further endpoint comes onto it. It
// returns the network as it was and as it is.
func (k *shared) holdLeft(ctx context.Context, n cnm.Network, left bool) (before, after cnm.Network, err error) {
	if err := k.lockSettled(ctx, n.ID); err != nil {
		return before, after, err
	}
	defer k.mu.Unlock()
	ent := k.ix.networks[n.ID]
	switch on := k.ix.endpointsOn(n.ID); {
	case ent == nil || ent.pending:
		return before, after, notFound("network", n.Name, nil)
	case ent.v.Phase == cnm.Deleting:
		return before, after, &cnm.Error{Kind: cnm.ErrInUse, Field: "network", Value: n.Name, Reason: "being removed"}
	case left && len(on) > 0:
		err := k.out.inUse(ent.v, on)
		err.Remedy += ", or have it done with --force"
		return before, after, err
	}
	before, after = ent.v, copyNetwork(ent.v)
	after.Cluster.Left = left
	if left { // what this node had of it is others' to have
		if after.Cluster.Leases != "" {
			after.Pools = nil
		}
		for i := range after.Pools {
			after.Pools[i].Blocks = nil
		}
	}
	if before.Left() != left {
		k.ix.putNetwork(after, false)
	}
	return before, after, nil
}

// ownersOf are those of a network and of the ways to its peers.
func (k *shared) ownersOf(ctx context.Context, network string) ([]plan.Owner, error) {
	peers, err := k.store.Find(ctx, cnm.KindPeer, cnm.PeerID(network, ""))
	if err != nil {
		return nil, fmt.Errorf("find the peers of the network: %w", err)
	}
	owners := []plan.Owner{cnm.NetworkOwner(network)}
	for _, p := range peers {
		owners = append(owners, cnm.PeerOwner(p.Key.ID), cnm.IngressOwner(p.Key.ID))
	}
	nodes, err := k.store.Find(ctx, cnm.KindNode, cnm.PeerID(network, ""))
	if err != nil {
		return nil, fmt.Errorf("find the nodes with endpoints of the network: %w", err)
	}
	for _, n := range nodes {
		owners = append(owners, cnm.NodeOwner(n.Key.ID))
	}
	return owners, nil
}

// Left are the names of the networks that this node has left, by ID.
func (k *shared) Left() map[string]string {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := map[string]string{}
	for id, e := range k.ix.networks {
		if e.v.Left() {
			out[id] = e.v.Name
		}
	}
	return out
}

// hasLeft is the error of a network that this node has left; nil when it has not.
func (k *shared) hasLeft(id string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if e := k.ix.networks[id]; e != nil && e.v.Left() {
		return cnm.LeftError(e.v.Name)
	}
	return nil
}

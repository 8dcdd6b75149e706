package cnm

import "context"

// Adopt takes over a network as the cluster has it, with this node's share of it in Pools. It
// may be called again at any time: what is so already costs no write, and what a crash left undone is finished.
func (k *Controller) Adopt(ctx context.Context, n Network) error {
	return k.adoptNetwork(ctx, n)
}

// Abandon tells that the cluster has a network no more. Without endpoints of this node it is removed;
// with some it stays, marked [ClusterNetwork.Gone], and goes with the last of them.
func (k *Controller) Abandon(ctx context.Context, id string) error {
	return k.abandonNetwork(ctx, id)
}

func (k *Controller) adoptNetwork(context.Context, Network) error  { return ErrUnavailable }
func (k *Controller) abandonNetwork(context.Context, string) error { return ErrUnavailable }

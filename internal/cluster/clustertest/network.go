package clustertest

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/vethloom/vethloom/cnm"
)

// CreateNetwork makes a network named net as soon as the node is a member.
func CreateNetwork(ctx context.Context, n *Node, driver string, subnet netip.Prefix) (cnm.Network, error) {
	r := cnm.NetworkRequest{Name: "net", Driver: driver, Pools: []cnm.PoolRequest{{Subnet: subnet}}}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		made, err := n.Controller.CreateNetwork(ctx, r)
		if !errors.Is(err, cnm.ErrUnavailable) {
			return made, err
		}
		select {
		case <-ctx.Done():
			return made, errors.Join(err, ctx.Err())
		case <-tick.C:
		}
	}
}

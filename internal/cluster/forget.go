package cluster

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/vethloom/vethloom/cnm"
)

// forgettable tells of Forget where a node is away. The caller holds mu.
func (m *core) forgettable(id string) string {
	node, known := m.rep.nodes[id]
	if _, alive := m.rep.alive[id]; alive || !known {
		return ""
	}
	return fmt.Sprintf("; if node %.64s is gone for good, 'net node rm %.64s' frees what it held", node.v.Name,
		node.v.Name)
}

// Forget ends the membership of a node that is gone for good, by ID: what it held is free at once, as it would be after
// [Times.Lease]. Should it come back, it joins anew, and what others have taken meanwhile is not its own any more.
func (m *Member) Forget(ctx context.Context, id string) error {
	if err := m.ready(); err != nil {
		return err
	}
	m.mu.Lock()
	node, known := m.rep.nodes[id]
	_, alive := m.rep.alive[id]
	client := m.client
	m.mu.Unlock()
	switch {
	case !known:
		return &cnm.Error{Kind: cnm.ErrNotFound, Field: "node", Value: id, Reason: "no such node"}
	case id == m.id || alive:
		return &cnm.Error{Kind: cnm.ErrInUse, Field: "node", Value: node.v.Name, Reason: "it is a member that answers",
			Remedy: "stop netd there first, and wait until 'net node ls' shows it as away"}
	case node.lease == 0:
		return &cnm.Error{Kind: cnm.ErrInvalid, Field: "node", Value: node.v.Name,
			Reason: "its record hangs on no etcd lease, so no node has written it",
			Remedy: fmt.Sprintf("remove it with `etcdctl del %s/node/%s`", m.cfg.Prefix, id)}
	}
	// All that a node has hangs on one etcd lease.
	_, err := client.Revoke(ctx, clientv3.LeaseID(node.lease))
	if err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return unavailable(fmt.Errorf("end the lease of node %s: %w", node.v.Name, err))
	}
	return nil
}

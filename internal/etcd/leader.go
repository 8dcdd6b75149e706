package etcd

import (
	"context"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
)

// How long a call waits for a cluster that is choosing a leader, and between its rounds of asking every member.
const (
	leaderWait  = 5 * time.Second
	leaderPause = 100 * time.Millisecond
)

// withLeader has calls go to members that know a leader. One that is cut off from the others takes a call, and lets it
// wait for seconds; told to, it says at once that it has no leader, and the next member is asked. It has done nothing
// of the call then, so this is right for writes too. Calls about a member itself go to that one.
func (c Config) withLeader(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn,
	invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if !strings.HasPrefix(method, "/etcdserverpb.KV/") && !strings.HasPrefix(method, "/etcdserverpb.Lease/") {
		return invoke(ctx, method, req, reply, cc, opts...)
	}
	ctx = clientv3.WithRequireLeader(ctx)
	end := time.Now().Add(leaderWait)
	for {
		var err error
		for range c.Endpoints { // they are asked in turn
			if err = invoke(ctx, method, req, reply, cc, opts...); !isLeaderless(err) {
				return err
			}
		}
		if time.Now().After(end) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(leaderPause):
		}
	}
}

func isLeaderless(err error) bool {
	s, ok := status.FromError(err)
	return err != nil && ok && s.Message() == rpctypes.ErrorDesc(rpctypes.ErrGRPCNoLeader)
}

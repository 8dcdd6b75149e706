package clustertest

import (
	"context"
	"maps"
	"path"
	"sync"

	"google.golang.org/grpc/stats"
)

// Requests counts what a client exchanges with etcd. It is a [stats.Handler].
type Requests struct {
	mu       sync.Mutex
	sent     map[string]int
	received int
	bytes    int
}

// Sent is how many messages were sent, by method, such as Range, Txn or LeaseKeepAlive.
func (r *Requests) Sent() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.sent)
}

// Received is how many messages came and how many bytes they had.
func (r *Requests) Received() (messages, bytes int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.received, r.bytes
}

type methodKey struct{}

// TagRPC implements [stats.Handler].
func (r *Requests) TagRPC(ctx context.Context, i *stats.RPCTagInfo) context.Context {
	return context.WithValue(ctx, methodKey{}, path.Base(i.FullMethodName))
}

// HandleRPC implements [stats.Handler].
func (r *Requests) HandleRPC(ctx context.Context, s stats.RPCStats) {
	switch s := s.(type) {
	case *stats.OutPayload:
		name, _ := ctx.Value(methodKey{}).(string)
		r.mu.Lock()
		if r.sent == nil {
			r.sent = map[string]int{}
		}
		r.sent[name]++
		r.mu.Unlock()
	case *stats.InPayload:
		r.mu.Lock()
		r.received++
		r.bytes += s.WireLength
		r.mu.Unlock()
	}
}

// TagConn implements [stats.Handler].
func (*Requests) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleConn implements [stats.Handler].
func (*Requests) HandleConn(context.Context, stats.ConnStats) {}

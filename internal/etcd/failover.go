package etcd

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Timing of a failover.
const (
	slowCall   = time.Second            // a call takes: whether the member has a quorum is looked at
	lookTime   = time.Second            // a member has for an answer
	lookPause  = 500 * time.Millisecond // after a look that found no better member; doubled with each further one
	maxPause   = 8 * time.Second
	maxRetries = 3                      // of one call at other members
	election   = 4 * time.Second        // members may have no leader before a call fails for it
	askAgain   = 200 * time.Millisecond // what failed for want of a leader
)

// failover keeps a client of a cluster at one member that has a quorum. Etcd's own client spreads its calls over all
// members, those included that were cut off from the others or hang: each call to such a one costs its whole timeout,
// and a change of something takes several.
//
// A member is looked at when a call to it fails for want of a leader or a connection, or takes long. It is left when
// it does not answer a read that needs a quorum while another one does: where all are slow, because there is too much
// to do, the client stays where it is.
type failover struct {
	c         Config
	endpoints []string

	mu      sync.Mutex
	client  *clientv3.Client
	at      int           // the member in use
	left    chan struct{} // closed when it is left
	looking chan struct{} // closed after the look that is under way; nil: there is none
	looked  time.Time
	vain    int  // looks that found no better member, one after the other
	choose  bool // the last look found a member that waits for a quorum
}

func newFailover(c Config) *failover {
	return &failover{c: c, endpoints: c.Endpoints, at: rand.IntN(len(c.Endpoints)), left: make(chan struct{})}
}

func (f *failover) use(c *clientv3.Client) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.client = c
}

// errLeft is why a call was ended that a member did not answer.
var errLeft = errors.New("the member of etcd does not answer, and another one does")

// unary is a [grpc.UnaryClientInterceptor].
func (f *failover) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn,
	invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if !strings.HasPrefix(method, "/etcdserverpb.KV/") && !strings.HasPrefix(method, "/etcdserverpb.Lease/") {
		return invoke(ctx, method, req, reply, cc, opts...) // about a member itself, or to log in
	}
	ctx = clientv3.WithRequireLeader(ctx)
	call := func(ctx context.Context, req, reply any) error { return invoke(ctx, method, req, reply, cc, opts...) }
	unsure, err := f.call(ctx, req, func(ctx context.Context) error { return call(ctx, req, reply) })
	if txn, ok := req.(*etcdserverpb.TxnRequest); ok && unsure && err == nil {
		if answer, ok := reply.(*etcdserverpb.TxnResponse); ok && !answer.Succeeded {
			return settle(ctx, txn, answer, func(ctx context.Context, q *etcdserverpb.TxnRequest,
				a *etcdserverpb.TxnResponse) error {
				_, err := f.call(ctx, q, func(ctx context.Context) error { return call(ctx, q, a) })
				return err
			})
		}
	}
	return err
}

// call makes a call, at another member again where that can do no harm. Unsure tells that what succeeded or failed was
// not the first time, and that an earlier time may have been the one that did it.
func (f *failover) call(ctx context.Context, req any, invoke func(context.Context) error) (unsure bool, err error) {
	begin := time.Now()
	for again := 0; ; again++ {
		done, left := false, f.current()
		err := f.attempt(ctx, left, func(ctx context.Context) error {
			err := invoke(ctx)
			done = context.Cause(ctx) != errLeft
			return err
		})
		if err == nil && time.Since(begin) < slowCall {
			f.well()
		}
		if err == nil || again == maxRetries || ctx.Err() != nil {
			return unsure, err
		}
		switch maybe := !done || uncertain(err); {
		case !maybe && !unavailable(err):
			return unsure, err
		case maybe && !repeatable(req):
			if !done {
				// After a DeadlineExceeded etcd's client would try again.
				err = status.Error(codes.Unavailable, errLeft.Error())
			}
			return unsure, err
		case maybe:
			unsure = true
		}
		switch {
		case !done || f.look(ctx, left):
		case !f.electing(err) || time.Since(begin) > election || !sleep(ctx, askAgain):
			return unsure, err
		default:
			again-- // it has cost nothing
		}
	}
}

// electing reports whether a call that failed can be answered once the members have chosen a leader: the one in use
// says so, or it cannot be reached, and another one waits for a quorum.
func (f *failover) electing(err error) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return noLeader(err) || leaderLost(err) || unavailable(err) && f.choose
}

// well takes note of a call that was answered as it should be.
func (f *failover) well() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.vain = 0
}

// unavailable reports whether a member has not done what it was asked for, as it has no leader or cannot be reached.
func unavailable(err error) bool {
	return noLeader(err) ||
		status.Code(err) == codes.Unavailable && strings.Contains(err.Error(), "connection error")
}

func noLeader(err error) bool { return errors.Is(rpctypes.Error(err), rpctypes.ErrNoLeader) }

// leaderLost reports whether a member lost its leader over a call.
func leaderLost(err error) bool {
	e := rpctypes.Error(err)
	return errors.Is(e, rpctypes.ErrLeaderChanged) || errors.Is(e, rpctypes.ErrTimeoutDueToLeaderFail)
}

// current is closed when the member in use is left.
func (f *failover) current() chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.left
}

// attempt does something at the member in use. When it takes long, and another member is better, it is ended.
func (f *failover) attempt(ctx context.Context, left chan struct{}, do func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	over := make(chan struct{})
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		slow := time.NewTimer(slowCall)
		defer slow.Stop()
		for {
			select {
			case <-over:
				return
			case <-left:
				cancel(errLeft)
				return
			case <-slow.C:
				f.look(ctx, left)
				slow.Reset(lookPause)
			}
		}
	}()
	defer func() { close(over); cancel(nil); <-watched }()
	return do(ctx)
}

// look finds out whether the member in use has a quorum, unless it was left meanwhile, and goes to another one when it
// has not. It reports whether it was left.
func (f *failover) look(ctx context.Context, left chan struct{}) bool {
	f.mu.Lock()
	running := f.looking
	switch {
	case f.left != left:
		f.mu.Unlock()
		return true
	case len(f.endpoints) == 1:
		f.mu.Unlock()
		return false
	case running == nil && time.Since(f.looked) < min(lookPause<<min(f.vain, 8)/2, maxPause):
		f.mu.Unlock()
		return false
	case running == nil:
		running = make(chan struct{})
		f.looking = running
		go f.search(f.at, running)
	}
	f.mu.Unlock()
	select {
	case <-running:
	case <-ctx.Done():
	}
	return f.current() != left
}

// search asks every member for a read that needs a quorum, and goes to the first that answers unless the member in use
// does. It ends after lookTime.
func (f *failover) search(at int, done chan struct{}) {
	ctx, cancel := context.WithTimeout(context.Background(), lookTime)
	defer cancel()
	answers := make(chan int, len(f.endpoints))
	var all sync.WaitGroup
	var waits atomic.Bool
	for i := range f.endpoints {
		all.Go(func() {
			switch f.ask(ctx, i) {
			case codes.OK:
				answers <- i
			case codes.DeadlineExceeded:
				waits.Store(true)
			}
		})
	}
	go func() { all.Wait(); close(answers) }()
	better := -1
	for i := range answers {
		if i == at {
			better = -1
			break
		}
		if better < 0 {
			better = i
			// The one in use may be as good, and have more to do.
			time.AfterFunc(lookTime/4, cancel)
		}
	}
	cancel()
	all.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.vain++
	f.choose = waits.Load()
	if better >= 0 && f.client != nil {
		f.vain = 0
		f.at = better
		f.client.SetEndpoints(f.endpoints[better])
		close(f.left)
		f.left = make(chan struct{})
	}
	f.looking, f.looked = nil, time.Now()
	close(done)
}

// ask is OK when a member answers a read that needs a quorum. DeadlineExceeded is that it can be reached, and has no
// quorum yet.
func (f *failover) ask(ctx context.Context, i int) codes.Code {
	c := f.c
	c.Endpoints = f.endpoints[i : i+1]
	client, err := Dial(c)
	if err != nil {
		return codes.Unavailable
	}
	defer client.Close()
	conn := client.ActiveConnection()
	// Not by the client's own way, which tries again and again.
	_, err = etcdserverpb.NewKVClient(conn).Range(ctx, &etcdserverpb.RangeRequest{Key: []byte("\x00"), CountOnly: true})
	switch code := status.Code(err); {
	case noLeader(err), leaderLost(err):
		return codes.DeadlineExceeded
	case code == codes.Unavailable, code == codes.DeadlineExceeded, code == codes.Canceled:
		return code
	}
	return codes.OK // also when this user may not read it: that was found out with a quorum
}

// stream is a [grpc.StreamClientInterceptor]. Of streams only those that renew leases are calls: the others wait.
func (f *failover) stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string,
	open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	if method != etcdserverpb.Lease_LeaseKeepAlive_FullMethodName {
		return open(ctx, desc, cc, method, opts...)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	s, err := open(ctx, desc, cc, method, opts...)
	if err != nil {
		cancel(err)
		return nil, err
	}
	return &watchedStream{ClientStream: s, f: f, cancel: cancel}, nil
}

// watchedStream ends when its member does not answer and another one does.
type watchedStream struct {
	grpc.ClientStream
	f      *failover
	cancel context.CancelCauseFunc
}

func (s *watchedStream) RecvMsg(m any) error {
	err := s.f.attempt(s.Context(), s.f.current(), func(ctx context.Context) error {
		stop := context.AfterFunc(ctx, func() {
			if context.Cause(ctx) == errLeft {
				s.cancel(errLeft)
			}
		})
		defer stop()
		return s.ClientStream.RecvMsg(m)
	})
	if err != nil {
		s.cancel(err)
	}
	return err
}

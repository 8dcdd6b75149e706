package etcd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// loginPause is the least time between two attempts to log in that were refused: etcd
// spends tens of ms of a core on each (bcrypt).
const loginPause = time.Second

// login gives calls the token of a user. Etcd's client has a way of its own, but sends a token along
// with the request for one, which etcd before 3.5 refuses for ever (etcd-io/etcd#12165), and
// keeps the password that it was made with.
type login struct {
	c Config

	mu      sync.Mutex // held while logging in: the others wait for the same token
	known   bool
	token   string // "" while etcd asks nobody who they are
	failed  time.Time
	failure error
}

// get is the token.
func (l *login) get(ctx context.Context, cc *grpc.ClientConn) (string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.known {
		return l.token, nil
	}
	if time.Since(l.failed) < loginPause {
		return "", l.failure
	}
	password, err := l.c.password() // read each time: it is changed while the node runs
	if err == nil {
		l.token, err = authenticate(ctx, cc, l.c.Username, password)
	}
	if err != nil && ctx.Err() == nil {
		l.failed, l.failure = time.Now(), err
	}
	l.known = err == nil
	return l.token, err
}

func authenticate(ctx context.Context, cc *grpc.ClientConn, user, password string) (string, error) {
	r, err := etcdserverpb.NewAuthClient(cc).Authenticate(ctx,
		&etcdserverpb.AuthenticateRequest{Name: user, Password: password})
	switch err := rpctypes.Error(err); {
	case errors.Is(err, rpctypes.ErrAuthNotEnabled):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("log in to etcd as %s: %w", user, err)
	}
	return r.GetToken(), nil
}

// unary is a [grpc.UnaryClientInterceptor].
func (l *login) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn,
	invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if method == etcdserverpb.Auth_Authenticate_FullMethodName {
		return invoke(ctx, method, req, reply, cc, opts...)
	}
	for again := false; ; again = true {
		token, err := l.get(ctx, cc)
		if err != nil {
			return err
		}
		err = invoke(withToken(ctx, token), method, req, reply, cc, opts...)
		if !refused(err) {
			return err
		}
		l.forget(token)
		if again {
			return err
		}
	}
}

// stream is a [grpc.StreamClientInterceptor].
func (l *login) stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string,
	open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	token, err := l.get(ctx, cc)
	if err != nil {
		return nil, err
	}
	s, err := open(withToken(ctx, token), desc, cc, method, opts...)
	if err != nil {
		return nil, err
	}
	return &tokenStream{ClientStream: s, l: l, token: token}, nil
}

// tokenStream forgets a token that etcd refused: the next stream gets another.
type tokenStream struct {
	grpc.ClientStream
	l     *login
	token string
}

func (s *tokenStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if err != nil && !errors.Is(err, io.EOF) && refused(err) {
		s.l.forget(s.token)
	}
	if r, ok := m.(*etcdserverpb.WatchResponse); err == nil && ok && r.GetCanceled() && r.GetCompactRevision() == 0 {
		s.l.forget(s.token) // a watch is refused by an answer, with a reason that differs between versions
	}
	return err
}

func (l *login) forget(token string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.token == token {
		l.known = false
	}
}

func withToken(ctx context.Context, token string) context.Context {
	if token == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, rpctypes.TokenFieldNameGRPC, token)
}

// refused reports whether etcd wants another token: this one has expired, or belongs to an
// etcd that has restarted, or to an older state of its users.
func refused(err error) bool {
	if status.Code(err) == codes.Unauthenticated {
		return true
	}
	err = rpctypes.Error(err)
	return errors.Is(err, rpctypes.ErrInvalidAuthToken) || errors.Is(err, rpctypes.ErrUserEmpty) ||
		errors.Is(err, rpctypes.ErrAuthOldRevision)
}

package server

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// reads are the calls that change nothing; they are logged at debug level.
var reads = map[string]bool{
	"List": true, "Inspect": true, "Logs": true, "Wait": true, "Version": true,
	"Status": true, "Diff": true, "Doctor": true, "Events": true,
	"History": true, "Hosts": true, "Changes": true, "DiskUsage": true,
}

// waits are the unary calls that last until something happens, and so must
// not hold up a stop.
var waits = map[string]bool{"Wait": true}

func (s *Server) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, h grpc.UnaryHandler) (resp any,
	err error) {
	if waits[verb(info.FullMethod)] {
		var cancel context.CancelFunc
		ctx, cancel = s.untilStop(ctx)
		defer cancel()
	}
	err = s.around(ctx, info.FullMethod, func() (err error) {
		resp, err = h(ctx, req)
		return err
	})
	return resp, err
}

func (s *Server) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, h grpc.StreamHandler) error {
	ctx, cancel := s.untilStop(ss.Context())
	defer cancel()
	return s.around(ctx, info.FullMethod, func() error {
		return h(srv, boundStream{ss, ctx})
	})
}

type boundStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (b boundStream) Context() context.Context { return b.ctx }

// around runs one call: panics become errors, errors become statuses, and
// how it went is counted and logged.
func (s *Server) around(ctx context.Context, method string, call func() error) error {
	begin := time.Now()
	err := s.guard(ctx, method, call)
	if err != nil && context.Cause(ctx) == errStopping {
		err = status.Error(codes.Unavailable, errStopping.Error())
	}
	err = toStatus(err)
	took := time.Since(begin)
	s.metrics.ended(strings.TrimPrefix(method, "/"), status.Code(err), took)
	s.logCall(ctx, method, err, took)
	return err
}

func (s *Server) guard(ctx context.Context, method string, call func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			s.log.ErrorContext(ctx, "API call panicked", "method", method, "panic", fmt.Sprint(p), "stack",
				string(debug.Stack()))
			err = status.Error(codes.Internal, "netd has a defect that this call ran into; its log has the details")
		}
	}()
	return call()
}

func (s *Server) logCall(ctx context.Context, method string, err error, took time.Duration) {
	level := slog.LevelInfo
	if reads[verb(method)] {
		level = slog.LevelDebug
	}
	code := status.Code(err)
	attrs := []slog.Attr{slog.String("method", strings.TrimPrefix(method, "/vethloom.v1.")),
		slog.Duration("took", took), slog.String("code", code.String())}
	if who, ok := PeerOf(ctx); ok {
		attrs = append(attrs, slog.Any("peer", who))
	}
	if err != nil && code != codes.Canceled {
		attrs = append(attrs, slog.String("error", status.Convert(err).Message()))
		if code == codes.Internal || code == codes.Unknown {
			level = slog.LevelError
		}
	}
	s.log.LogAttrs(ctx, level, "API call", attrs...)
}

func verb(method string) string { return method[strings.LastIndexByte(method, '/')+1:] }

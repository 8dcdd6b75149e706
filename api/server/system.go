package server

import (
	"context"
	"time"

	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/internal/doctor"
	"github.com/vethloom/vethloom/internal/reconcile"
	"github.com/vethloom/vethloom/plan"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

type systemService struct {
	apiv1.UnimplementedSystemServer
	system System
}

func (s *systemService) Version(context.Context, *apiv1.VersionRequest) (*apiv1.VersionResponse, error) {
	v := s.system.Version()
	return &apiv1.VersionResponse{Version: v.Version, Commit: v.Commit, Go: v.Go, Kernel: v.Kernel}, nil
}

func (s *systemService) Status(ctx context.Context, _ *apiv1.StatusRequest) (*apiv1.StatusResponse, error) {
	st, err := s.system.Status(ctx)
	if err != nil {
		return nil, err
	}
	return &apiv1.StatusResponse{
		Version: st.Version, Started: timestamp(st.Started), Root: st.Root, Run: st.Run, Firewall: st.Firewall,
		Mtu: int32(st.MTU), Networks: int32(st.Networks), Endpoints: int32(st.Endpoints),
		Sandboxes:  int32(st.Sandboxes),
		Containers: int32(st.Containers), Running: int32(st.Running), Converged: st.Converged,
		Passes: st.Passes, Drifts: st.Drifts, Notices: st.Notices, Cluster: encodeClusterStatus(st.Cluster),
		Errors: list(st.Errors, func(f reconcile.Failure) *apiv1.OwnerError {
			return &apiv1.OwnerError{Owner: string(f.Owner), Error: f.Err.Error(), Since: timestamp(f.Since),
				Retry: timestamp(f.Next)}
		}),
		FastPath: &apiv1.FastPath{State: st.FastPath.State, Counts: list(st.FastPath.Counts,
			func(c PathCount) *apiv1.PathCount {
				return &apiv1.PathCount{Network: c.Network, Fast: c.Fast, Reason: c.Reason, Packets: c.Packets,
					Bytes: c.Bytes}
			})},
	}, nil
}

func (s *systemService) Diff(ctx context.Context, _ *apiv1.DiffRequest) (*apiv1.DiffResponse, error) {
	ops, err := s.system.Diff(ctx)
	if err != nil {
		return nil, err
	}
	return &apiv1.DiffResponse{Ops: list(ops, encodeOp)}, nil
}

func encodeOp(op plan.Op) *apiv1.Op {
	out := &apiv1.Op{
		Verb: string(op.Verb), Kind: op.Kind(), Owner: string(op.Owner()), Netns: string(op.NS()),
		Object: op.Object.String(),
	}
	if op.Old != nil {
		out.Old = op.Old.String()
	}
	return out
}

func (s *systemService) Doctor(ctx context.Context, _ *apiv1.DoctorRequest) (*apiv1.DoctorResponse, error) {
	found, err := s.system.Doctor(ctx)
	if err != nil {
		return nil, err
	}
	return &apiv1.DoctorResponse{Findings: list(found, func(f doctor.Finding) *apiv1.Finding {
		return &apiv1.Finding{Check: f.Check, Severity: string(f.Severity), Found: f.Found, Remedy: f.Remedy}
	})}, nil
}

func (s *systemService) Events(r *apiv1.EventsRequest, stream grpc.ServerStreamingServer[apiv1.Event]) error {
	wanted, err := MatchEvents(r.GetFilters())
	if err != nil {
		return err
	}
	ctx := stream.Context()
	if r.GetUntil() != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, r.GetUntil().AsTime())
		defer cancel()
	}
	var since time.Time
	if r.GetSince() != nil {
		since = r.GetSince().AsTime()
	}
	events := s.system.Events(ctx, since)
	// The header tells the client that from here on nothing is missed.
	if err := stream.SendHeader(metadata.MD{}); err != nil {
		return err
	}
	for ev := range events {
		if !wanted(ev) {
			continue
		}
		if err := stream.Send(&apiv1.Event{
			Time: timestamp(ev.Time), Type: ev.Type, Action: ev.Action, Id: ev.ID, Attributes: ev.Attributes,
		}); err != nil {
			return err
		}
	}
	return stream.Context().Err()
}

// DiskUsage implements the call.
func (s *systemService) DiskUsage(ctx context.Context, _ *apiv1.DiskUsageRequest) (*apiv1.DiskUsageResponse, error) {
	u, err := s.system.DiskUsage(ctx)
	if err != nil {
		return nil, err
	}
	return &apiv1.DiskUsageResponse{
		ImagesSize: u.ImagesSize, Leftovers: u.Leftovers,
		Images: list(u.Images, func(i ImageUsage) *apiv1.ImageUsage {
			one := encodeImage(i.Image)
			one.Env, one.ExposedPorts = nil, nil // all have to fit one message
			return &apiv1.ImageUsage{Image: one, Size: i.OnDisk, Shared: i.Shared, Unique: i.Unique,
				Containers: i.Containers}
		}),
		Containers: list(u.Containers, func(c ContainerUsage) *apiv1.ContainerUsage {
			return &apiv1.ContainerUsage{Id: c.ID, Name: c.Name, Image: c.Image, Status: c.Status,
				Created: timestamp(c.Created), Size: c.Size}
		}),
		Volumes: list(u.Volumes, func(v VolumeUsage) *apiv1.VolumeUsage {
			return &apiv1.VolumeUsage{Volume: encodeVolume(v.VolumeView), Size: v.Size}
		}),
	}, nil
}

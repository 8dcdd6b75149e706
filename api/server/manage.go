package server

import (
	"context"
	"errors"
	"io"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine"
)

// This file has what there is to do with containers besides making, starting and streams.

func stopOptions(r interface {
	GetTimeout() *durationpb.Duration
	GetSignal() string
}) engine.StopOptions {
	o := engine.StopOptions{Signal: r.GetSignal()}
	if t := r.GetTimeout(); t != nil {
		o.Timeout = new(t.AsDuration())
	}
	return o
}

// Restart implements the call.
func (s *containersService) Restart(ctx context.Context, r *apiv1.RestartContainerRequest) (
	*apiv1.RestartContainerResponse, error) {
	return &apiv1.RestartContainerResponse{}, s.containers.Restart(ctx, r.GetContainer(), stopOptions(r))
}

// Pause implements the call.
func (s *containersService) Pause(ctx context.Context, r *apiv1.PauseContainerRequest) (*apiv1.PauseContainerResponse,
	error) {
	return &apiv1.PauseContainerResponse{}, s.containers.Pause(ctx, r.GetContainer())
}

// Unpause implements the call.
func (s *containersService) Unpause(ctx context.Context, r *apiv1.UnpauseContainerRequest) (
	*apiv1.UnpauseContainerResponse, error) {
	return &apiv1.UnpauseContainerResponse{}, s.containers.Unpause(ctx, r.GetContainer())
}

// Rename implements the call.
func (s *containersService) Rename(ctx context.Context, r *apiv1.RenameContainerRequest) (
	*apiv1.RenameContainerResponse, error) {
	return &apiv1.RenameContainerResponse{}, s.containers.Rename(ctx, r.GetContainer(), r.GetName())
}

// Update implements the call.
func (s *containersService) Update(ctx context.Context, r *apiv1.UpdateContainerRequest) (
	*apiv1.UpdateContainerResponse, error) {
	u := engine.Update{Resources: decodeResources(r.GetResources())}
	if r.GetRestart() != nil {
		u.Restart = new(decodeRestart(r.GetRestart()))
	}
	warnings, err := s.containers.Update(ctx, r.GetContainer(), u)
	return &apiv1.UpdateContainerResponse{Warnings: warnings}, err
}

// Top implements the call.
func (s *containersService) Top(ctx context.Context, r *apiv1.TopRequest) (*apiv1.TopResponse, error) {
	p, err := s.containers.Top(ctx, r.GetContainer(), r.GetArguments())
	return &apiv1.TopResponse{Titles: p.Titles, Processes: list(p.Rows, func(row []string) *apiv1.TopProcess {
		return &apiv1.TopProcess{Fields: row}
	})}, err
}

// statsInterval is between two readings for somebody who watches.
const statsInterval = time.Second

// Stats implements the call.
func (s *containersService) Stats(r *apiv1.StatsRequest, stream grpc.ServerStreamingServer[apiv1.StatsResponse]) error {
	ctx := stream.Context()
	again := time.NewTicker(statsInterval)
	defer again.Stop()
	for {
		out, err := s.stats(ctx, r.GetContainers())
		if err != nil {
			return err
		}
		if err := stream.Send(out); err != nil || r.GetOnce() {
			return err
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// stats reads what containers use; all that run where none is named.
func (s *containersService) stats(ctx context.Context, refs []string) (*apiv1.StatsResponse, error) {
	all := len(refs) == 0
	if all {
		running, err := s.containers.List(ctx, false)
		if err != nil {
			return nil, err
		}
		refs = list(running, func(c ContainerView) string { return c.ID })
	}
	out := &apiv1.StatsResponse{}
	for _, ref := range refs {
		one, err := s.containers.Stats(ctx, ref)
		if all && errors.Is(err, cnm.ErrNotFound) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, err
		}
		out.Stats = append(out.Stats, encodeStats(one))
	}
	return out, nil
}

func encodeStats(s engine.Stats) *apiv1.ContainerStats {
	return &apiv1.ContainerStats{
		Id: s.ID, Name: s.Name, Read: timestamp(s.Read), CpuTotal: s.CPUTotal, CpuUser: s.CPUUser,
		CpuSystem: s.CPUSystem, HostCpu: s.HostCPU, Cpus: uint32(s.CPUs), ThrottledPeriods: s.ThrottledPeriods,
		Periods: s.Periods, ThrottledTime: s.ThrottledTime, Memory: s.Memory, MemoryLimit: s.MemoryLimit,
		MemoryStats: s.MemoryStats, Pids: s.Pids, PidsLimit: s.PidsLimit, BlockRead: s.BlockRead,
		BlockWrite: s.BlockWrite, OomKills: s.OOMKills,
		Interfaces: list(s.Interfaces, func(i engine.InterfaceStats) *apiv1.InterfaceStats {
			return &apiv1.InterfaceStats{Interface: i.Interface, Network: i.Network,
				RxBytes: i.RxBytes, RxPackets: i.RxPackets, RxErrors: i.RxErrors, RxDropped: i.RxDropped,
				TxBytes: i.TxBytes, TxPackets: i.TxPackets, TxErrors: i.TxErrors, TxDropped: i.TxDropped}
		}),
	}
}

// Prune implements the call.
func (s *containersService) Prune(ctx context.Context, r *apiv1.PruneContainersRequest) (
	*apiv1.PruneContainersResponse, error) {
	due, err := MatchPruned(r.GetFilters())
	if err != nil {
		return nil, err
	}
	ids, reclaimed, err := s.containers.PruneContainers(ctx, func(c engine.Container) bool {
		return due(c.Created, c.Spec.Labels)
	})
	return &apiv1.PruneContainersResponse{Ids: ids, Reclaimed: reclaimed}, err
}

// StatPath implements the call.
func (s *containersService) StatPath(ctx context.Context, r *apiv1.StatPathRequest) (*apiv1.PathStat, error) {
	st, err := s.containers.StatPath(ctx, r.GetContainer(), r.GetPath())
	return encodePathStat(st), err
}

func encodePathStat(st engine.PathStat) *apiv1.PathStat {
	return &apiv1.PathStat{Name: st.Name, Size: st.Size, Mode: uint32(st.Mode), Modified: timestamp(st.Modified),
		LinkTarget: st.LinkTarget}
}

// CopyOut implements the call.
func (s *containersService) CopyOut(r *apiv1.CopyOutRequest,
	stream grpc.ServerStreamingServer[apiv1.CopyOutResponse]) error {
	begin := func(st engine.PathStat) error {
		return stream.Send(&apiv1.CopyOutResponse{Message: &apiv1.CopyOutResponse_Stat{Stat: encodePathStat(st)}})
	}
	return s.containers.CopyOut(stream.Context(), r.GetContainer(), r.GetPath(), begin, pieces(func(b []byte) error {
		return stream.Send(&apiv1.CopyOutResponse{Message: &apiv1.CopyOutResponse_Data{Data: slices.Clone(b)}})
	}))
}

// CopyIn implements the call.
func (s *containersService) CopyIn(stream grpc.ClientStreamingServer[apiv1.CopyInRequest, apiv1.CopyInResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	o := first.GetOptions()
	if o == nil {
		return invalid("options", "", "the first message has none", "send them first")
	}
	var data io.Reader = &chunks{recv: func() ([]byte, error) {
		m, err := stream.Recv()
		return m.GetData(), err
	}}
	if err := s.containers.CopyIn(stream.Context(), o.GetContainer(), o.GetPath(), engine.CopyInOptions{
		NoOverwriteDir: o.GetNoOverwriteDir(), KeepOwners: o.GetCopyUidGid()}, data); err != nil {
		return err
	}
	return stream.SendAndClose(&apiv1.CopyInResponse{})
}

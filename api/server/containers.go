package server

import (
	"context"
	"slices"
	"strings"

	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/engine"
	"google.golang.org/grpc"
)

type containersService struct {
	apiv1.UnimplementedContainersServer
	containers Containers
}

func (s *containersService) Create(ctx context.Context, r *apiv1.CreateContainerRequest) (
	*apiv1.CreateContainerResponse, error) {
	spec, err := decodeSpec(r.GetSpec())
	if err != nil {
		return nil, err
	}
	id, warnings, err := s.containers.Create(ctx, spec)
	if err != nil {
		return nil, err
	}
	if spec.TTY && !spec.OpenStdin { // whom Docker's clients tell so has asked for it a thousand times
		warnings = append(warnings, "a terminal without input (-t without -i): nothing can be typed into it")
	}
	return &apiv1.CreateContainerResponse{Id: id, Warnings: warnings}, nil
}

func (s *containersService) Start(ctx context.Context, r *apiv1.StartContainerRequest) (*apiv1.StartContainerResponse,
	error) {
	if err := s.containers.Start(ctx, r.GetContainer()); err != nil {
		return nil, err
	}
	return &apiv1.StartContainerResponse{}, nil
}

func (s *containersService) List(ctx context.Context, r *apiv1.ListContainersRequest) (*apiv1.ListContainersResponse,
	error) {
	wanted, all, err := MatchContainers(ctx, s.containers, r.GetFilters())
	if err != nil {
		return nil, err
	}
	found, err := s.containers.List(ctx, r.GetAll() || all)
	if err != nil {
		return nil, err
	}
	out := &apiv1.ListContainersResponse{}
	for _, c := range found {
		if wanted(c) {
			c.Spec.Env = nil // all have to fit one message
			out.Containers = append(out.Containers, encodeContainer(c))
		}
	}
	return out, nil
}

func (s *containersService) Inspect(ctx context.Context, r *apiv1.InspectContainerRequest) (*apiv1.Container, error) {
	c, err := s.containers.Inspect(ctx, r.GetContainer())
	if err != nil {
		return nil, err
	}
	return encodeContainer(c), nil
}

func (s *containersService) Stop(ctx context.Context, r *apiv1.StopContainerRequest) (*apiv1.StopContainerResponse,
	error) {
	if err := s.containers.Stop(ctx, r.GetContainer(), stopOptions(r)); err != nil {
		return nil, err
	}
	return &apiv1.StopContainerResponse{}, nil
}

func (s *containersService) Kill(ctx context.Context, r *apiv1.KillContainerRequest) (*apiv1.KillContainerResponse,
	error) {
	signal := r.GetSignal()
	if signal == "" {
		signal = "KILL"
	}
	if err := s.containers.Kill(ctx, r.GetContainer(), signal); err != nil {
		return nil, err
	}
	return &apiv1.KillContainerResponse{}, nil
}

func (s *containersService) Remove(ctx context.Context, r *apiv1.RemoveContainerRequest) (
	*apiv1.RemoveContainerResponse, error) {
	id, err := s.containers.Remove(ctx, r.GetContainer(), r.GetForce(), r.GetVolumes())
	if err != nil {
		return nil, err
	}
	return &apiv1.RemoveContainerResponse{Id: id}, nil
}

func (s *containersService) Wait(ctx context.Context, r *apiv1.WaitContainerRequest) (*apiv1.ExitStatus, error) {
	e, err := s.containers.Wait(ctx, r.GetContainer(), engine.WaitCondition(r.GetCondition()), nil)
	if err != nil {
		return nil, err
	}
	return encodeExit(e), nil
}

func (s *containersService) ChangePorts(ctx context.Context, r *apiv1.ChangePortsRequest) (*apiv1.ChangePortsResponse,
	error) {
	add, err := decodePorts(r.GetAdd())
	if err != nil {
		return nil, err
	}
	remove, err := decodePorts(r.GetRemove())
	if err != nil {
		return nil, err
	}
	if err := s.containers.ChangePorts(ctx, r.GetContainer(), add, remove); err != nil {
		return nil, err
	}
	return &apiv1.ChangePortsResponse{}, nil
}

func (s *containersService) Logs(r *apiv1.LogsRequest, stream grpc.ServerStreamingServer[apiv1.LogsResponse]) error {
	req := engine.LogsRequest{Container: r.GetContainer(), Follow: r.GetFollow(), Tail: int(r.GetTail())}
	if t := r.GetSince(); t != nil {
		req.Since = t.AsTime()
	}
	if t := r.GetUntil(); t != nil {
		req.Until = t.AsTime()
	}
	return s.containers.Logs(stream.Context(), req, func(l engine.LogLine) error {
		return stream.Send(&apiv1.LogsResponse{Time: timestamp(l.Time), Stderr: l.Stderr, Line: l.Line})
	})
}

// Commit implements the call.
func (s *containersService) Commit(ctx context.Context, r *apiv1.CommitContainerRequest) (
	*apiv1.CommitContainerResponse, error) {
	id, err := s.containers.Commit(ctx, CommitRequest{Container: r.GetContainer(), Reference: r.GetReference(),
		Author: r.GetAuthor(), Message: r.GetMessage(), Changes: r.GetChanges(), Pause: r.GetPause()})
	if err != nil {
		return nil, err
	}
	return &apiv1.CommitContainerResponse{Id: id}, nil
}

// Changes implements the call.
func (s *containersService) Changes(r *apiv1.ContainerChangesRequest,
	stream grpc.ServerStreamingServer[apiv1.ContainerChangesResponse]) error {
	return s.containers.Changes(stream.Context(), r.GetContainer(), func(some []FileChange) error {
		for part := range slices.Chunk(some, maxChanges) {
			m := &apiv1.ContainerChangesResponse{Changes: list(part, func(c FileChange) *apiv1.FileChange {
				return &apiv1.FileChange{Kind: c.Kind, Path: strings.ToValidUTF8(c.Path, "\ufffd")}
			})}
			if err := stream.Send(m); err != nil {
				return err
			}
		}
		return nil
	})
}

// maxChanges is how many changed files go into one message: with paths of the 4096 bytes that a path can have, they
// fit it.
const maxChanges = 1024

// Export implements the call.
func (s *containersService) Export(r *apiv1.ExportContainerRequest,
	stream grpc.ServerStreamingServer[apiv1.ExportContainerResponse]) error {
	return s.containers.Export(stream.Context(), r.GetContainer(), pieces(func(b []byte) error {
		return stream.Send(&apiv1.ExportContainerResponse{Data: b})
	}))
}

// container applies the filters of a list of containers.
func (f filters) container(c ContainerView) bool {
	networks := []string{}
	for _, e := range c.Sandbox.Endpoints {
		networks = append(networks, e.NetworkName, e.Network)
	}
	for _, n := range c.Spec.Networks {
		networks = append(networks, n.Network)
	}
	return f.named("name", c.Spec.Name) && f.prefix("id", c.ID) && f.equal("status", string(c.Status)) &&
		f.anyOf("network", networks...) && f.anyOf("ancestor", c.Spec.Image, c.ImageID) && f.labels(c.Spec.Labels) &&
		(len(f["exited"]) == 0 || c.Status == "exited" && f.equal("exited", itoa(c.ExitCode)))
}

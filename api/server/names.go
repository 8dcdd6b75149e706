package server

import (
	"context"
	"iter"
	"time"

	apiv1 "github.com/vethloom/vethloom/api/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Names is what the names service needs.
type Names interface {
	// LookupName says what would be answered to a container or at a network's gateway; typ is empty for what people
	// mean by the name.
	LookupName(ctx context.Context, asker, name, typ string) ([]NameAnswer, error)
	// WatchNames yields questions as they are answered, of all askers or of some, until the context ends.
	WatchNames(ctx context.Context, askers []string) iter.Seq2[NameQuery, error]
}

// NameAnswer is what would be answered, and why.
type NameAnswer struct {
	Type, Rcode    string
	Records, Steps []string
}

// NameQuery is a question that was answered.
type NameQuery struct {
	Time                             time.Time
	Asker, Client, Name, Type, Rcode string
	Records                          []string
	Source                           string // names, cache, or the server that was asked
	Took                             time.Duration
	Lost                             int // questions before this one that are not told
}

type namesService struct {
	apiv1.UnimplementedNamesServer
	names Names
}

func (s *namesService) Lookup(ctx context.Context, r *apiv1.LookupNameRequest) (*apiv1.LookupNameResponse, error) {
	answers, err := s.names.LookupName(ctx, r.GetAsker(), r.GetName(), r.GetType())
	if err != nil {
		return nil, err
	}
	return &apiv1.LookupNameResponse{Answers: list(answers, func(a NameAnswer) *apiv1.NameAnswer {
		return &apiv1.NameAnswer{Type: a.Type, Rcode: a.Rcode, Records: a.Records, Steps: a.Steps}
	})}, nil
}

func (s *namesService) Watch(r *apiv1.WatchNamesRequest, out grpc.ServerStreamingServer[apiv1.NameQuery]) error {
	for q, err := range s.names.WatchNames(out.Context(), r.GetAskers()) {
		if err != nil {
			return err
		}
		if err := out.Send(&apiv1.NameQuery{Time: timestamppb.New(q.Time), Asker: q.Asker, Client: q.Client,
			Name: q.Name, Type: q.Type, Rcode: q.Rcode, Records: q.Records, Source: q.Source,
			Took: durationpb.New(q.Took), Lost: int32(q.Lost)}); err != nil {
			return err
		}
	}
	return out.Context().Err()
}

package server

import (
	"context"
	"errors"
	"io"

	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/engine/image"
	"google.golang.org/grpc"
)

type imagesService struct {
	apiv1.UnimplementedImagesServer
	images Images
}

func (s *imagesService) Import(stream grpc.ClientStreamingServer[apiv1.ImportRequest, apiv1.ImportResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	o := first.GetOptions()
	if o == nil {
		return invalid("import", "", "the first message must be the options", "")
	}
	data := &chunks{recv: func() ([]byte, error) {
		m, err := stream.Recv()
		return m.GetData(), err
	}}
	img, err := s.images.ImportImage(stream.Context(), data, image.ImportOptions{
		Reference: o.GetReference(), Changes: o.GetChanges(), Message: o.GetMessage(), Author: o.GetAuthor(),
		Platform: o.GetPlatform(),
	})
	if err != nil {
		return err
	}
	return stream.SendAndClose(&apiv1.ImportResponse{Id: img.ID})
}

func (s *imagesService) Load(stream grpc.ClientStreamingServer[apiv1.LoadRequest, apiv1.LoadResponse]) error {
	data := &chunks{recv: func() ([]byte, error) {
		m, err := stream.Recv()
		return m.GetData(), err
	}}
	loaded, err := s.images.LoadImages(stream.Context(), data)
	if err != nil {
		return err
	}
	out := &apiv1.LoadResponse{}
	for _, i := range loaded {
		if len(i.References) == 0 {
			out.References = append(out.References, i.ID)
		}
		out.References = append(out.References, i.References...)
	}
	return stream.SendAndClose(out)
}

func (s *imagesService) List(ctx context.Context, r *apiv1.ListImagesRequest) (*apiv1.ListImagesResponse, error) {
	wanted, err := MatchImages(ctx, s.images, r.GetFilters())
	if err != nil {
		return nil, err
	}
	all, err := s.images.ListImages(ctx)
	if err != nil {
		return nil, err
	}
	out := &apiv1.ListImagesResponse{}
	for _, i := range all {
		if i, ok := wanted(i); ok {
			one := encodeImage(i) // all have to fit one message, and an image may have very many of these
			one.Env, one.ExposedPorts = nil, nil
			out.Images = append(out.Images, one)
		}
	}
	return out, nil
}

func (s *imagesService) Inspect(ctx context.Context, r *apiv1.InspectImageRequest) (*apiv1.Image, error) {
	i, err := s.images.InspectImage(ctx, r.GetImage())
	if err != nil {
		return nil, err
	}
	out := encodeImage(i)
	out.Config = i.Raw
	return out, nil
}

func (s *imagesService) Remove(ctx context.Context, r *apiv1.RemoveImageRequest) (*apiv1.RemoveImageResponse, error) {
	untagged, deleted, err := s.images.RemoveImage(ctx, r.GetImage(), r.GetForce())
	if err != nil {
		return nil, err
	}
	return &apiv1.RemoveImageResponse{Untagged: untagged, Deleted: deleted}, nil
}

func (s *imagesService) Tag(ctx context.Context, r *apiv1.TagImageRequest) (*apiv1.TagImageResponse, error) {
	if err := s.images.TagImage(ctx, r.GetSource(), r.GetTarget()); err != nil {
		return nil, err
	}
	return &apiv1.TagImageResponse{}, nil
}

// History implements the call.
func (s *imagesService) History(ctx context.Context, r *apiv1.ImageHistoryRequest) (*apiv1.ImageHistoryResponse,
	error) {
	steps, err := s.images.ImageHistory(ctx, r.GetImage())
	if err != nil {
		return nil, err
	}
	return &apiv1.ImageHistoryResponse{Steps: list(steps, encodeStep)}, nil
}

// Prune implements the call.
func (s *imagesService) Prune(ctx context.Context, r *apiv1.PruneImagesRequest) (*apiv1.PruneImagesResponse, error) {
	due, err := MatchPruned(r.GetFilters())
	if err != nil {
		return nil, err
	}
	p, err := s.images.PruneImages(ctx, r.GetAll(), func(i image.Image) bool {
		return due(i.Created, i.Config.Labels)
	})
	if err != nil {
		return nil, err
	}
	return &apiv1.PruneImagesResponse{Untagged: p.Untagged, Deleted: p.Deleted, Reclaimed: p.Reclaimed}, nil
}

// Save implements the call.
func (s *imagesService) Save(r *apiv1.SaveRequest, stream grpc.ServerStreamingServer[apiv1.SaveResponse]) error {
	if len(r.GetImages()) == 0 {
		return invalid("images", "", "names none", "name at least one image")
	}
	return s.images.SaveImages(stream.Context(), pieces(func(b []byte) error {
		return stream.Send(&apiv1.SaveResponse{Data: b})
	}), r.GetImages(), image.SaveOptions{Format: r.GetFormat()})
}

// pieces is a writer that sends what it gets in messages.
type pieces func([]byte) error

// Write implements [io.Writer].
func (p pieces) Write(b []byte) (int, error) {
	for n := 0; n < len(b); n += maxPiece {
		if err := p(b[n:min(n+maxPiece, len(b))]); err != nil {
			return n, err
		}
	}
	return len(b), nil
}

// maxPiece is the most of a file that goes into one message, in bytes.
const maxPiece = 256 << 10

// chunks reads the data of a stream of messages. A stream that breaks off is
// an unexpected end, never a short file.
type chunks struct {
	recv func() ([]byte, error)
	rest []byte
}

func (c *chunks) Read(b []byte) (int, error) {
	for len(c.rest) == 0 {
		data, err := c.recv()
		if errors.Is(err, io.EOF) {
			return 0, io.EOF
		}
		if err != nil {
			return 0, err
		}
		c.rest = data
	}
	n := copy(b, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

package server

import (
	"context"
	"strings"
	"sync"
	"time"

	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/engine/image"
	"github.com/vethloom/vethloom/engine/registry"
	"google.golang.org/grpc"
)

// Pull implements the call.
func (s *imagesService) Pull(r *apiv1.PullRequest, stream grpc.ServerStreamingServer[apiv1.PullResponse]) error {
	var pulled PulledImage
	err := Reporting(stream.Context(), func(p image.Progress) error {
		return stream.Send(&apiv1.PullResponse{Message: &apiv1.PullResponse_Progress{Progress: encodeProgress(p)}})
	}, func(ctx context.Context, report func(image.Progress)) (err error) {
		pulled, err = s.images.PullImage(ctx, PullRequest{Reference: r.GetReference(), Platform: r.GetPlatform(),
			Credentials: list(r.GetCredentials(), decodeCredential)}, report)
		return err
	})
	if err != nil {
		return err
	}
	return stream.Send(&apiv1.PullResponse{Message: &apiv1.PullResponse_Pulled{Pulled: &apiv1.PulledImage{
		Id: pulled.ID, Reference: pulled.Reference, Digest: pulled.Digest, Newer: pulled.Newer}}})
}

// Push implements the call.
func (s *imagesService) Push(r *apiv1.PushRequest, stream grpc.ServerStreamingServer[apiv1.PushResponse]) error {
	var pushed PushedImage
	err := Reporting(stream.Context(), func(p image.Progress) error {
		return stream.Send(&apiv1.PushResponse{Message: &apiv1.PushResponse_Progress{Progress: encodeProgress(p)}})
	}, func(ctx context.Context, report func(image.Progress)) (err error) {
		pushed, err = s.images.PushImage(ctx, PushRequest{Reference: r.GetReference(),
			Credentials: list(r.GetCredentials(), decodeCredential)}, report)
		return err
	})
	if err != nil {
		return err
	}
	return stream.Send(&apiv1.PushResponse{Message: &apiv1.PushResponse_Pushed{Pushed: &apiv1.PushedImage{
		Reference: pushed.Reference, Digest: pushed.Digest, Size: pushed.Size}}})
}

// Hosts implements the call.
func (s *imagesService) Hosts(ctx context.Context, r *apiv1.RegistryHostsRequest) (*apiv1.RegistryHostsResponse,
	error) {
	hosts, err := s.images.RegistryHosts(ctx, r.GetReference(), r.GetPush())
	if err != nil {
		return nil, err
	}
	return &apiv1.RegistryHostsResponse{Hosts: list(hosts, func(h RegistryHost) *apiv1.RegistryHost {
		return &apiv1.RegistryHost{Host: h.Host, Mirror: h.Mirror, PlainHttp: h.PlainHTTP}
	})}, nil
}

// Login implements the call.
func (s *imagesService) Login(ctx context.Context, r *apiv1.LoginRequest) (*apiv1.LoginResponse, error) {
	if err := s.images.LoginRegistry(ctx, decodeCredential(r.GetCredential())); err != nil {
		return nil, err
	}
	return &apiv1.LoginResponse{}, nil
}

// Check implements the call.
func (s *imagesService) Check(r *apiv1.CheckImagesRequest,
	stream grpc.ServerStreamingServer[apiv1.CheckImagesResponse]) error {
	var checked image.Checked
	var sending sync.Mutex // a stream takes one sender at a time
	send := func(m *apiv1.CheckImagesResponse) error {
		sending.Lock()
		defer sending.Unlock()
		return stream.Send(m)
	}
	err := Reporting(stream.Context(), func(p image.Progress) error {
		return send(&apiv1.CheckImagesResponse{Message: &apiv1.CheckImagesResponse_Progress{
			Progress: encodeProgress(p)}})
	}, func(ctx context.Context, report func(image.Progress)) (err error) {
		checked, err = s.images.CheckImages(ctx, r.GetRepair(), report, func(d image.Damage) error {
			return send(&apiv1.CheckImagesResponse{Message: &apiv1.CheckImagesResponse_Damage{
				Damage: &apiv1.ImageDamage{Object: d.Object, Images: d.Images, Problem: d.Problem,
					Repaired: d.Repaired, Remedy: d.Remedy}}})
		})
		return err
	})
	if err != nil {
		return err
	}
	return send(&apiv1.CheckImagesResponse{Message: &apiv1.CheckImagesResponse_Checked{
		Checked: &apiv1.CheckedImages{Images: int32(checked.Images), Blobs: int32(checked.Blobs),
			Layers: int32(checked.Layers), Bytes: checked.Bytes}}})
}

func decodeCredential(c *apiv1.RegistryCredential) registry.Credential {
	return registry.Credential{Host: c.GetHost(), Username: c.GetUsername(), Password: c.GetPassword(),
		IdentityToken: c.GetIdentityToken(), RegistryToken: c.GetRegistryToken()}
}

// reportEvery is how often clients hear how far a transfer is.
const reportEvery = 100 * time.Millisecond

func encodeProgress(p image.Progress) *apiv1.TransferProgress {
	return &apiv1.TransferProgress{Part: p.Part, Action: p.Action, Current: p.Current, Total: p.Total, Text: p.Text}
}

// Reporting runs a transfer and sends what it reports meanwhile, some times a second: who reports never waits for
// the client. All that is reported before the transfer ends well is sent before Reporting returns. A client that
// cannot be reached ends the transfer.
func Reporting(ctx context.Context, send func(image.Progress) error,
	transfer func(context.Context, func(image.Progress)) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var r reports
	done, sent := make(chan struct{}), make(chan error, 1)
	go func() { // ends after done is closed, or with the first send that fails
		err := r.run(done, send)
		if err != nil {
			cancel(err)
		}
		sent <- err
	}()
	err := transfer(ctx, r.add)
	close(done)
	if sendErr := <-sent; err == nil {
		err = sendErr
	}
	return err
}

// reports are what has been reported and not sent yet.
type reports struct {
	mu      sync.Mutex // guards what follows
	waiting []image.Progress
	latest  map[string]int // of a part, in waiting
}

// add takes a report. One of the same part that does the same takes the place of one that waits.
func (r *reports) add(p image.Progress) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i, ok := r.latest[p.Part]
	if ok && (r.waiting[i].Action == p.Action && r.waiting[i].Text == p.Text || len(r.waiting) >= maxWaiting) {
		r.waiting[i] = p
		return
	}
	if len(r.waiting) >= maxWaiting {
		return
	}
	if r.latest == nil {
		r.latest = map[string]int{}
	}
	r.latest[p.Part] = len(r.waiting)
	r.waiting = append(r.waiting, p)
}

// maxWaiting bounds what waits for a client that reads slowly; with as many, only the latest of each part counts.
const maxWaiting = 4096

func (r *reports) take() []image.Progress {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := r.waiting
	r.waiting, r.latest = nil, nil
	return out
}

func (r *reports) run(done <-chan struct{}, send func(image.Progress) error) error {
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	for last := false; ; {
		for _, p := range r.take() {
			p.Text = strings.ToValidUTF8(p.Text, "\ufffd")
			if err := send(p); err != nil {
				return err
			}
		}
		if last {
			return nil
		}
		select {
		case <-tick.C:
		case <-done:
			last = true
		}
	}
}

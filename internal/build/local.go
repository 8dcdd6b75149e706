package build

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/buildkit/client"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	netd "github.com/vethloom/vethloom/api/client"
	apiv1 "github.com/vethloom/vethloom/api/v1"
)

// offer has buildkitd take images that netd has from netd, for what a Dockerfile names. It takes them on the platform
// that they are for alone; others, and those that netd has not, are the registries'.
func (c *Config) offer(ctx context.Context, opt *client.SolveOpt, images apiv1.ImagesClient, names []string) error {
	stores := map[string]string{} // by the images' IDs
	for _, name := range names {
		// The whole name: a short one may be the beginning of an ID.
		img, err := images.Inspect(ctx, &apiv1.InspectImageRequest{Image: name})
		if code := status.Code(err); code == codes.NotFound || code == codes.InvalidArgument {
			continue
		}
		if err != nil {
			return fmt.Errorf("look for image %s: %w", name, netd.Explain(err))
		}
		if img.GetManifest() == nil { // it came in with an earlier version, and cannot be given on
			continue
		}
		named, err := reference.ParseNormalizedNamed(name)
		if err != nil {
			return fmt.Errorf("image %s: %w", name, err)
		}
		platform := platforms.FormatAll(platforms.Normalize(ocispec.Platform{OS: img.GetOs(),
			Architecture: img.GetArchitecture(), Variant: img.GetVariant()}))
		id := stores[img.GetId()]
		if id == "" {
			id = fmt.Sprintf("netd%d", len(stores))
			stores[img.GetId()] = id
			if opt.OCIStores == nil {
				opt.OCIStores = map[string]content.Store{}
			}
			opt.OCIStores[id] = &saved{ctx: ctx, images: images, id: img.GetId()}
		}
		key := "context:" + strings.TrimSuffix(reference.FamiliarString(named), ":latest") + "::" + platform
		opt.FrontendAttrs[key] = "oci-layout://" + id + "@" + img.GetManifest().GetDigest()
		opt.FrontendAttrs["frontend.caps"] = contextsCapability
	}
	return nil
}

// saved is an image of netd's as buildkitd reads it. It is asked for when buildkitd has not all of it, and is in a file
// without a name then, which goes with this process.
type saved struct {
	ctx    context.Context //nolint:containedctx // of the build: all calls need what the first has begun
	images apiv1.ImagesClient
	id     string

	once  sync.Once
	err   error
	file  *os.File
	blobs map[digest.Digest]span
}

// span is where a blob is in the file.
type span struct{ at, size int64 }

var _ content.Store = (*saved)(nil)

func (s *saved) find(d digest.Digest) (span, error) {
	s.once.Do(func() { s.err = s.fetch() })
	if s.err != nil {
		return span{}, fmt.Errorf("get image %s from netd: %w", s.id, s.err)
	}
	b, ok := s.blobs[d]
	if !ok {
		return span{}, fmt.Errorf("image %s has no blob %s: %w", s.id, d, errdefs.ErrNotFound)
	}
	return b, nil
}

// fetch reads the archive that netd makes of the image.
func (s *saved) fetch() error {
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	stream, err := s.images.Save(ctx, &apiv1.SaveRequest{Images: []string{s.id}, Format: "oci-archive"})
	if err != nil {
		return netd.Explain(err)
	}
	if s.file, err = os.CreateTemp("", "net-build-"); err != nil {
		return err
	}
	if err := os.Remove(s.file.Name()); err != nil {
		return err
	}
	s.blobs = map[digest.Digest]span{}
	at := int64(0)
	archive := tar.NewReader(&pieces{next: stream.Recv})
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return netd.Explain(err)
		}
		dir, name := path.Split(h.Name)
		if h.Typeflag != tar.TypeReg || dir != "blobs/sha256/" {
			continue
		}
		n, err := io.Copy(s.file, archive)
		if err != nil {
			return netd.Explain(err)
		}
		s.blobs[digest.NewDigestFromEncoded(digest.SHA256, name)] = span{at, n}
		at += n
	}
}

// pieces are the bytes of an archive that netd sends.
type pieces struct {
	next func() (*apiv1.SaveResponse, error)
	rest []byte
}

// Read implements [io.Reader].
func (p *pieces) Read(b []byte) (int, error) {
	for len(p.rest) == 0 {
		m, err := p.next()
		if err != nil {
			return 0, err
		}
		p.rest = m.GetData()
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

// Info implements [content.Store].
func (s *saved) Info(_ context.Context, d digest.Digest) (content.Info, error) {
	b, err := s.find(d)
	return content.Info{Digest: d, Size: b.size}, err
}

// ReaderAt implements [content.Store].
func (s *saved) ReaderAt(_ context.Context, d ocispec.Descriptor) (content.ReaderAt, error) {
	b, err := s.find(d.Digest)
	if err != nil {
		return nil, err
	}
	return section{io.NewSectionReader(s.file, b.at, b.size)}, nil
}

// section is a blob that is read.
type section struct{ *io.SectionReader }

// Close implements [content.ReaderAt]. The file is for the others, too.
func (section) Close() error { return nil }

// What follows is of stores that are written to.

// Update implements [content.Store].
func (s *saved) Update(context.Context, content.Info, ...string) (content.Info, error) {
	return content.Info{}, errdefs.ErrNotImplemented
}

// Walk implements [content.Store].
func (s *saved) Walk(context.Context, content.WalkFunc, ...string) error {
	return errdefs.ErrNotImplemented
}

// Delete implements [content.Store].
func (s *saved) Delete(context.Context, digest.Digest) error { return errdefs.ErrNotImplemented }

// Status implements [content.Store].
func (s *saved) Status(context.Context, string) (content.Status, error) {
	return content.Status{}, errdefs.ErrNotImplemented
}

// ListStatuses implements [content.Store].
func (s *saved) ListStatuses(context.Context, ...string) ([]content.Status, error) {
	return nil, errdefs.ErrNotImplemented
}

// Abort implements [content.Store].
func (s *saved) Abort(context.Context, string) error { return errdefs.ErrNotImplemented }

// Writer implements [content.Store].
func (s *saved) Writer(context.Context, ...content.WriterOpt) (content.Writer, error) {
	return nil, errdefs.ErrNotImplemented
}

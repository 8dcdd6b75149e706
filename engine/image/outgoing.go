package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/vethloom/vethloom/cnm"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Outgoing is an image on its way to a registry. Nothing of it is removed until Close.
type Outgoing struct {
	Image    Image
	Manifest v1.Descriptor
	Raw      []byte // of the manifest

	store     *Store
	referrers []v1.Descriptor
	known     map[string][]string // by hexadecimal digits: repositories that have the blob
	lease     *lease              // nil: of the image that this one refers to
}

// Outgoing opens an image for a push.
func (s *Store) Outgoing(ctx context.Context, ref string) (*Outgoing, error) {
	l, err := s.lease(ctx, ref)
	if err != nil {
		return nil, err
	}
	e, m := l.images[0].entry, l.images[0].manifest
	out := &Outgoing{Image: e.public(), Manifest: m.Descriptor, store: s, referrers: m.Referrers,
		known: map[string][]string{}, lease: l}
	if out.Raw, err = s.content.readBlob(m.Digest); err != nil {
		return nil, errors.Join(fmt.Errorf("image %s: %w", ref, err), l.release(ctx))
	}
	for _, e := range l.all {
		for _, m := range e.record.Manifests {
			for _, b := range m.Blobs {
				for _, d := range e.record.Digests {
					repository, _, _ := strings.Cut(d, "@")
					if full := FullName(repository); !slices.Contains(out.known[b], full) {
						out.known[b] = append(out.known[b], full)
					}
				}
			}
		}
	}
	return out, nil
}

// noBlobs is about an image that came in when only the files of layers were kept.
func noBlobs(ref string) error {
	return &cnm.Error{Kind: cnm.ErrForbidden, Field: "image", Value: ref,
		Reason: "came in with an earlier version, which kept its files alone",
		Remedy: "bring it in again with 'net load', 'net import' or 'net pull'"}
}

// Close lets go of the image. What was removed of it meanwhile is collected.
func (o *Outgoing) Close() error {
	if o.lease == nil {
		return nil
	}
	return o.lease.release(context.Background())
}

// Blob opens a blob. Its end is an error when it is not what its digest says.
func (o *Outgoing) Blob(_ context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	return o.store.content.openVerified(d.Digest)
}

// KnownIn lists repositories that have a blob, with their hosts.
func (o *Outgoing) KnownIn(h v1.Hash) []string { return o.known[h.Hex] }

// Referrers returns the manifests that refer to the image.
func (o *Outgoing) Referrers() ([]*Outgoing, error) {
	var out []*Outgoing
	for _, d := range o.referrers {
		raw, err := o.store.content.readBlob(d.Digest)
		if err != nil {
			return nil, err
		}
		out = append(out, &Outgoing{Image: o.Image, Manifest: d, Raw: raw, store: o.store, known: o.known})
	}
	return out, nil
}

// Pushed writes down that a repository has an image under a digest: repository is in short form.
func (s *Store) Pushed(ctx context.Context, id, repository string, digest v1.Hash) error {
	err := s.update(ctx, func(all map[string]*entry) (map[string]*record, error) {
		name := repository + "@" + digest.String()
		if e := all[id]; e == nil || slices.Contains(e.record.Digests, name) || len(e.record.Digests) >= maxReferences {
			return nil, nil
		}
		changed := map[string]*record{}
		r := pending(all, changed, id)
		r.Digests = append(slices.Clone(r.Digests), name)
		slices.Sort(r.Digests)
		return changed, nil
	})
	if err != nil {
		return fmt.Errorf("write down that %s has the image: %w", repository, err)
	}
	return nil
}

// FullName is a repository's name with its host: busybox is docker.io/library/busybox.
func FullName(short string) string {
	host, _, more := strings.Cut(short, "/")
	switch {
	case !more:
		return "docker.io/library/" + short
	case !strings.ContainsAny(host, ".:") && host != "localhost":
		return "docker.io/" + short
	}
	return short
}

// openVerified opens a blob whose end is a [CorruptError] when it is not what its digest says.
func (c *content) openVerified(h v1.Hash) (io.ReadCloser, error) {
	f, _, err := c.openBlob(h)
	if err != nil {
		return nil, err
	}
	return &verifiedBlob{File: f, want: h, sum: sha256.New()}, nil
}

type verifiedBlob struct {
	*os.File
	want v1.Hash
	sum  hash.Hash
}

// Read implements [io.Reader].
func (b *verifiedBlob) Read(p []byte) (int, error) {
	n, err := b.File.Read(p)
	b.sum.Write(p[:n])
	if errors.Is(err, io.EOF) && hex.EncodeToString(b.sum.Sum(nil)) != b.want.Hex {
		err = &CorruptError{Digest: b.want.String(), Reason: "has changed since it was written"}
	}
	return n, err
}

// WriteTo hides that of the file, which would pass by Read.
func (b *verifiedBlob) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(w, struct{ io.Reader }{b})
}

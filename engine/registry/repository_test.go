package registry

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log"
	"net/http/httptest"
	"strings"
	"testing"

	ggcr "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine/image"
)

// pushedImage is an image of the library as a Content.
type pushedImage struct {
	v1.Image
	knownIn   []string
	referrers []Content
}

func (p pushedImage) Manifest() (v1.Descriptor, []byte) {
	raw, err := p.RawManifest()
	if err != nil {
		panic(err)
	}
	h, size, err := v1.SHA256(bytes.NewReader(raw))
	if err != nil {
		panic(err)
	}
	mt, err := p.MediaType()
	if err != nil {
		panic(err)
	}
	return v1.Descriptor{MediaType: mt, Digest: h, Size: size}, raw
}

func (p pushedImage) Blob(_ context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	if name, err := p.ConfigName(); err == nil && name == d.Digest {
		raw, err := p.RawConfigFile()
		return io.NopCloser(bytes.NewReader(raw)), err
	}
	l, err := p.LayerByDigest(d.Digest)
	if err != nil {
		return nil, err
	}
	return l.Compressed()
}

func (p pushedImage) KnownIn(v1.Hash) []string { return p.knownIn }
func (p pushedImage) Referrers() []Content     { return p.referrers }

func TestPushAndPull(t *testing.T) {
	server := httptest.NewServer(ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	img, err := random.Image(100_000, 2)
	if err != nil {
		t.Fatal(err)
	}
	client := Open(Config{HostDirs: []string{}, Registries: []string{}})
	r, err := client.Repository(strings.TrimPrefix(server.URL, "http://")+"/team/app:1", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	want, raw := pushedImage{Image: img}.Manifest()
	h, size, err := r.Push(t.Context(), "1", pushedImage{Image: img}, nil)
	if err != nil || h != want.Digest || size != want.Size {
		t.Fatalf("pushed %s of %d bytes: %v", h, size, err)
	}
	for _, ref := range []string{"1", want.Digest.String()} {
		d, got, err := r.Manifest(t.Context(), ref)
		if err != nil || !bytes.Equal(got, raw) || d.Digest != want.Digest || d.MediaType != want.MediaType {
			t.Fatalf("manifest %s: %v: %v", ref, d, err)
		}
	}
	m, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range append([]v1.Descriptor{m.Config}, m.Layers...) {
		for _, offset := range []int64{0, d.Size / 3, d.Size} {
			body, err := pushedImage{Image: img}.Blob(t.Context(), d)
			if err != nil {
				t.Fatal(err)
			}
			all, err := io.ReadAll(body)
			if err != nil {
				t.Fatal(err)
			}
			b, err := r.Blob(t.Context(), d, offset)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(b)
			if err != nil || !bytes.Equal(got, all[offset:]) {
				t.Errorf("blob %s from %d: %d bytes: %v", d.Digest, offset, len(got), err)
			}
			if err := b.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	if _, _, err := r.Manifest(t.Context(), "missing"); !errors.Is(err, cnm.ErrNotFound) {
		t.Errorf("a missing tag: %v", err)
	}
	var source image.Source = r
	if all, err := source.Referrers(t.Context(), want.Digest); err != nil || len(all) != 0 {
		t.Errorf("referrers: %v: %v", all, err)
	}
}

package registry

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/vethloom/vethloom/internal/registrytest"
)

// referrerOf makes something that refers to an image.
func referrerOf(t testing.TB, img *shelf, artifact string) *shelf {
	t.Helper()
	config, data := []byte("{}"), []byte("about "+img.d.Digest.String()+" "+artifact)
	s := &shelf{blobs: map[v1.Hash][]byte{}}
	put := func(data []byte, mt string) v1.Descriptor {
		h, size, err := v1.SHA256(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		s.blobs[h] = data
		return v1.Descriptor{MediaType: types.MediaType(mt), Digest: h, Size: size}
	}
	var err error
	s.raw, err = json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": types.OCIManifestSchema1, "artifactType": artifact,
		"config":  put(config, "application/vnd.oci.empty.v1+json"),
		"layers":  []v1.Descriptor{put(data, artifact)},
		"subject": img.d,
	})
	if err != nil {
		t.Fatal(err)
	}
	if s.d.Digest, s.d.Size, err = v1.SHA256(bytes.NewReader(s.raw)); err != nil {
		t.Fatal(err)
	}
	s.d.MediaType = types.OCIManifestSchema1
	return s
}

func TestReferrersByTheAPI(t *testing.T) {
	s := registrytest.Serve(t, registrytest.Options{Referrers: true})
	h := newHost(t)
	img := newShelf(t, 1000, 1)
	ref := referrerOf(t, img, "application/x.signature")
	img.referrers = []Content{ref}
	h.push(s.Host+"/team/app:1", img)
	all, err := h.repository(s.Host+"/team/app:1").Referrers(t.Context(), img.d.Digest)
	if err != nil || len(all) != 1 || all[0].Digest != ref.d.Digest {
		t.Fatalf("%v: %v", all, err)
	}
	if n := s.Asked(http.MethodPut, "manifests/sha256-"); n != 0 {
		t.Errorf("the tag was written %d times besides", n)
	}
	other := newShelf(t, 1000, 1)
	other.referrers = []Content{ref}
	if _, _, err := h.repository(s.Host+"/team/app:1").Push(t.Context(), "2", other, nil); err == nil ||
		!strings.Contains(err.Error(), "does not refer") {
		t.Errorf("what refers to another image is pushed: %v", err)
	}
}

// Of endless pages no more than a hundred descriptors are taken.
func TestReferrersAreBounded(t *testing.T) {
	s := registrytest.Serve(t, registrytest.Options{})
	h := newHost(t)
	img := newShelf(t, 1000, 1)
	index := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex}
	for i := range 60 {
		hash, size, err := v1.SHA256(strings.NewReader(fmt.Sprint(i)))
		if err != nil {
			t.Fatal(err)
		}
		index.Manifests = append(index.Manifests, v1.Descriptor{Digest: hash, Size: size,
			MediaType: types.OCIManifestSchema1})
	}
	raw, err := json.Marshal(index)
	if err != nil {
		t.Fatal(err)
	}
	path := "/referrers/" + img.d.Digest.String()
	s.Fail(registrytest.Fault{Path: path, Body: string(raw), Header: http.Header{
		"Content-Type": {string(types.OCIImageIndex)}, "Link": {`</v2/a/b` + path + `?n=2>; rel="next"`}}})
	all, err := h.repository(s.Host+"/a/b:1").Referrers(t.Context(), img.d.Digest)
	if err != nil || len(all) != maxReferrers {
		t.Errorf("%d: %v", len(all), err)
	}
	if n := s.Asked(http.MethodGet, path); n != 2 {
		t.Errorf("%d pages were read", n)
	}
}

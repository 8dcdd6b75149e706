package image_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/vethloom/vethloom/engine/image"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// A layer that leaves its directories out, or links to a file below, has them as they are below.
func TestPullCompletesLayers(t *testing.T) {
	s := newShelf()
	below := func(mode int64) files { return files{{"opt/", ""}, {"opt/tool", fmt.Sprint(mode)}} }
	above := files{{"opt/more", "more"}}
	one, two := build(t, runtime.GOARCH, below(1), above), build(t, runtime.GOARCH, below(2), above)
	s.put(t, "1", one)
	s.put(t, "2", two)
	f := open(t)
	a, b := f.mustPull(t, "app:1", s), f.mustPull(t, "app:2", s)
	if a.Layers[1] != b.Layers[1] || f.LayerDirs(a.Image)[1] == f.LayerDirs(b.Image)[1] {
		t.Errorf("a layer that needs what is below is shared: %v, %v", f.LayerDirs(a.Image), f.LayerDirs(b.Image))
	}
	st, err := os.Stat(filepath.Join(f.LayerDirs(a.Image)[1], "opt"))
	if err != nil || st.ModTime().Unix() != 1e9 {
		t.Errorf("the directory has not the time of the one below: %v, %v", st, err)
	}
	for _, p := range []image.Pulled{a, b} {
		if _, _, err := f.Remove(t.Context(), p.ID, true, nil); err != nil {
			t.Fatal(err)
		}
	}
	f.empty(t)
}

// What refers to an image is kept with it.
func TestPullKeepsReferrers(t *testing.T) {
	s, img := newShelf(), sample(t)
	h := s.put(t, "1", img)
	signature, ok := mutate.Subject(mutate.ConfigMediaType(empty.Image, "application/vnd.example.signature"),
		v1.Descriptor{MediaType: types.DockerManifestSchema2, Digest: h}).(v1.Image)
	if !ok {
		t.Fatal("no image")
	}
	sh := s.put(t, "signature", signature)
	s.referrers[h] = []v1.Descriptor{{MediaType: types.DockerManifestSchema2, Digest: sh,
		Size: int64(len(s.manifests[sh].raw))}}
	f := open(t)
	f.mustPull(t, "app:1", s)
	out, err := f.Outgoing(t.Context(), "app:1")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	kept, err := out.Referrers()
	if err != nil || len(kept) != 1 || !bytes.Equal(kept[0].Raw, s.manifests[sh].raw) {
		t.Errorf("kept are %v, %v", kept, err)
	}
}

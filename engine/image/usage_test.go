package image_test

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vethloom/vethloom/engine/image"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// allocated is what du says of the store, without the directories that are there in any case.
func (f *fixture) allocated(tb testing.TB) (sum int64) {
	tb.Helper()
	for _, dir := range []string{"layers", "blobs/sha256", "ingest"} {
		entries, err := os.ReadDir(filepath.Join(f.root, dir))
		if err != nil {
			tb.Fatal(err)
		}
		for _, e := range entries {
			out := run(tb, nil, "du", "-s", "-B", "1", filepath.Join(f.root, dir, e.Name()))
			var n int64
			for _, digit := range strings.Fields(string(out))[0] {
				n = n*10 + int64(digit-'0')
			}
			sum += n
		}
	}
	return sum
}

func TestDiskUsage(t *testing.T) {
	f := open(t)
	one, other := two(t, f)
	left := filepath.Join(f.root, "ingest", strings.Repeat("0", 64))
	if err := os.WriteFile(left, randomBytes(1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	u, err := f.DiskUsage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if u.Leftovers < 1<<20 || u.Leftovers > 2<<20 {
		t.Errorf("leftovers have %d bytes", u.Leftovers)
	}
	if got, want := u.Total+u.Leftovers, f.allocated(t); got != want {
		t.Errorf("all has %d bytes, want the %d of du", got, want)
	}
	by := map[string]image.ImageUsage{}
	for _, i := range u.Images {
		by[i.ID] = i
		if i.Shared+i.Unique != i.OnDisk {
			t.Errorf("image %s: %d and %d are not %d", i.ID, i.Shared, i.Unique, i.OnDisk)
		}
	}
	if s := by[one.ID].Shared; s == 0 || s != by[other.ID].Shared ||
		u.Total != by[one.ID].Unique+by[other.ID].Unique+s {
		t.Errorf("shared are %d and %d of %d", s, by[other.ID].Shared, u.Total)
	}
	if _, _, err := f.Remove(t.Context(), "app:1", false, nil); err != nil {
		t.Fatal(err)
	}
	after, err := f.DiskUsage(t.Context())
	if err != nil || u.Total-after.Total != by[one.ID].Unique {
		t.Errorf("removing it freed %d bytes, want %d: %v", u.Total-after.Total, by[one.ID].Unique, err)
	}
}

func TestHistory(t *testing.T) {
	layer := func(l files) v1.Layer {
		t.Helper()
		data := l.tar(t)
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(data)), nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return layer
	}
	start := mutate.Addendum{Layer: layer(base), History: v1.History{CreatedBy: "start"}}
	lower, err := mutate.Append(build(t, runtime.GOARCH), start)
	if err != nil {
		t.Fatal(err)
	}
	upper, err := mutate.Append(lower, mutate.Addendum{History: v1.History{CreatedBy: "set", EmptyLayer: true}},
		mutate.Addendum{Layer: layer(mid), History: v1.History{CreatedBy: "change"}})
	if err != nil {
		t.Fatal(err)
	}
	s := newShelf()
	s.put(t, "1", lower)
	s.put(t, "2", upper)
	s.put(t, "3", without(t, upper))
	f := open(t)
	a, b := f.mustPull(t, "app:1", s), f.mustPull(t, "app:2", s)
	f.mustPull(t, "app:3", s)
	type step struct {
		By, Layer, Image string
		Size             int64
	}
	steps := func(ref string) (out []step) {
		t.Helper()
		list, err := f.History(t.Context(), ref)
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range list {
			out = append(out, step{h.CreatedBy, h.Layer, h.Image, h.Size})
		}
		return out
	}
	if diff := cmp.Diff([]step{{"change", b.Layers[1], b.ID, 3}, {"set", "", "", 0}, {"start", b.Layers[0], a.ID, 8}},
		steps("app:2")); diff != "" {
		t.Error(diff)
	}
	if got := steps("app:3"); len(got) != 2 || got[0].Layer != b.Layers[1] || got[1].Layer != b.Layers[0] {
		t.Errorf("an image without a history has the steps %+v", got)
	}
}

// without takes an image's history away.
func without(t *testing.T, img v1.Image) v1.Image {
	t.Helper()
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c = c.DeepCopy()
	c.History = nil
	out, err := mutate.ConfigFile(img, c)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

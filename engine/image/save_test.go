package image_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine/image"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// sign has something refer to an image.
func (s *shelf) sign(tb testing.TB, h v1.Hash, text string) v1.Descriptor {
	tb.Helper()
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1),
		"application/vnd.example.signature")
	img, err := mutate.AppendLayers(img, static.NewLayer([]byte(text), "application/vnd.example.text"))
	if err != nil {
		tb.Fatal(err)
	}
	of := v1.Descriptor{MediaType: s.manifests[h].kind, Digest: h, Size: int64(len(s.manifests[h].raw))}
	r := s.put(tb, "signature", mutate.Subject(img, of).(v1.Image))
	d := v1.Descriptor{MediaType: types.OCIManifestSchema1, Digest: r, Size: int64(len(s.manifests[r].raw)),
		ArtifactType: "application/vnd.example.signature"}
	s.referrers[h] = append(s.referrers[h], d)
	return d
}

func (f *fixture) mustSave(tb testing.TB, format string, refs ...string) []byte {
	tb.Helper()
	var b bytes.Buffer
	if err := f.Save(tb.Context(), &b, refs, image.SaveOptions{Format: format}); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

// blobs lists what is kept as blobs and as leftovers of fetches.
func (f *fixture) blobs(tb testing.TB) (out []string) {
	tb.Helper()
	for _, dir := range []string{"blobs/sha256", "ingest"} {
		entries, err := os.ReadDir(filepath.Join(f.root, dir))
		if err != nil {
			tb.Fatal(err)
		}
		for _, e := range entries {
			out = append(out, path.Join(dir, e.Name()))
		}
	}
	return out
}

// contents are the files of a tar, in order.
func contents(tb testing.TB, data []byte) (names []string, files map[string][]byte) {
	tb.Helper()
	files = map[string][]byte{}
	r := tar.NewReader(bytes.NewReader(data))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return names, files
		}
		if err != nil {
			tb.Fatal(err)
		}
		names = append(names, h.Name)
		if files[h.Name], err = io.ReadAll(r); err != nil {
			tb.Fatal(err)
		}
	}
}

func decode[T any](tb testing.TB, raw []byte) (v T) {
	tb.Helper()
	if err := json.Unmarshal(raw, &v); err != nil {
		tb.Fatalf("%v: %s", err, raw)
	}
	return v
}

// two pulls two images that share a layer.
func two(tb testing.TB, f *fixture) (one, other image.Image) {
	tb.Helper()
	s := newShelf()
	s.put(tb, "1", build(tb, runtime.GOARCH, base, mid))
	s.put(tb, "2", build(tb, runtime.GOARCH, base))
	return f.mustPull(tb, "app:1", s).Image, f.mustPull(tb, "example.org/team/app:2", s).Image
}

func TestSave(t *testing.T) {
	f := open(t)
	one, other := two(t, f)
	if err := f.Tag(t.Context(), "app:1", "also"); err != nil {
		t.Fatal(err)
	}
	refs := []string{"app:1", "example.org/team/app:2", "also", "app:1"}
	data := f.mustSave(t, "", refs...)
	if !bytes.Equal(data, f.mustSave(t, "", refs...)) {
		t.Error("the same images give two archives")
	}
	names, parts := contents(t, data)
	if once := slices.Compact(slices.Sorted(slices.Values(names))); len(once) != len(names) {
		t.Errorf("files that are there twice: %v", names)
	}
	// Two manifests, two configurations and two layers, of which they share one.
	last := []string{"index.json", "manifest.json", "oci-layout"}
	if n := len(names); n != 2+6+3 || !slices.Equal(names[n-3:], last) {
		t.Errorf("the archive has %v", names)
	}
	for name, raw := range parts {
		if h, _, err := v1.SHA256(bytes.NewReader(raw)); strings.HasPrefix(name, "blobs/sha256/") &&
			(err != nil || len(raw) > 0 && h.Hex != path.Base(name)) {
			t.Errorf("%s has the digest %s: %v", name, h, err)
		}
	}
	type entry struct{ Digest, Name, Tag string }
	var index []entry
	for _, d := range decode[v1.IndexManifest](t, parts["index.json"]).Manifests {
		a := d.Annotations
		index = append(index, entry{d.Digest.String(), a["io.containerd.image.name"], a[refName]})
	}
	if diff := cmp.Diff([]entry{{one.Manifest.Digest.String(), "docker.io/library/app:1", "1"},
		{one.Manifest.Digest.String(), "docker.io/library/also:latest", "latest"},
		{other.Manifest.Digest.String(), "example.org/team/app:2", "2"}}, index); diff != "" {
		t.Error(diff)
	}
	list := decode[tarball.Manifest](t, parts["manifest.json"])
	if diff := cmp.Diff([][]string{{"app:1", "also:latest"}, {"example.org/team/app:2"}},
		[][]string{list[0].RepoTags, list[1].RepoTags}); diff != "" {
		t.Error(diff)
	}
	for _, d := range list {
		for _, file := range append(d.Layers, d.Config) {
			if _, ok := parts[file]; !ok {
				t.Errorf("manifest.json names %s, which is not there", file)
			}
		}
	}
	if _, parts := contents(t, f.mustSave(t, "oci-archive", "app:1")); parts["manifest.json"] != nil ||
		parts["index.json"] == nil {
		t.Error("a layout alone is something else")
	}
	if _, parts := contents(t, f.mustSave(t, "", one.ID)); bytes.Contains(parts["manifest.json"], []byte("app:1")) ||
		bytes.Contains(parts["index.json"], []byte(refName)) {
		t.Errorf("an image that is saved by its ID has a name: %s", parts["index.json"])
	}
}

// What is saved and loaded elsewhere is the same image.
func TestSaveAndLoad(t *testing.T) {
	f := open(t)
	one, other := two(t, f)
	imported := f.mustImport(t, rootfs(t), image.ImportOptions{Reference: "mine"})
	want := map[string][]string{one.ID: one.References, other.ID: other.References, imported.ID: imported.References}
	manifests := map[string]v1.Hash{one.ID: one.Manifest.Digest, other.ID: other.Manifest.Digest,
		imported.ID: imported.Manifest.Digest}
	for _, format := range []string{"", "oci-archive", "docker-archive"} {
		t.Run(format, func(t *testing.T) {
			g := open(t)
			data := f.mustSave(t, format, "app:1", "example.org/team/app:2", "mine")
			got := map[string][]string{}
			for _, img := range g.mustLoad(t, data) {
				got[img.ID] = img.References
				if format != "docker-archive" && img.Manifest.Digest != manifests[img.ID] {
					t.Errorf("image %s has the manifest %s, want %s", img.ID, img.Manifest.Digest, manifests[img.ID])
				}
				if len(g.LayerDirs(img)) != len(img.Layers) {
					t.Errorf("image %s has layers %v", img.ID, g.LayerDirs(img))
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// What readers of 'docker save' take is not compressed, whatever it was.
func TestSaveForOldReaders(t *testing.T) {
	f := open(t)
	layer := base.tar(t)
	s := newShelf()
	h, _, err := v1.SHA256(bytes.NewReader(layer))
	if err != nil {
		t.Fatal(err)
	}
	img := build(t, runtime.GOARCH, base)
	s.put(t, "1", img)
	m, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	zstd := run(t, layer, "zstd", "-c")
	z, _, err := v1.SHA256(bytes.NewReader(zstd))
	if err != nil {
		t.Fatal(err)
	}
	m = m.DeepCopy()
	m.Layers[0] = v1.Descriptor{MediaType: types.OCILayerZStd, Digest: z, Size: int64(len(zstd))}
	raw, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	s.tags["1"], s.blobs[z] = s.document(t, raw), zstd
	f.mustPull(t, "app:1", s)
	data := f.mustSave(t, "docker-archive", "app:1")
	got, err := tarball.Image(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }, nil)
	if err != nil {
		t.Fatal(err)
	}
	if id(t, got) != id(t, img) {
		t.Errorf("the image has the ID %s, want %s", id(t, got), id(t, img))
	}
	if _, parts := contents(t, data); !bytes.Equal(parts[h.Hex+".tar"], layer) {
		t.Error("its layer is not what it was before compression")
	}
	// What is written down of a layer when it is unpacked may be lost.
	if err := os.Remove(filepath.Join(f.root, "layers", h.Hex, "layer.json")); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(data, f.mustSave(t, "docker-archive", "app:1")) {
		t.Error("without it the archive is another")
	}
}

func TestSaveWithReferrers(t *testing.T) {
	f := open(t)
	s := newShelf()
	h := s.put(t, "1", build(t, runtime.GOARCH, base))
	signature := s.sign(t, h, "signed by nobody")
	f.mustPull(t, "app:1", s)
	data := f.mustSave(t, "", "app:1")
	g := open(t)
	g.mustLoad(t, data)
	out, err := g.Outgoing(t.Context(), "app:1")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if kept, err := out.Referrers(); err != nil || len(kept) != 1 || kept[0].Manifest.Digest != signature.Digest {
		t.Errorf("what is loaded has the referrers %v, %v", kept, err)
	}
	_, parts := contents(t, data)
	index := decode[v1.IndexManifest](t, parts["index.json"]).Manifests
	if len(index) != 2 || index[1].Digest != signature.Digest || len(index[1].Annotations) > 0 {
		t.Errorf("the index is %s", parts["index.json"])
	}
	m := decode[v1.Manifest](t, parts["blobs/sha256/"+signature.Digest.Hex])
	if m.Subject == nil || m.Subject.Digest != h || len(m.Layers) != 1 {
		t.Fatalf("the referrer is %+v", m)
	}
	if got := string(parts["blobs/sha256/"+m.Layers[0].Digest.Hex]); got != "signed by nobody" {
		t.Errorf("its blob is %q", got)
	}
}

// A blob that has changed is told, and no reader takes what was written until then.
func TestSaveOfADamagedBlob(t *testing.T) {
	for what, damage := range map[string]func(*testing.T, string){
		"another content": func(t *testing.T, file string) {
			flip(t, file)
		},
		"cut short": func(t *testing.T, file string) {
			if err := os.Truncate(file, 10); err != nil {
				t.Fatal(err)
			}
		},
		"gone": func(t *testing.T, file string) {
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
		},
	} {
		for _, format := range []string{"", "oci-archive", "docker-archive"} {
			t.Run(what+" "+format, func(t *testing.T) {
				f := open(t)
				s := newShelf()
				img := build(t, runtime.GOARCH, base, files{{"big", string(randomBytes(1 << 20))}})
				s.put(t, "1", img)
				f.mustPull(t, "app:1", s)
				m, err := img.Manifest()
				if err != nil {
					t.Fatal(err)
				}
				last := m.Layers[1].Digest
				damage(t, filepath.Join(f.root, "blobs/sha256", last.Hex))
				var b bytes.Buffer
				err = f.Save(t.Context(), &b, []string{"app:1"}, image.SaveOptions{Format: format})
				corrupt, ok := errors.AsType[*image.CorruptError](err)
				if !ok || corrupt.Digest != last.String() || !strings.Contains(err.Error(), "image app:1") {
					t.Fatalf("error %v, want a CorruptError of %s that names the image", err, last)
				}
				if _, err := open(t).Load(t.Context(), &b); err == nil {
					t.Error("what was written is an archive")
				}
			})
		}
	}
}

// gate is a writer that tells that it is written to, and waits.
type gate struct {
	bytes.Buffer
	once          sync.Once
	entered, open chan struct{}
}

func (g *gate) Write(p []byte) (int, error) {
	g.once.Do(func() {
		close(g.entered)
		<-g.open
	})
	return g.Buffer.Write(p)
}

// What is removed while it is saved is in the archive, and then gone.
func TestRemoveWhileSaving(t *testing.T) {
	f := open(t)
	two(t, f)
	g := &gate{entered: make(chan struct{}), open: make(chan struct{})}
	done := make(chan error, 1)
	go func() { done <- f.Save(t.Context(), g, []string{"app:1"}, image.SaveOptions{}) }()
	<-g.entered
	for _, ref := range []string{"app:1", "example.org/team/app:2"} {
		if _, _, err := f.Remove(t.Context(), ref, false, nil); err != nil {
			t.Error(err)
		}
	}
	close(g.open)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	f.empty(t)
	if left := f.blobs(t); len(left) > 0 {
		t.Errorf("blobs are left: %v", left)
	}
	if got := open(t).mustLoad(t, g.Bytes()); len(got) != 1 || got[0].References[0] != "app:1" {
		t.Errorf("loaded %v", got)
	}
}

type refusing struct{ err error }

func (r refusing) Write([]byte) (int, error) { return 0, r.err }

// writerFunc is called for each write, and takes all.
type writerFunc func()

func (w writerFunc) Write(p []byte) (int, error) {
	w()
	return len(p), nil
}

func TestSaveRefuses(t *testing.T) {
	f := open(t)
	two(t, f)
	for name, c := range map[string]struct {
		refs   []string
		format string
		want   error
	}{
		"an unknown image":   {[]string{"app:1", "missing"}, "", cnm.ErrNotFound},
		"an unknown format":  {[]string{"app:1"}, "zip", cnm.ErrInvalid},
		"nothing to be done": {nil, "", cnm.ErrInvalid},
	} {
		var b bytes.Buffer
		err := f.Save(t.Context(), &b, c.refs, image.SaveOptions{Format: c.format})
		if !errors.Is(err, c.want) || b.Len() > 0 {
			t.Errorf("%s: %v after %d bytes, want %v", name, err, b.Len(), c.want)
		}
	}
	full := errors.New("no room")
	for _, format := range []string{"", "docker-archive"} {
		err := f.Save(t.Context(), refusing{full}, []string{"app:1"}, image.SaveOptions{Format: format})
		if !errors.Is(err, full) {
			t.Errorf("%q: error %v, want that of the writer", format, err)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		away := errors.New("the caller has gone away")
		w := writerFunc(func() { cancel(away) })
		if err := f.Save(ctx, w, []string{"app:1"}, image.SaveOptions{Format: format}); !errors.Is(err, away) {
			t.Errorf("%q: error %v, want the cause of the end", format, err)
		}
	}
	forget(t, f)
	err := f.Save(t.Context(), io.Discard, []string{"app:1"}, image.SaveOptions{})
	if !errors.Is(err, cnm.ErrForbidden) || !strings.Contains(fmt.Sprint(err), "net pull") {
		t.Errorf("an image of an earlier version: %v", err)
	}
}

// forget makes of all images what an earlier version had: no blobs.
func forget(tb testing.TB, f *fixture) {
	tb.Helper()
	recs, err := f.records.List(tb.Context(), cnm.KindImage)
	if err != nil {
		tb.Fatal(err)
	}
	for _, r := range recs {
		old := decode[map[string]json.RawMessage](tb, r.Value)
		delete(old, "manifests")
		raw, err := json.Marshal(old)
		if err != nil {
			tb.Fatal(err)
		}
		if err := f.records.Commit(tb.Context(), cnm.Write{Key: r.Key, Revision: r.Revision, Value: raw}); err != nil {
			tb.Fatal(err)
		}
	}
}

// An archive that is a layout and Docker's has the names of both.
func TestLoadNamesOfBoth(t *testing.T) {
	f := open(t)
	two(t, f)
	data := edit(t, f.mustSave(t, "", "app:1", "example.org/team/app:2"), func(name string, b []byte) []byte {
		switch name {
		case "index.json":
			return bytes.ReplaceAll(b, []byte("io.containerd.image.name"), []byte("example.other"))
		case "manifest.json":
			return bytes.Replace(b, []byte(`["app:1"]`), []byte(`["app:1","more:3"]`), 1)
		}
		return b
	})
	var got []string
	for _, img := range open(t).mustLoad(t, data) {
		got = append(got, img.References...)
	}
	slices.Sort(got)
	if diff := cmp.Diff([]string{"app:1", "example.org/team/app:2", "more:3"}, got); diff != "" {
		t.Error(diff)
	}
}

// A blob that an archive hands over is compared with its digest all the same.
func TestLoadOfADamagedLayout(t *testing.T) {
	f := open(t)
	s := newShelf()
	s.put(t, "1", build(t, runtime.GOARCH, files{{"big", string(randomBytes(1 << 20))}}))
	f.mustPull(t, "app:1", s)
	data := edit(t, f.mustSave(t, "", "app:1"), func(name string, b []byte) []byte {
		if len(b) > 1<<20 {
			b[len(b)/2] ^= 1
		}
		return b
	})
	g := open(t)
	if _, err := g.Load(t.Context(), bytes.NewReader(data)); !errors.Is(err, cnm.ErrInvalid) ||
		!strings.Contains(err.Error(), "does not match its digest") {
		t.Errorf("error %v, want one of the digest", err)
	}
	g.empty(t)
	if left := g.blobs(t); len(left) > 0 {
		t.Errorf("blobs are left: %v", left)
	}
}

// flip changes a bit in the middle of a file.
func flip(tb testing.TB, file string) {
	tb.Helper()
	raw, err := os.ReadFile(file)
	if err == nil {
		raw[len(raw)/2] ^= 1
		err = os.WriteFile(file, raw, 0o600)
	}
	if err != nil {
		tb.Fatal(err)
	}
}

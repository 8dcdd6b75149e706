package sample_test

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/vethloom/vethloom/bench/sample"
)

func shelf(t *testing.T) *sample.Shelf {
	t.Helper()
	s, err := sample.NewShelf(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func plain(t *testing.T, s *sample.Shelf, write func(*tar.Writer) error) sample.Plain {
	t.Helper()
	p, err := s.Plain(write)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// two makes an image of two layers.
func two(t *testing.T, s *sample.Shelf) sample.Image {
	t.Helper()
	var layers []sample.Layer
	for n := range uint64(2) {
		l, err := s.Layer(plain(t, s, sample.Small(n, "srv", 90)), sample.Gzip)
		if err != nil {
			t.Fatal(err)
		}
		layers = append(layers, l)
	}
	img, err := s.Image("test", layers...)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// TestContentIsLikePrograms compares what it compresses to with what programs and libraries of a distribution do.
func TestContentIsLikePrograms(t *testing.T) {
	s := shelf(t)
	p := plain(t, s, sample.Programs(1, "usr", 8<<20))
	for _, c := range []string{sample.Gzip, sample.Zstd} {
		l, err := s.Layer(p, c)
		if err != nil {
			t.Fatal(err)
		}
		if ratio := float64(l.Blob.Size) / float64(p.Size); ratio < .35 || ratio > .45 {
			t.Errorf("%s compresses to %.2f, want 0.35 to 0.45", c, ratio)
		}
		if digest, err := unpacked(l); err != nil || digest != p.ID {
			t.Errorf("the layer in %s becomes %v, %v, want %v", c, digest, err, p.ID)
		}
	}
}

// unpacked is the digest of what a layer decompresses to.
func unpacked(l sample.Layer) (v1.Hash, error) {
	r, err := l.Open()
	if err != nil {
		return v1.Hash{}, err
	}
	digest, _, err := v1.SHA256(r)
	return digest, errors.Join(err, r.Close())
}

// TestTheSameEachTime has the digest of a layer, so that figures of different days are of the same bytes.
func TestTheSameEachTime(t *testing.T) {
	const want = "72c23c9a7e115c493d2bd9c7867984fa1ea9b73e7441a77d7cfba56c86b03719"
	s := shelf(t)
	p := plain(t, s, sample.Programs(1, "usr", 1<<20))
	if p.ID.Hex != want {
		t.Errorf("the layer has the digest %s, want %s", p.ID.Hex, want)
	}
	if other := plain(t, s, sample.Programs(2, "usr", 1<<20)); other.ID == p.ID {
		t.Error("another seed gives the same bytes")
	}
}

// TestAmounts counts the files of a layer and their bytes.
func TestAmounts(t *testing.T) {
	s := shelf(t)
	for _, tc := range []struct {
		name         string
		write        func(*tar.Writer) error
		files, bytes int64 // 0: any
	}{
		{"programs", sample.Programs(3, "usr", 3_000_001), 0, 3_000_001},
		{"small files", sample.Small(3, "srv", 401), 401, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			files, bytes := count(t, plain(t, s, tc.write).File)
			if tc.files != 0 && files != tc.files || tc.bytes != 0 && bytes != tc.bytes {
				t.Errorf("%d files of %d bytes, want %d of %d", files, bytes, tc.files, tc.bytes)
			}
		})
	}
}

// count walks through an archive, and finds each file in a folder that is there.
func count(t *testing.T, file string) (files, bytes int64) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var folders []string
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files, bytes
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeDir {
			folders = append(folders, filepath.Clean(h.Name))
			continue
		}
		if !slices.Contains(folders, filepath.Dir(h.Name)) {
			t.Errorf("%s has no folder", h.Name)
		}
		files, bytes = files+1, bytes+h.Size
	}
}

// TestRegistryGivesWholeImages has go-containerregistry compare every digest and size of an image that it pulls.
func TestRegistryGivesWholeImages(t *testing.T) {
	s := shelf(t)
	img := two(t, s)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.Serve(t.Context(), l, img)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}()
	transport := &http.Transport{DisableKeepAlives: true}
	ref, err := name.ParseReference(r.Name(img))
	if err != nil {
		t.Fatal(err)
	}
	if n := r.Missed(img); n != 2 {
		t.Errorf("before a pull %d layers are not fetched, want 2", n)
	}
	pulled, err := remote.Image(ref, remote.WithContext(t.Context()), remote.WithTransport(transport))
	if err == nil {
		err = validate.Image(pulled)
	}
	if err != nil {
		t.Fatal(err)
	}
	for want := range 2 { // what is asked is then forgotten
		if n := r.Missed(img); n != 2*want {
			t.Errorf("call %d: %d layers are not fetched", want, n)
		}
	}
	if _, err := remote.Image(ref.Context().Tag("other"), remote.WithContext(context.Background()),
		remote.WithTransport(transport)); err == nil {
		t.Error("a tag that was never put is there")
	}
}

// TestArchiveIsBoth reads an archive as an OCI layout, and as docker does.
func TestArchiveIsBoth(t *testing.T) {
	s := shelf(t)
	img := two(t, s)
	dir := t.TempDir()
	file := filepath.Join(dir, "images.tar")
	if err := s.Archive(file, "example.org/", img, img); err != nil {
		t.Fatal(err)
	}
	extract(t, file, dir)
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	i, err := index.Image(img.Manifest.Digest)
	if err == nil {
		err = validate.Image(i)
	}
	if err != nil {
		t.Error("as a layout:", err)
	}
	m, err := tarball.LoadManifest(func() (io.ReadCloser, error) { return os.Open(file) })
	if err != nil {
		t.Fatal(err)
	}
	if len(m) != 2 || len(m[0].Layers) != 2 || !slices.Equal(m[0].RepoTags, []string{"example.org/test:latest"}) {
		t.Errorf("as docker reads it: %+v", m)
	}
}

// extract unpacks an archive, in which nothing may be twice.
func extract(t *testing.T, file, dir string) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		at := filepath.Join(dir, filepath.FromSlash(h.Name))
		if _, err := os.Stat(at); err == nil {
			t.Errorf("%s is there twice", h.Name)
		}
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

package image_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine/image"
	"github.com/vethloom/vethloom/internal/store/mem"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// shelf is a repository in memory, with faults.
type shelf struct {
	tags      map[string]v1.Hash
	manifests map[v1.Hash]document
	blobs     map[v1.Hash][]byte
	referrers map[v1.Hash][]v1.Descriptor

	mu   sync.Mutex
	cut  map[v1.Hash]int64 // bytes after which a blob breaks off, once
	sent map[v1.Hash]int64 // bytes of each blob that were read
	// opened is called when a blob is opened; nil: nothing is done.
	opened func(d v1.Descriptor, offset int64) error
}

type document struct {
	kind types.MediaType
	raw  []byte
}

func newShelf() *shelf {
	return &shelf{tags: map[string]v1.Hash{}, manifests: map[v1.Hash]document{}, blobs: map[v1.Hash][]byte{},
		referrers: map[v1.Hash][]v1.Descriptor{}, cut: map[v1.Hash]int64{}, sent: map[v1.Hash]int64{}}
}

// put has the shelf hold an image or an index of images under a tag.
func (s *shelf) put(tb testing.TB, tag string, what partial.WithRawManifest, images ...v1.Image) v1.Hash {
	tb.Helper()
	raw, err := what.RawManifest()
	if err != nil {
		tb.Fatal(err)
	}
	h := s.document(tb, raw)
	s.tags[tag] = h
	if img, ok := what.(v1.Image); ok {
		images = append(images, img)
	}
	for _, img := range images {
		raw, err := img.RawManifest()
		if err != nil {
			tb.Fatal(err)
		}
		s.document(tb, raw)
		config, err := img.RawConfigFile()
		if err != nil {
			tb.Fatal(err)
		}
		s.blob(tb, config)
		layers, err := img.Layers()
		if err != nil {
			tb.Fatal(err)
		}
		for _, l := range layers {
			r, err := l.Compressed()
			if err != nil {
				tb.Fatal(err)
			}
			b, err := io.ReadAll(r)
			if err != nil {
				tb.Fatal(err)
			}
			s.blob(tb, b)
		}
	}
	return h
}

func sum(tb testing.TB, b []byte) v1.Hash {
	tb.Helper()
	h, _, err := v1.SHA256(bytes.NewReader(b))
	if err != nil {
		tb.Fatal(err)
	}
	return h
}

func (s *shelf) blob(tb testing.TB, b []byte) { s.blobs[sum(tb, b)] = b }

func (s *shelf) document(tb testing.TB, raw []byte) v1.Hash {
	h := sum(tb, raw)
	m, err := v1.ParseManifest(bytes.NewReader(raw))
	if err != nil {
		tb.Fatal(err)
	}
	s.manifests[h] = document{m.MediaType, raw}
	return h
}

func (s *shelf) Manifest(_ context.Context, ref string) (v1.Descriptor, []byte, error) {
	h, ok := s.tags[ref]
	if !ok {
		var err error
		if h, err = v1.NewHash(ref); err != nil {
			return v1.Descriptor{}, nil, fmt.Errorf("no tag %s: %w", ref, cnm.ErrNotFound)
		}
	}
	m, ok := s.manifests[h]
	if !ok {
		return v1.Descriptor{}, nil, fmt.Errorf("no manifest %s: %w", h, cnm.ErrNotFound)
	}
	return v1.Descriptor{MediaType: m.kind, Digest: h, Size: int64(len(m.raw))}, m.raw, nil
}

var errBroken = errors.New("the connection broke")

func (s *shelf) Blob(ctx context.Context, d v1.Descriptor, offset int64) (io.ReadCloser, error) {
	if s.opened != nil {
		if err := s.opened(d, offset); err != nil {
			return nil, err
		}
	}
	b, ok := s.blobs[d.Digest]
	if !ok {
		return nil, fmt.Errorf("no blob %s: %w", d.Digest, cnm.ErrNotFound)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r := io.Reader(bytes.NewReader(b[min(offset, int64(len(b))):]))
	if at, ok := s.cut[d.Digest]; ok {
		delete(s.cut, d.Digest)
		r = io.MultiReader(io.LimitReader(r, at-offset), broken{})
	}
	return io.NopCloser(&counted{r: r, ctx: ctx, add: func(n int) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.sent[d.Digest] += int64(n)
	}}), nil
}

func (s *shelf) Referrers(_ context.Context, h v1.Hash) ([]v1.Descriptor, error) {
	return s.referrers[h], nil
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errBroken }

type counted struct {
	r   io.Reader
	ctx context.Context
	add func(int)
}

func (c *counted) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	n, err := c.r.Read(p)
	c.add(n)
	return n, err
}

// largest is the largest blob of an image: its size and digest.
func largest(tb testing.TB, img v1.Image) v1.Descriptor {
	tb.Helper()
	m, err := img.Manifest()
	if err != nil {
		tb.Fatal(err)
	}
	out := m.Layers[0]
	for _, l := range m.Layers {
		if l.Size > out.Size {
			out = l
		}
	}
	return out
}

func sample(tb testing.TB) v1.Image {
	tb.Helper()
	return build(tb, runtime.GOARCH, base, files{{"big", string(randomBytes(3 << 20))}}, mid)
}

func (f *fixture) mustPull(tb testing.TB, ref string, s *shelf) image.Pulled {
	tb.Helper()
	p, err := f.Pull(tb.Context(), ref, s, image.PullOptions{})
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

func TestPull(t *testing.T) {
	s, img := newShelf(), sample(t)
	h := s.put(t, "1", img)
	f := open(t)
	p := f.mustPull(t, "example.org/app:1", s)
	if p.ID != id(t, img) || p.Digest != h.String() || !p.Fresh {
		t.Errorf("pulled %+v", p)
	}
	if diff := cmp.Diff([]string{"example.org/app:1"}, p.References); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"example.org/app@" + h.String()}, p.Digests); diff != "" {
		t.Error(diff)
	}
	if dirs := f.LayerDirs(p.Image); len(dirs) != 3 {
		t.Errorf("layers are %v", dirs)
	}
	clear(s.sent)
	again := f.mustPull(t, "example.org/app:1", s)
	if again.Fresh || s.sent[largest(t, img).Digest] != 0 {
		t.Errorf("once more: fresh %v, sent %v", again.Fresh, s.sent)
	}
	byDigest := f.mustPull(t, "example.org/app@"+h.String(), s)
	if byDigest.ID != p.ID {
		t.Errorf("by digest: %s", byDigest.ID)
	}
	if _, _, err := f.Remove(t.Context(), p.ID, true, nil); err != nil {
		t.Fatal(err)
	}
	f.empty(t)
}

// A connection that breaks at any quarter costs no byte twice, also when netd ended meanwhile.
func TestPullGoesOnWhereItBroke(t *testing.T) {
	s, img := newShelf(), sample(t)
	s.put(t, "1", img)
	d := largest(t, img)
	for _, part := range []int64{0, 1, 2, 3} {
		f := open(t)
		clear(s.sent)
		s.cut[d.Digest] = d.Size*part/4 + part
		_, err := f.Pull(t.Context(), "app:1", s, image.PullOptions{})
		if !errors.Is(err, errBroken) {
			t.Fatalf("quarter %d: %v", part, err)
		}
		if layers, temporary := f.onDisk(t); layers+temporary > 0 {
			t.Errorf("quarter %d: %d layers and %d temporary files are left", part, layers, temporary)
		}
		again := openAt(t, f.root, f.records)
		p := again.mustPull(t, "app:1", s)
		if got := s.sent[d.Digest]; got != d.Size {
			t.Errorf("quarter %d: %d bytes were sent of a blob of %d", part, got, d.Size)
		}
		if left, err := os.ReadDir(filepath.Join(f.root, "ingest")); err != nil || len(left) > 0 {
			t.Errorf("%d fetched blobs are left, %v", len(left), err)
		}
		if _, _, err := again.Remove(t.Context(), p.ID, true, nil); err != nil {
			t.Fatal(err)
		}
		again.empty(t)
	}
}

// What was fetched earlier and is damaged on the disk is fetched anew.
func TestPullRepairs(t *testing.T) {
	s, img := newShelf(), sample(t)
	s.put(t, "1", img)
	d := largest(t, img)
	t.Run("what was fetched", func(t *testing.T) {
		f := open(t)
		if err := os.WriteFile(filepath.Join(f.root, "ingest", d.Digest.Hex), make([]byte, 1000), 0o600); err != nil {
			t.Fatal(err)
		}
		f.mustPull(t, "app:1", s)
	})
	t.Run("a blob of another size", func(t *testing.T) {
		f := open(t)
		p := f.mustPull(t, "app:1", s)
		blob := filepath.Join(f.root, "blobs", "sha256", d.Digest.Hex)
		if err := os.Truncate(blob, 10); err != nil {
			t.Fatal(err)
		}
		f.mustPull(t, "app:1", s)
		if b, err := os.ReadFile(blob); err != nil || sum(t, b) != d.Digest {
			t.Errorf("the blob is not repaired: %d bytes, %v", len(b), err)
		}
		if err := os.RemoveAll(filepath.Dir(f.LayerDirs(p.Image)[1])); err != nil {
			t.Fatal(err)
		}
		clear(s.sent)
		f.mustPull(t, "app:1", s)
		if _, err := os.Stat(f.LayerDirs(p.Image)[1]); err != nil || s.sent[d.Digest] != 0 {
			t.Errorf("a layer was to be unpacked from its blob: %v, %d bytes sent", err, s.sent[d.Digest])
		}
	})
}

func TestPullRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(tb testing.TB, s *shelf, img v1.Image)
		want  string
	}{
		"a blob that is another": {func(tb testing.TB, s *shelf, img v1.Image) {
			d := largest(tb, img)
			s.blobs[d.Digest] = append([]byte{}, s.blobs[d.Digest]...)
			s.blobs[d.Digest][d.Size/2] ^= 1
		}, "does not match its digest"},
		"a blob that is shorter": {func(tb testing.TB, s *shelf, img v1.Image) {
			d := largest(tb, img)
			s.blobs[d.Digest] = s.blobs[d.Digest][:d.Size-1]
		}, "were promised"},
		"another configuration": {func(tb testing.TB, s *shelf, img v1.Image) {
			h, err := img.ConfigName()
			if err != nil {
				tb.Fatal(err)
			}
			s.blobs[h] = bytes.ToUpper(s.blobs[h])
		}, "does not match its digest"},
		"a diff ID that lies": {func(tb testing.TB, s *shelf, img v1.Image) {
			s.put(tb, "1", lie(tb, img, func(c *v1.ConfigFile) {
				c.RootFS.DiffIDs[0], c.RootFS.DiffIDs[1] = c.RootFS.DiffIDs[1], c.RootFS.DiffIDs[0]
			}))
		}, "does not match its digest"},
		"another architecture": {func(tb testing.TB, s *shelf, img v1.Image) {
			s.put(tb, "1", lie(tb, img, func(c *v1.ConfigFile) { c.Architecture = "s390x" }))
		}, "pull it with --platform linux/s390x"},
		"an artifact": {func(tb testing.TB, s *shelf, img v1.Image) {
			s.put(tb, "1", mutate.ConfigMediaType(img, "application/vnd.cncf.helm.config.v1+json"))
		}, `is no image, but something of type "application/vnd.cncf.helm.config.v1+json"`},
		"a manifest of another type": {func(tb testing.TB, s *shelf, img v1.Image) {
			h := s.tags["1"]
			s.manifests[h] = document{types.OCIImageIndex, s.manifests[h].raw}
		}, "came as"},
		"an index that is a manifest": {func(tb testing.TB, s *shelf, img v1.Image) {
			raw := bytes.Replace(s.manifests[s.tags["1"]].raw, []byte("{"), []byte(`{"manifests":[],`), 1)
			s.tags["1"] = sum(tb, raw)
			s.manifests[s.tags["1"]] = document{types.DockerManifestSchema2, raw}
		}, "is an index too"},
		"no image for here": {func(tb testing.TB, s *shelf, img v1.Image) {
			s.put(tb, "1", mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: img,
				Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "s390x"}}}), img)
		}, "only for linux/s390x"},
		"deep indexes": {func(tb testing.TB, s *shelf, img v1.Image) {
			index := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: img})
			for range 6 {
				s.put(tb, "1", index, img)
				index = mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: index})
			}
			s.put(tb, "1", index, img)
		}, "nests indexes too deep"},
		"a layer in xz": {func(tb testing.TB, s *shelf, img v1.Image) {
			d := largest(tb, img)
			layer := run(tb, rootfs(tb), "xz", "-0", "-c")
			s.blob(tb, layer)
			raw := bytes.Replace(s.manifests[s.tags["1"]].raw, []byte(d.Digest.Hex), []byte(sum(tb, layer).Hex), 1)
			raw = bytes.Replace(raw, fmt.Append(nil, d.Size), fmt.Append(nil, len(layer)), 1)
			s.tags["1"] = sum(tb, raw)
			s.manifests[s.tags["1"]] = document{types.DockerManifestSchema2, raw}
		}, "compressed with xz"},
		"a layer of no filesystem": {func(tb testing.TB, s *shelf, img v1.Image) {
			raw := bytes.Replace(s.manifests[s.tags["1"]].raw, []byte("rootfs.diff.tar.gzip"), []byte("wasm"), 1)
			s.tags["1"] = sum(tb, raw)
			s.manifests[s.tags["1"]] = document{types.DockerManifestSchema2, raw}
		}, "which is none of a filesystem"},
	} {
		t.Run(name, func(t *testing.T) {
			s, img := newShelf(), sample(t)
			s.put(t, "1", img)
			c.spoil(t, s, img)
			f := open(t)
			_, err := f.Pull(t.Context(), "app:1", s, image.PullOptions{})
			if err == nil || !strings.Contains(err.Error(), c.want) || !errors.Is(err, cnm.ErrInvalid) {
				t.Errorf("error %v, want an ErrInvalid with %q", err, c.want)
			}
			if _, err := f.Prune(t.Context(), true, nil, nil); err != nil {
				t.Fatal(err)
			}
			f.empty(t)
		})
	}
}

// lie changes what an image says of itself, and leaves its layers as they are.
func lie(tb testing.TB, img v1.Image, change func(*v1.ConfigFile)) v1.Image {
	tb.Helper()
	c, err := img.ConfigFile()
	if err != nil {
		tb.Fatal(err)
	}
	c = c.DeepCopy()
	change(c)
	out, err := mutate.ConfigFile(img, c)
	if err != nil {
		tb.Fatal(err)
	}
	return out
}

// What an index says ends up in an error, which is one line for people.
func TestPullOfManyPlatforms(t *testing.T) {
	s, img := newShelf(), sample(t)
	var add []mutate.IndexAddendum
	for range 50 {
		add = append(add, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux",
			Architecture: strings.Repeat("é", 1000)}}})
	}
	s.put(t, "1", mutate.AppendManifests(empty.Index, add...), img)
	_, err := open(t).Pull(t.Context(), "app:1", s, image.PullOptions{})
	if !errors.Is(err, cnm.ErrInvalid) || len(err.Error()) > 1000 || !utf8.ValidString(err.Error()) {
		t.Errorf("%.2000v", err)
	}
}

func TestPullForAPlatform(t *testing.T) {
	s := newShelf()
	one, other := build(t, runtime.GOARCH, base), build(t, "s390x", mid)
	index := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: other, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux",
			Architecture: "s390x"}}},
		mutate.IndexAddendum{Add: one, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux",
			Architecture: runtime.GOARCH}}})
	h := s.put(t, "1", index, one, other)
	f := open(t)
	if p := f.mustPull(t, "app:1", s); p.ID != id(t, one) || p.Digest != h.String() {
		t.Errorf("for this host: %+v", p)
	}
	p, err := f.Pull(t.Context(), "app:1", s, image.PullOptions{Platform: "linux/s390x"})
	if err != nil || p.ID != id(t, other) {
		t.Errorf("for the other: %+v, %v", p, err)
	}
	if _, err := f.Pull(t.Context(), "app:1", s, image.PullOptions{Platform: "linux/arm"}); err == nil ||
		!strings.Contains(err.Error(), "only for linux/s390x, linux/"+runtime.GOARCH) {
		t.Errorf("for one that is not there: %v", err)
	}
	if img, err := f.Resolve(t.Context(), "app@"+h.String()); err != nil || img.ID != id(t, one) {
		t.Errorf("by the digest of both: %s, %v", img.ID, err)
	}
}

// Pulls at once fetch each blob once, whatever they have in common.
func TestPullsAtOnce(t *testing.T) {
	s := newShelf()
	shared := files{{"big", string(randomBytes(2 << 20))}}
	for n := range 6 {
		s.put(t, fmt.Sprint(n), build(t, runtime.GOARCH, base, shared, files{{fmt.Sprint("own", n), "x"}}))
		s.put(t, fmt.Sprint(n, "r"), build(t, runtime.GOARCH, shared, base))
	}
	f := open(t)
	var wg sync.WaitGroup
	for n := range 24 {
		wg.Go(func() {
			tag := fmt.Sprint(n % 6)
			if n%2 == 1 {
				tag += "r"
			}
			if _, err := f.Pull(t.Context(), "app:"+tag, s, image.PullOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for h, n := range s.sent {
		if len(s.blobs[h]) > 1<<20 && n != int64(len(s.blobs[h])) {
			t.Errorf("%d bytes were sent of a blob of %d", n, len(s.blobs[h]))
		}
	}
	if layers, temporary := f.onDisk(t); temporary > 0 || layers != 2+3 {
		t.Errorf("%d layers and %d temporary files", layers, temporary)
	}
}

// Who waits for another's pull takes over when that one is given up, or fails.
func TestPullTakesOver(t *testing.T) {
	t.Run("given up", func(t *testing.T) { takesOver(t, false) })
	t.Run("failed", func(t *testing.T) { takesOver(t, true) })
}

func takesOver(t *testing.T, fails bool) {
	s, img := newShelf(), sample(t)
	s.put(t, "1", img)
	d := largest(t, img)
	ctx, stop := context.WithCancelCause(t.Context())
	defer stop(nil)
	gaveUp := errors.New("the user has gone")
	started, fail := make(chan struct{}), make(chan struct{})
	var opens atomic.Int32
	s.opened = func(got v1.Descriptor, _ int64) error {
		if got.Digest == d.Digest && opens.Add(1) == 1 {
			close(started)
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-fail:
				return errBroken
			}
		}
		return nil
	}
	f := open(t)
	first := make(chan error, 1)
	go func() {
		_, err := f.Pull(ctx, "app:1", s, image.PullOptions{})
		first <- err
	}()
	<-started
	second := make(chan error, 1)
	waits := make(chan struct{})
	go func() {
		var once sync.Once
		_, err := f.Pull(t.Context(), "app:1", s, image.PullOptions{Report: func(p image.Progress) {
			if p.Action == image.ActionWaiting {
				once.Do(func() { close(waits) })
			}
		}})
		second <- err
	}()
	<-waits
	want := gaveUp
	if fails {
		want = errBroken
		close(fail)
	} else {
		stop(gaveUp)
	}
	if err := <-first; !errors.Is(err, want) {
		t.Errorf("the first: %v", err)
	}
	if err := <-second; err != nil {
		t.Errorf("the second: %v", err)
	}
}

// An image that cannot fit is refused before any of its layers is fetched, whatever size they claim.
func TestPullOfMoreThanFits(t *testing.T) {
	s, img := newShelf(), sample(t)
	s.put(t, "1", img)
	f := openAt(t, filepath.Join(smallDisk(t, "size=3m"), "images"), mem.New())
	refused := func() {
		t.Helper()
		_, err := f.Pull(t.Context(), "app:1", s, image.PullOptions{})
		if !errors.Is(err, cnm.ErrExhausted) || !strings.Contains(err.Error(), "its layers have more") {
			t.Errorf("got %v", err)
		}
		if got := s.sent[largest(t, img).Digest]; got != 0 {
			t.Errorf("%d bytes were sent", got)
		}
		f.empty(t)
	}
	refused()
	d := largest(t, img)
	raw := bytes.Replace(s.manifests[s.tags["1"]].raw, fmt.Append(nil, d.Size),
		fmt.Append(nil, int64(math.MaxInt64)), 1)
	s.tags["1"] = sum(t, raw)
	s.manifests[s.tags["1"]] = document{types.DockerManifestSchema2, raw}
	refused()
}

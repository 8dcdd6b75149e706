package image_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine/image"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// build makes an image of layers, for this host or another architecture.
func build(tb testing.TB, arch string, layers ...files) v1.Image {
	tb.Helper()
	img, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: "linux", Architecture: arch,
		RootFS: v1.RootFS{Type: "layers"}, Config: v1.Config{Cmd: []string{"/bin/sh"}, Env: []string{"A=" + arch}}})
	if err != nil {
		tb.Fatal(err)
	}
	for _, l := range layers {
		data := l.tar(tb)
		layer, err := tarball.LayerFromOpener(
			func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil })
		if err != nil {
			tb.Fatal(err)
		}
		if img, err = mutate.AppendLayers(img, layer); err != nil {
			tb.Fatal(err)
		}
	}
	return img
}

// id is the digest of the image's configuration.
func id(tb testing.TB, img v1.Image) string {
	tb.Helper()
	h, err := img.ConfigName()
	if err != nil {
		tb.Fatal(err)
	}
	return h.String()
}

func dockerArchive(tb testing.TB, images map[string]v1.Image) []byte {
	tb.Helper()
	tags := map[name.Tag]v1.Image{}
	for ref, img := range images {
		tag, err := name.NewTag(ref)
		if err != nil {
			tb.Fatal(err)
		}
		tags[tag] = img
	}
	var b bytes.Buffer
	if err := tarball.MultiWrite(tags, &b); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

// layoutArchive puts images into an OCI layout and that into a tar.
func layoutArchive(tb testing.TB, add func(layout.Path) error) []byte {
	tb.Helper()
	dir := tb.TempDir()
	p, err := layout.Write(dir, empty.Index)
	if err == nil {
		err = add(p)
	}
	if err != nil {
		tb.Fatal(err)
	}
	return run(tb, nil, "tar", "-C", dir, "-c", ".")
}

func named(annotation, ref string) layout.Option {
	return layout.WithAnnotations(map[string]string{annotation: ref})
}

const refName = "org.opencontainers.image.ref.name"

func (f *fixture) mustLoad(tb testing.TB, data []byte) []image.Image {
	tb.Helper()
	images, err := f.Load(tb.Context(), bytes.NewReader(data))
	if err != nil {
		tb.Fatal(err)
	}
	return images
}

var (
	base = files{{"bin/", ""}, {"bin/sh", "shell"}, {"etc/", ""}, {"etc/old", "old"}}
	mid  = files{{"etc/", ""}, {"etc/.wh.old", ""}, {"etc/new", "new"}}
)

func TestLoadDockerArchive(t *testing.T) {
	one, two := build(t, runtime.GOARCH, base, mid), build(t, runtime.GOARCH, base)
	data := dockerArchive(t, map[string]v1.Image{"one:1": one, "also:one": one, "example.org/two": two})
	for name, data := range map[string][]byte{"plain": data, "gzip": run(t, data, "gzip", "-c"),
		"xz": run(t, data, "xz", "-0", "-c")} {
		t.Run(name, func(t *testing.T) {
			f := open(t)
			got := map[string][]string{}
			for _, img := range f.mustLoad(t, data) {
				got[img.ID] = img.References
			}
			want := map[string][]string{id(t, one): {"also:one", "one:1"}, id(t, two): {"example.org/two:latest"}}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
			img, err := f.Resolve(t.Context(), "one:1")
			if err != nil {
				t.Fatal(err)
			}
			// What it is called besides is not what the archive says.
			if err := f.Tag(t.Context(), "one:1", "besides:1"); err != nil {
				t.Fatal(err)
			}
			for _, img := range f.mustLoad(t, data) {
				if diff := cmp.Diff(want[img.ID], img.References); diff != "" {
					t.Error(diff)
				}
			}
			if img.Size != int64(len("shell")+len("old")+len("new")) || img.Config.Env[0] != "A="+runtime.GOARCH {
				t.Errorf("image = %+v", img)
			}
			dirs := f.LayerDirs(img)
			if _, err := os.Stat(filepath.Join(dirs[0], "etc/old")); err != nil {
				t.Error(err)
			}
			if st, err := os.Lstat(filepath.Join(dirs[1], "etc/old")); err != nil || st.Mode()&os.ModeCharDevice == 0 {
				t.Errorf("no whiteout: %v, %v", st, err)
			}
			if layers, temporary := f.onDisk(t); layers != 2 || temporary != 0 {
				t.Errorf("%d layers and %d temporary files, want 2 and 0", layers, temporary)
			}
		})
	}
}

// What an image says and nobody here understands is kept, to be shown and saved.
func TestConfigurationIsKeptWhole(t *testing.T) {
	img, err := mutate.Config(build(t, runtime.GOARCH, base), v1.Config{Cmd: []string{"/bin/sh"},
		Healthcheck: &v1.HealthConfig{Test: []string{"CMD", "true"}, Interval: 30e9}, OnBuild: []string{"RUN x"},
		Shell: []string{"/bin/ash", "-c"}})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := img.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	raw = bytes.Replace(raw, []byte(`{`), []byte(`{"x-unknown":[1.50],`), 1)
	archive := files{{"c.json", string(raw)}, {"l.tar", string(base.tar(t))},
		{"manifest.json", `[{"Config":"c.json","RepoTags":["app:1"],"Layers":["l.tar"]}]`}}.tar(t)
	f := open(t)
	f.mustLoad(t, archive)
	for _, s := range []*fixture{f, openAt(t, f.root, f.records)} {
		got, err := s.Resolve(t.Context(), "app:1")
		if err != nil || !bytes.Equal(got.Raw, raw) {
			t.Errorf("%s, %v, want %s", got.Raw, err, raw)
		}
		if want := `{"Test":["CMD","true"],"Interval":30000000000}`; string(got.Healthcheck) != want {
			t.Errorf("health check %s, want %s", got.Healthcheck, want)
		}
	}
}

func TestLoadLayout(t *testing.T) {
	other := "s390x"
	here, there := build(t, runtime.GOARCH, base, mid), build(t, other, base)
	for _, c := range []struct {
		name string
		add  func(layout.Path) error
		want map[string][]string
	}{
		{"by name", func(p layout.Path) error { return p.AppendImage(here, named(refName, "app:1")) },
			map[string][]string{id(t, here): {"app:1"}}},
		{"by containerd's name", func(p layout.Path) error {
			return p.AppendImage(here, layout.WithAnnotations(
				map[string]string{"io.containerd.image.name": "docker.io/library/app:2", refName: "2"}))
		}, map[string][]string{id(t, here): {"app:2"}}},
		{"a tag alone is no name", func(p layout.Path) error { return p.AppendImage(here, named(refName, "latest")) },
			map[string][]string{id(t, here): nil}},
		{"several", func(p layout.Path) error {
			return errors.Join(p.AppendImage(here, named(refName, "a:1")), p.AppendImage(there, named(refName, "b:1")))
		}, map[string][]string{id(t, here): {"a:1"}, id(t, there): {"b:1"}}},
		{"several platforms", func(p layout.Path) error {
			index := mutate.AppendManifests(empty.Index,
				mutate.IndexAddendum{Add: there,
					Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: other}}},
				mutate.IndexAddendum{Add: build(t, "unknown"),
					Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "unknown", Architecture: "unknown"}}},
				mutate.IndexAddendum{Add: here,
					Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: runtime.GOARCH}}})
			return p.AppendIndex(index, named(refName, "multi:1"))
		}, map[string][]string{id(t, here): {"multi:1"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := open(t)
			got := map[string][]string{}
			for _, img := range f.mustLoad(t, layoutArchive(t, c.add)) {
				got[img.ID] = img.References
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// What another tool makes of our test image is real input.
func TestLoadWhatSkopeoWrites(t *testing.T) {
	img := build(t, runtime.GOARCH, base, mid, files{{"big", string(randomBytes(1 << 20))}})
	dir := t.TempDir()
	source := filepath.Join(dir, "source.tar")
	if err := os.WriteFile(source, dockerArchive(t, map[string]v1.Image{"app:1": img}), 0o600); err != nil {
		t.Fatal(err)
	}
	for i, c := range []struct{ target, compression string }{
		{"docker-archive:%s:app:2", "gzip"},
		{"docker-archive:%s:example.org/x/app:2", "gzip"},
		{"oci-archive:%s:app:2", "gzip"},
		{"oci-archive:%s:app:2", "zstd"},
		{"oci-archive:%s:docker.io/library/app:2", "gzip"},
	} {
		t.Run(strings.ReplaceAll(c.target, "%s", c.compression), func(t *testing.T) {
			out := filepath.Join(dir, fmt.Sprintf("%d.tar", i))
			run(t, nil, "skopeo", "--insecure-policy", "copy", "-q", "--dest-compress-format", c.compression,
				"docker-archive:"+source, fmt.Sprintf(c.target, out))
			data, err := os.ReadFile(out)
			if err != nil {
				t.Fatal(err)
			}
			f := open(t)
			got := f.mustLoad(t, data)
			if len(got) != 1 || len(got[0].References) != 1 || !strings.HasSuffix(got[0].References[0], "app:2") ||
				len(got[0].Layers) != 3 {
				t.Fatalf("loaded %+v", got)
			}
			for i, dir := range f.LayerDirs(got[0]) {
				if entries, err := os.ReadDir(dir); err != nil || len(entries) == 0 {
					t.Errorf("layer %d: %v, %v", i, entries, err)
				}
			}
		})
	}
}

// edit rewrites a tar's files; a nil body drops one.
func edit(t *testing.T, data []byte, change func(name string, body []byte) []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	r, w := tar.NewReader(bytes.NewReader(data)), tar.NewWriter(&b)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if body = change(h.Name, body); body == nil {
			continue
		}
		h.Size = int64(len(body))
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestLoadRefuses(t *testing.T) {
	img := build(t, runtime.GOARCH, base, mid)
	good := dockerArchive(t, map[string]v1.Image{"app:1": img})
	oci := layoutArchive(t, func(p layout.Path) error { return p.AppendImage(img, named(refName, "app:1")) })
	other := layoutArchive(t, func(p layout.Path) error {
		return p.AppendIndex(mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: img,
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "s390x"}}}))
	})
	isLayer := func(name string) bool { return strings.HasSuffix(name, ".tar.gz") }
	isConfig := func(name string) bool { return strings.HasPrefix(name, "sha256:") }
	config, err := img.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	hostile := func(l files) []byte {
		return dockerArchive(t, map[string]v1.Image{"bad:1": build(t, runtime.GOARCH, l)})
	}
	for _, c := range []struct {
		name string
		data []byte
		want string
	}{
		{"text", []byte("hello"), `is not a tar archive: it starts with "hello" and looks like text/plain; name what ` +
			`'net save',`},
		{"no text", []byte("\x7fELF" + strings.Repeat(" ", 600)), `it is an ELF executable; name what 'net save',`},
		{"nothing", nil, "is empty"},
		{"root filesystem", rootfs(t), "net import"},
		{"truncated", good[:700], "truncated"},
		{"truncated gzip", run(t, good, "gzip", "-c")[:200], "truncated"},
		{"no images", files{{"manifest.json", "[]"}}.tar(t), "holds no image"},
		{"bad manifest", files{{"manifest.json", "{"}}.tar(t), "manifest.json that cannot be parsed"},
		{"bad index", files{{"index.json", "{"}}.tar(t), "index that cannot be parsed"},
		{"layer missing", edit(t, good, func(n string, b []byte) []byte {
			if isLayer(n) {
				return nil
			}
			return b
		}), "lacks the file"},
		{"layer swapped", edit(t, good, func(n string, b []byte) []byte {
			if isLayer(n) {
				return files{{"other", "layer"}}.tar(t)
			}
			return b
		}), "does not match its digest"},
		{"configuration changed", edit(t, good, func(n string, b []byte) []byte {
			if isConfig(n) {
				return bytes.ReplaceAll(b, []byte("/bin/sh"), []byte("/bin/no"))
			}
			return b
		}), "digest"},
		{"OCI blob changed", edit(t, oci, func(n string, b []byte) []byte {
			if bytes.Equal(b, config) {
				return bytes.ReplaceAll(b, []byte("/bin/sh"), []byte("/bin/no"))
			}
			return b
		}), "does not match its digest"},
		{"layers do not add up", edit(t, good, func(n string, b []byte) []byte {
			if n != "manifest.json" {
				return b
			}
			var m tarball.Manifest
			if err := json.Unmarshal(b, &m); err != nil {
				t.Fatal(err)
			}
			m[0].Layers = m[0].Layers[:1]
			out, err := json.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			return out
		}), "2 layers and its manifest 1"},
		{"another platform", other, "only for linux/s390x"},
		{"climbing in a layer", hostile(files{{"../../escape", "x"}}), "'..'"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := open(t)
			_, err := f.Load(t.Context(), bytes.NewReader(c.data))
			if err == nil || !strings.Contains(err.Error(), c.want) || !errors.Is(err, cnm.ErrInvalid) {
				t.Errorf("error %v, want an ErrInvalid with %q", err, c.want)
			}
			f.empty(t)
		})
	}
}

func TestLoadsAtOnce(t *testing.T) {
	f := open(t)
	common := files{{"common", string(randomBytes(2 << 20))}}
	var archives [][]byte
	for i := range 6 {
		archives = append(archives,
			dockerArchive(t, map[string]v1.Image{fmt.Sprintf("app:%d", i): build(t, runtime.GOARCH, common,
				files{{fmt.Sprint(i), "own"}})}))
	}
	errs := make([]error, len(archives))
	var wg sync.WaitGroup
	for i, data := range archives {
		wg.Go(func() {
			_, errs[i] = f.Load(t.Context(), bytes.NewReader(data))
			if errs[i] == nil && i%2 == 0 {
				_, _, errs[i] = f.Remove(t.Context(), fmt.Sprintf("app:%d", i), false, nil)
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	if layers, temporary := f.onDisk(t); layers != 4 || temporary != 0 {
		t.Errorf("%d layers and %d temporary files, want 4 and 0", layers, temporary)
	}
}

func TestLayerTwiceInAnImage(t *testing.T) {
	f := open(t)
	img := f.mustLoad(t, dockerArchive(t, map[string]v1.Image{"app": build(t, runtime.GOARCH, mid, base, mid)}))[0]
	dirs := f.LayerDirs(img)
	if len(img.Layers) != 3 || len(dirs) != 2 {
		t.Fatalf("layers %v in directories %v, want 3 in 2", img.Layers, dirs)
	}
	if !strings.Contains(dirs[1], strings.TrimPrefix(img.Layers[2], "sha256:")) {
		t.Error("the layer is not where it is highest")
	}
}

package image_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine/image"
	"github.com/vethloom/vethloom/internal/store/mem"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// smallDisk is a filesystem of its own.
func smallDisk(t *testing.T, options string) string {
	t.Helper()
	small := t.TempDir()
	if err := unix.Mount("tmpfs", small, "tmpfs", 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(small, 0); err != nil { // fails if a descriptor leaked
			t.Error(err)
		}
	})
	return small
}

// numbered makes n texts, of which none is like another.
func numbered(n int, format string) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf(format, i)
	}
	return out
}

func set(texts []string) map[string]struct{} {
	out := map[string]struct{}{}
	for _, t := range texts {
		out[t] = struct{}{}
	}
	return out
}

// saved is a docker archive, good but for what is changed of it. Each image has the one layer.
func saved(t *testing.T, images int, edit func(c *v1.ConfigFile, d *tarball.Descriptor)) []byte {
	t.Helper()
	layer := base.tar(t)
	h, _, err := v1.SHA256(bytes.NewReader(layer))
	if err != nil {
		t.Fatal(err)
	}
	c := &v1.ConfigFile{OS: "linux", Architecture: runtime.GOARCH, RootFS: v1.RootFS{Type: "layers",
		DiffIDs: []v1.Hash{h}}}
	d := tarball.Descriptor{Config: "c.json", RepoTags: []string{"app:1"}, Layers: []string{"l.tar"}}
	edit(c, &d)
	config, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := json.Marshal(slices.Repeat(tarball.Manifest{d}, images))
	if err != nil {
		t.Fatal(err)
	}
	return files{{"c.json", string(config)}, {"l.tar", string(layer)}, {"manifest.json", string(manifest)}}.tar(t)
}

func TestLoadRefusesWithoutBound(t *testing.T) {
	type change = func(c *v1.ConfigFile, d *tarball.Descriptor)
	config := func(edit func(c *v1.Config)) change {
		return func(c *v1.ConfigFile, _ *tarball.Descriptor) { edit(&c.Config) }
	}
	labels := func(n int, value string) map[string]string {
		return maps.Collect(func(yield func(string, string) bool) {
			for _, k := range numbered(n, "k%d") {
				if !yield(k, value) {
					return
				}
			}
		})
	}
	for name, c := range map[string]struct {
		images int
		change change
		want   string
	}{
		"images": {1001, func(_ *v1.ConfigFile, d *tarball.Descriptor) { d.RepoTags = nil },
			"1001 images, and the limit is 1000"},
		"tags": {1, func(_ *v1.ConfigFile, d *tarball.Descriptor) { d.RepoTags = numbered(20000, "a:%d") },
			"20000 names of images"},
		"tags of all": {3, func(_ *v1.ConfigFile, d *tarball.Descriptor) { d.RepoTags = numbered(400, "a:%d") },
			"1200 names of images"},
		"a tag": {1, func(_ *v1.ConfigFile, d *tarball.Descriptor) { d.RepoTags = []string{strings.Repeat("x", 9999)} },
			"9999 bytes"},
		"layers": {1, func(_ *v1.ConfigFile, d *tarball.Descriptor) { d.Layers = slices.Repeat(d.Layers, 500) },
			"500 layers, and the limit is 499"},
		"variables": {1, config(func(c *v1.Config) { c.Env = numbered(4097, "A%d=") }),
			"4097 environment variables"},
		"a variable": {1, config(func(c *v1.Config) { c.Env = []string{strings.Repeat("x", 1<<18)} }),
			"bytes of environment"},
		"labels": {1, config(func(c *v1.Config) { c.Labels = labels(4097, "") }),
			"4097 labels"},
		"a label": {1, config(func(c *v1.Config) { c.Labels = labels(1, strings.Repeat("x", 1<<18)) }),
			"bytes of labels"},
		"command": {1, config(func(c *v1.Config) { c.Cmd = numbered(4097, "%d") }),
			"4097 words in its command"},
		"entrypoint": {1, config(func(c *v1.Config) { c.Entrypoint = numbered(4097, "%d") }),
			"4097 words in its entry"},
		"ports": {1, config(func(c *v1.Config) { c.ExposedPorts = set(numbered(196609, "%x")) }),
			"bytes, and the limit is 1048576"},
		"a port": {1, config(func(c *v1.Config) { c.ExposedPorts = set(numbered(1, strings.Repeat("1", 5000)+"%d")) }),
			"the name of a port"},
		"volumes": {1, config(func(c *v1.Config) { c.Volumes = set(numbered(129, "/%d")) }),
			"129 volumes, and the limit is 128"},
		"user": {1, config(func(c *v1.Config) { c.User = strings.Repeat("x", 5000) }),
			"a user"},
		"configuration": {1, func(c *v1.ConfigFile, _ *tarball.Descriptor) { c.Author = strings.Repeat("x", 1<<20) },
			"and the limit is 1048576"},
		"in all": {70, func(c *v1.ConfigFile, d *tarball.Descriptor) {
			c.Author, d.RepoTags = strings.Repeat("x", 1<<20-1000), nil
		}, "bytes of configurations in all, and the limit is 67108864"},
	} {
		t.Run(name, func(t *testing.T) {
			f := open(t)
			_, err := f.Load(t.Context(), bytes.NewReader(saved(t, c.images, c.change)))
			if err == nil || !strings.Contains(err.Error(), c.want) || !errors.Is(err, cnm.ErrInvalid) {
				t.Errorf("error %v, want an ErrInvalid with %q", err, c.want)
			}
			if err != nil && len(err.Error()) > 500 {
				t.Errorf("the error has %d bytes", len(err.Error()))
			}
			f.empty(t)
		})
	}
}

func TestLoadRefusesALayoutWithoutBound(t *testing.T) {
	many := layoutArchive(t, func(p layout.Path) error {
		img := build(t, runtime.GOARCH, slices.Repeat([]files{base, mid}, 250)...)
		return p.AppendImage(img, named(refName, "app:1"))
	})
	entry := `{"mediaType":"application/vnd.oci.image.manifest.v1+json","size":1,"digest":"sha256:` +
		strings.Repeat("0", 64) + `"}`
	index := `{"schemaVersion":2,"manifests":[` + strings.Repeat(entry+",", 1000) + entry + `]}`
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"layers": {many, "500 layers, and the limit is 499"},
		"images": {files{{"index.json", index}}.tar(t), "1001 images in an index, and the limit is 1000"},
		"annotations": {files{{"index.json", `{"annotations":{"a":"` + strings.Repeat("x", 5<<20) + `"}}`}}.tar(t),
			"and the limit is 4194304"},
		"a name": {files{{"index.json", "{}"}, {strings.Repeat("x/", 3000) + "x", "x"}}.tar(t),
			"bytes in the name of a file"},
	} {
		t.Run(name, func(t *testing.T) {
			f := open(t)
			_, err := f.Load(t.Context(), bytes.NewReader(c.data))
			if err == nil || !strings.Contains(err.Error(), c.want) || !errors.Is(err, cnm.ErrInvalid) {
				t.Errorf("error %v, want an ErrInvalid with %q", err, c.want)
			}
			f.empty(t)
		})
	}
}

// One bad image among good ones is found before the good ones are brought in.
func TestLoadChecksAllBeforeTheFirst(t *testing.T) {
	good := saved(t, 1, func(*v1.ConfigFile, *tarball.Descriptor) {})
	bad := edit(t, good, func(n string, b []byte) []byte {
		if n != "manifest.json" {
			return b
		}
		return []byte(strings.TrimSuffix(string(b), "]") + `,{"Config":"c.json","Layers":["l.tar","l.tar"]}]`)
	})
	f := open(t)
	if _, err := f.Load(t.Context(), bytes.NewReader(bad)); !errors.Is(err, cnm.ErrInvalid) {
		t.Errorf("got %v", err)
	}
	f.empty(t)
}

func TestAnImageHasABoundOfNames(t *testing.T) {
	f := open(t)
	first := saved(t, 1, func(_ *v1.ConfigFile, d *tarball.Descriptor) { d.RepoTags = numbered(1000, "a:%d") })
	f.mustLoad(t, first)
	f.mustLoad(t, first) // the same once more are no more
	other := saved(t, 1, func(_ *v1.ConfigFile, d *tarball.Descriptor) { d.RepoTags = []string{"b:1"} })
	_, err := f.Load(t.Context(), bytes.NewReader(other))
	for _, err := range []error{err, f.Tag(t.Context(), "a:1", "b:1")} {
		if !errors.Is(err, cnm.ErrExhausted) || !strings.Contains(err.Error(), "1000 names, which is the limit") {
			t.Errorf("one name more: %v", err)
		}
	}
}

func TestImportRefusesWithoutBound(t *testing.T) {
	f := open(t)
	_, err := f.Import(t.Context(), bytes.NewReader(rootfs(t)),
		image.ImportOptions{Changes: []string{"VOLUME " + strings.Join(numbered(129, "/%d"), " ")}})
	if !errors.Is(err, cnm.ErrInvalid) || !strings.Contains(err.Error(), "129 volumes, and the limit is 128") {
		t.Errorf("got %v", err)
	}
	f.empty(t)
}

// An archive takes no more of the filesystem than leaves netd room for its records.
func TestLoadLeavesRoomForRecords(t *testing.T) {
	data := files{{"a", string(randomBytes(30 << 20))}, {"b", string(randomBytes(33 << 20))}}.tar(t)
	for name, bring := range map[string]func(*fixture) error{
		"import": func(f *fixture) error {
			_, err := f.Import(t.Context(), bytes.NewReader(data), image.ImportOptions{Reference: "a"})
			return err
		},
		"load": func(f *fixture) error {
			_, err := f.Load(t.Context(), bytes.NewReader(data))
			return err
		},
	} {
		size := "size=64m"
		if name == "import" {
			size = "size=128m" // of the layer and its blob
		}
		f := openAt(t, filepath.Join(smallDisk(t, size), "images"), mem.New())
		if err := bring(f); !errors.Is(err, cnm.ErrExhausted) ||
			!strings.Contains(err.Error(), "left for netd's records") {
			t.Errorf("%s: %v", name, err)
		}
		f.empty(t)
	}
}

// What decompresses to more and more of what is not kept fills no disk: it ends all the same.
func TestEndlessDataEnds(t *testing.T) {
	small := smallDisk(t, "size=32m")
	zeros := run(t, nil, "sh", "-c", "head -c 1200000000 /dev/zero | zstd -1 -c")
	bomb := append(run(t, rootfs(t), "zstd", "-c"), zeros...)
	f := openAt(t, filepath.Join(small, "images"), mem.New())
	_, err := f.Import(t.Context(), bytes.NewReader(bomb), image.ImportOptions{Reference: "bomb"})
	if !errors.Is(err, cnm.ErrExhausted) || !strings.Contains(err.Error(), "decompresses to more than") {
		t.Errorf("got %v", err)
	}
	f.empty(t)
}

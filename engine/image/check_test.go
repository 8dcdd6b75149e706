package image_test

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine/image"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

func (f *fixture) check(tb testing.TB, repair bool, running ...string) (out []image.Damage) {
	tb.Helper()
	_, err := f.Check(tb.Context(), image.CheckOptions{Repair: repair,
		Running: func(string) []string { return running },
		Found:   func(d image.Damage) error { out = append(out, d); return nil }})
	if err != nil {
		tb.Fatal(err)
	}
	if _, temporary := f.onDisk(tb); temporary > 0 {
		tb.Errorf("%d temporary files are left", temporary)
	}
	return out
}

// stacked is a store with an image whose upper layer needs the lower one, and an imported one.
func stacked(t *testing.T) (*fixture, *shelf, v1.Image) {
	t.Helper()
	s := newShelf()
	img := build(t, runtime.GOARCH, base, files{{"etc/deep/new", "new"}, {"big", string(randomBytes(1 << 20))}}, mid)
	s.put(t, "1", img)
	f := open(t)
	f.mustPull(t, "app:1", s)
	f.mustImport(t, rootfs(t), image.ImportOptions{Reference: "mine"})
	return f, s, img
}

func TestCheckFindsNothing(t *testing.T) {
	f, _, _ := stacked(t)
	if found := f.check(t, true); len(found) > 0 {
		t.Errorf("found %+v", found)
	}
	done, err := f.Check(t.Context(), image.CheckOptions{})
	if err != nil || done.Images != 2 || done.Layers != 4 || done.Blobs != 8 || done.Bytes < 1<<20 {
		t.Errorf("checked %+v, %v", done, err)
	}
}

func TestCheckOfLayers(t *testing.T) {
	for what, damage := range map[string]func(t *testing.T, layer string) error{
		"content": func(t *testing.T, layer string) error {
			file := filepath.Join(layer, "fs/bin/sh")
			st, err := os.Stat(file)
			if err != nil {
				t.Fatal(err)
			}
			return errors.Join(os.WriteFile(file, []byte("SHELL"), 0o755), os.Chtimes(file, time.Time{}, st.ModTime()))
		},
		"size":    func(_ *testing.T, layer string) error { return os.Truncate(filepath.Join(layer, "fs/bin/sh"), 2) },
		"mode":    func(_ *testing.T, layer string) error { return os.Chmod(filepath.Join(layer, "fs/bin/sh"), 0o700) },
		"owner":   func(_ *testing.T, layer string) error { return os.Chown(filepath.Join(layer, "fs/bin"), 1, 0) },
		"lacks":   func(_ *testing.T, layer string) error { return os.Remove(filepath.Join(layer, "fs/etc/old")) },
		"besides": func(_ *testing.T, layer string) error { return os.Mkdir(filepath.Join(layer, "fs/zzz"), 0o755) },
		"is not there": func(_ *testing.T, layer string) error {
			return os.RemoveAll(layer)
		},
		"what is known of it": func(_ *testing.T, layer string) error {
			return os.Remove(filepath.Join(layer, "layer.json"))
		},
	} {
		t.Run(what, func(t *testing.T) {
			f, _, img := stacked(t)
			m, err := img.ConfigFile()
			if err != nil {
				t.Fatal(err)
			}
			lowest := m.RootFS.DiffIDs[0]
			if err := damage(t, filepath.Join(f.root, "layers", lowest.Hex)); err != nil {
				t.Fatal(err)
			}
			expect := func(found []image.Damage, repaired bool, remedy string) {
				t.Helper()
				if len(found) != 1 || found[0].Object != "layer "+lowest.String() ||
					!strings.Contains(found[0].Problem, what) || !slices.Equal(found[0].Images, []string{"app:1"}) ||
					found[0].Repaired != repaired || !strings.Contains(found[0].Remedy, remedy) {
					t.Fatalf("found %+v, want one of %s, %q, repaired %v, with %q", found, lowest, what,
						repaired, remedy)
				}
			}
			expect(f.check(t, false), false, "--repair")
			expect(f.check(t, true, "web"), false, "container web runs on it")
			expect(f.check(t, true), true, "")
			if found := f.check(t, true); len(found) > 0 {
				t.Errorf("after the repair: %+v", found)
			}
		})
	}
}

// What no blob is left for is told with what to pull, and a pull puts it right.
func TestCheckOfBlobs(t *testing.T) {
	f, s, img := stacked(t)
	big := largest(t, img).Digest
	file := filepath.Join(f.root, "blobs/sha256", big.Hex)
	flip(t, file)
	found := f.check(t, false)
	if len(found) != 1 || found[0].Object != "blob "+big.String() || found[0].Repaired ||
		!strings.Contains(found[0].Remedy, "net pull app:1") {
		t.Fatalf("found %+v", found)
	}
	layers, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range layers.RootFS.DiffIDs {
		if err := os.RemoveAll(filepath.Join(f.root, "layers", d.Hex, "fs")); err != nil {
			t.Fatal(err)
		}
	}
	held, err := f.Resolve(t.Context(), "app:1")
	if err != nil {
		t.Fatal(err)
	}
	err = f.CheckLayers(held)
	if !errors.Is(err, cnm.ErrUnavailable) || !strings.Contains(err.Error(), "net pull app:1") {
		t.Errorf("a start says %v", err)
	}
	if found = f.check(t, true); len(found) < 2 {
		t.Fatalf("found %+v", found)
	}
	if _, err := os.Lstat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the damaged blob is where it was: %v", err)
	}
	f.mustPull(t, "app:1", s)
	if found = f.check(t, false); len(found) > 0 {
		t.Errorf("after the pull: %+v", found)
	}
	if err := f.CheckLayers(held); err != nil {
		t.Error(err)
	}
}

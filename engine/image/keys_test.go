package image_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/engine/image"
)

// needy is a layer that leaves its directory to the one below.
var needy = files{{"etc/upper", "2"}}

// What containers run on stays where it is when the image comes in again, though an earlier version has put one of its
// layers where it would be looked for first.
func TestLayersStayUnderTheirImage(t *testing.T) {
	s := newShelf()
	s.put(t, "1", build(t, runtime.GOARCH, base, needy))
	f := open(t)
	dirs := f.LayerDirs(f.mustPull(t, "app:1", s).Image)
	imported := f.mustImport(t, needy.tar(t), image.ImportOptions{Reference: "mine:1"})
	// Needs were not written down of what was imported.
	file := filepath.Join(f.root, "layers", strings.TrimPrefix(imported.Layers[0], "sha256:"), "layer.json")
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	info := decode[map[string]any](t, raw)
	delete(info, "needs")
	if raw, err = json.Marshal(info); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	f.mustPull(t, "app:1", s)
	if _, _, err := f.Remove(t.Context(), "mine:1", false, nil); err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		if _, err := os.Stat(filepath.Join(dir, "etc")); err != nil {
			t.Errorf("a layer of app:1 is gone: %v", err)
		}
	}
	f.mustPull(t, "app:1", s)
	if found := f.check(t, false); len(found) > 0 {
		t.Errorf("found %+v", found)
	}
}

// A root filesystem that is imported is unpacked as the layer that it is to those who get its image.
func TestImportIsALayer(t *testing.T) {
	f := open(t)
	f.mustImport(t, needy.tar(t), image.ImportOptions{Reference: "mine:1"})
	f.mustImport(t, run(t, nil, "sh", "-c", `cd "$0" && mkdir dev && mknod dev/null c 1 3 && tar -c dev`, t.TempDir()),
		image.ImportOptions{Reference: "mine:2"})
	if found := f.check(t, false); len(found) > 0 {
		t.Errorf("found %+v", found)
	}
	s := newShelf()
	s.put(t, "1", build(t, runtime.GOARCH, files{{"etc/", ""}}, needy))
	dirs := f.LayerDirs(f.mustPull(t, "app:1", s).Image)
	lower, err := os.Stat(filepath.Join(dirs[0], "etc"))
	if err != nil {
		t.Fatal(err)
	}
	upper, err := os.Stat(filepath.Join(dirs[1], "etc"))
	if err != nil || !upper.ModTime().Equal(lower.ModTime()) || upper.Mode() != lower.Mode() {
		t.Errorf("the directory of a layer that was imported before: %v, want %v: %v", upper, lower, err)
	}
}

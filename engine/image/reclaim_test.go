package image_test

import (
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/engine/image"
	"github.com/vethloom/vethloom/internal/store/mem"
)

// What nobody needs goes when there is little space, the least missed first; and never what has a name.
func TestReclaim(t *testing.T) {
	f := openAt(t, filepath.Join(smallDisk(t, "size=256m"), "images"), mem.New())
	layer := func() []byte { return files{{"a", string(randomBytes(8 << 20))}}.tar(t) }
	named := f.mustImport(t, layer(), image.ImportOptions{Reference: "named"})
	used := f.mustImport(t, layer(), image.ImportOptions{})
	dangling := f.mustImport(t, layer(), image.ImportOptions{})
	left := filepath.Join(f.root, "ingest", strings.Repeat("0", 64))
	if err := os.WriteFile(left, randomBytes(8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	inUse := func(id string) []string {
		if id == used.ID {
			return []string{"web"}
		}
		return nil
	}
	reclaim := func(leftovers bool, mark func(total int64) int64) image.Reclaimed {
		t.Helper()
		r, err := f.Reclaim(t.Context(), mark, leftovers, inUse)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if r := reclaim(true, func(int64) int64 { return 0 }); r.Freed != 0 {
		t.Errorf("freed %+v, though it is never low", r)
	}
	u, err := f.DiskUsage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// 256 MB less what is there: enough when the image without a name is gone.
	enough := int64(256<<20) - u.Total - u.Leftovers + 4<<20
	if r := reclaim(true, func(int64) int64 { return enough }); !slices.Contains(r.Deleted, dangling.ID) ||
		r.Freed < 8<<20 {
		t.Errorf("freed %+v, want %s", r, dangling.ID)
	}
	always := func(int64) int64 { return math.MaxInt64 }
	if r := reclaim(false, always); r.Freed != 0 {
		t.Errorf("freed %+v, though the next pull may go on from what is left", r)
	}
	if _, err := os.Lstat(left); err != nil {
		t.Error(err)
	}
	if r := reclaim(true, always); r.Freed < 8<<20 || len(r.Deleted) > 0 {
		t.Errorf("freed %+v, want the leftovers alone", r)
	}
	var got []string
	list, err := f.List(t.Context())
	for _, i := range list {
		got = append(got, i.ID)
	}
	slices.Sort(got)
	want := []string{named.ID, used.ID}
	if slices.Sort(want); err != nil || !slices.Equal(got, want) {
		t.Errorf("left are %v, want %v: %v", got, want, err)
	}
}

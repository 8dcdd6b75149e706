package unpack_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/engine/image/unpack"
)

// stack unpacks layers, bottom first, and completes each with those below it. Needs go through JSON, as in records.
func stack(t *testing.T, layers ...[]entry) ([]string, []unpack.Needs, error) {
	t.Helper()
	top := t.TempDir()
	var dirs []string
	var needs []unpack.Needs
	for i, entries := range layers {
		dir := filepath.Join(top, fmt.Sprint(i))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		res, err := unpack.Unpack(t.Context(), dir, bytes.NewReader(archive(t, entries...)), layer)
		if err != nil {
			return dirs, needs, err
		}
		b, err := json.Marshal(res.Needs)
		if err != nil {
			t.Fatal(err)
		}
		var read unpack.Needs
		if err := json.Unmarshal(b, &read); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(res.Needs, read); diff != "" {
			t.Errorf("what is needed changed in JSON: %s", diff)
		}
		for range 2 { // the second time changes nothing
			if err := unpack.Complete(t.Context(), dir, read, dirs); err != nil {
				return dirs, needs, err
			}
		}
		dirs, needs = append(dirs, dir), append(needs, read)
	}
	return dirs, needs, nil
}

func owned(e entry, mode int64, uid int, when time.Time) entry {
	e.Mode, e.Uid, e.Gid, e.ModTime, e.AccessTime, e.Format = mode, uid, uid, when, when, tar.FormatPAX
	return e
}

// describe is a directory's mode, owner and time.
func describe(t *testing.T, path string) string {
	t.Helper()
	st := stat(t, path)
	return fmt.Sprintf("%o %d:%d %d.%09d", st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec)
}

func TestCompleteParents(t *testing.T) {
	early, late := time.Unix(1e9, 123456789), time.Unix(1.1e9, 987654321)
	odd := "odd-\xff\xfe\"\n"
	bottom := []entry{
		owned(dir("a"), 0o2770, 7, early), owned(dir("a/b"), 0o1777, 8, early).with(func(h *tar.Header) {
			h.PAXRecords = map[string]string{"SCHILY.xattr.user.x": "below"}
		}),
		owned(dir("usr"), 0o755, 0, early), owned(dir("usr/lib"), 0o711, 9, early), symlink("lib", "usr/lib"),
		owned(dir("gone"), 0o700, 9, early), owned(dir("hid"), 0o700, 9, early), owned(dir("hid/in"), 0o700, 9, early),
		owned(dir(odd), 0o700, 10, early), symlink("loop", "loop"), file("plain", "x"),
		owned(dir("named"), 0o700, 9, early), owned(dir("opq"), 0o700, 9, early), owned(dir("opq/in"), 0o700, 9, early),
	}
	middle := []entry{
		file(".wh.gone", ""), owned(dir("hid"), 0o750, 3, late), file("hid/.wh..wh..opq", ""),
		file("a/beside", "x"), // says nothing of a
	}
	top := []entry{
		owned(file("a/b/c/file", "x"), 0o644, 0, late), file("lib/x", "x"),
		file("gone/x", "x"), file("hid/in/x", "x"), file(odd+"/x", "x"), file("loop/x", "x"), file("plain/x", "x"),
		file("named/x", "x"), owned(dir("named"), 0o777, 1, late),
		file("replaced/x", "x"), file("replaced", "x"),
		owned(file("new/x", "x"), 0o644, 0, late),
		owned(dir("opq"), 0o755, 2, late), file("opq/.wh..wh..opq", ""), file("opq/in/x", "x"),
		file(".wh.later", ""), file("later/x", "x"),
	}
	dirs, needs, err := stack(t, bottom, middle, top)
	if err != nil {
		t.Fatal(err)
	}
	want := unpack.Needs{Parents: []string{"a", "a/b", "a/b/c", "gone", "hid", "hid/in", "lib", "loop", "new", odd,
		"opq/in", "plain"}}
	if diff := cmp.Diff(want, needs[2]); diff != "" {
		t.Error(diff)
	}
	in := func(name string) string { return filepath.Join(dirs[2], name) }
	const plain = "40755 0:0 981173106.000000000" // the entry's own time
	for name, want := range map[string]string{
		"a": "42770 7:7 1000000000.123456789", "a/b": "41777 8:8 1000000000.123456789",
		"a/b/c": "40755 0:0 1100000000.987654321", "new": "40755 0:0 1100000000.987654321",
		"lib": "40711 9:9 1000000000.123456789", "gone": plain,
		"hid": "40750 3:3 1100000000.987654321", "hid/in": plain,
		odd: "40700 10:10 1000000000.123456789", "loop": plain, "plain": plain,
		"named": "40777 1:1 1100000000.987654321", "opq/in": plain, "later": plain,
	} {
		if got := describe(t, in(name)); got != want {
			t.Errorf("%q is %s, want %s", name, got, want)
		}
	}
	if got := describe(t, filepath.Join(dirs[1], "a")); got != "42770 7:7 1000000000.123456789" {
		t.Errorf("in the layer between, a is %s", got)
	}
	if got := xattr(t, in("a/b"), "user.x"); got != "below" {
		t.Errorf("attribute: %q", got)
	}
	if got := xattr(t, in("later"), "trusted.overlay.opaque"); got != "y" {
		t.Errorf("a directory in the place of a whiteout: opaque = %q", got)
	}
}

func TestCompleteLinks(t *testing.T) {
	early := time.Unix(1e9, 123456789)
	bottom := []entry{
		owned(dir("d"), 0o2770, 7, early), file("d/f", "content"), symlink("way", "/d"), file("old", "old"),
		symlink("sym", "nowhere"), file("hidden/f", "h"), file("kept", "k"), owned(dir("e"), 0o750, 5, early),
		file("e/g", "g"), file("r", "below"),
	}
	top := []entry{
		owned(dir("n"), 0o755, 0, early), link("n/one", "d/f"), link("n/two", "n/one"), link("n/three", "way/f"),
		file(".wh.old", ""), link("new", "old"), link("s", "sym"),
		owned(dir("hidden"), 0o755, 0, early), file("hidden/.wh..wh..opq", ""), link("h", "hidden/f"),
		link("later", "kept"), file("later", "a file"), file("was", "here"), link("was", "e/g"),
		link("r2", "r"), file("r", "above"),
	}
	dirs, needs, err := stack(t, bottom, top)
	if err != nil {
		t.Fatal(err)
	}
	want := []unpack.Link{{"n/one", "d/f"}, {"n/two", "d/f"}, {"n/three", "way/f"}, {"new", "old"}, {"s", "sym"},
		{"h", "hidden/f"}, {"was", "e/g"}, {"r2", "r"}}
	if diff := cmp.Diff(want, needs[1].Links); diff != "" {
		t.Error(diff)
	}
	ino := func(layer int, name string) uint64 { return stat(t, filepath.Join(dirs[layer], name)).Ino }
	for name, below := range map[string]string{"n/one": "d/f", "n/two": "d/f", "n/three": "d/f", "d/f": "d/f",
		"new": "old", "s": "sym", "sym": "sym", "h": "hidden/f", "was": "e/g", "e/g": "e/g", "r2": "r"} {
		if ino(1, name) != ino(0, below) {
			t.Errorf("%s is not the file %s below", name, below)
		}
	}
	for name, want := range map[string]string{"later": "a file", "r": "above", "r2": "below", "n/one": "content"} {
		if got := read(t, filepath.Join(dirs[1], name)); got != want {
			t.Errorf("%s holds %q, want %q", name, got, want)
		}
	}
	for name, want := range map[string]string{"d": "42770 7:7 1000000000.123456789",
		"e": "40750 5:5 1000000000.123456789", "n": "40755 0:0 1000000000.123456789"} {
		if got := describe(t, filepath.Join(dirs[1], name)); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	if st := stat(t, filepath.Join(dirs[1], "old")); st.Mode&unix.S_IFMT != unix.S_IFCHR {
		t.Errorf("what the layer hides shows: mode %o", st.Mode)
	}
	if _, err := os.Lstat(filepath.Join(dirs[1], "hidden/f")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what an opaque directory hides shows: %v", err)
	}
}

// What leads out of the layers leads to their root, and what is not there is told as it was for one archive.
func TestCompleteRefuses(t *testing.T) {
	bottom := []entry{dir("d"), file("gone", "x"), symlink("out", "../../../../etc"), symlink("abs", "/etc"),
		symlink("loop", "loop"), file("file", "x"), dir("cut"), file("cut/f", "x")}
	middle := []entry{file(".wh.gone", ""), file("cut", "a file")}
	for _, c := range []struct{ target, want string }{
		{"nothing", "not before it"}, {"no/thing", "not before it"}, {"d", "is a directory"}, {"gone", "not before it"},
		{"out/passwd", "not before it"}, {"abs/passwd", "not before it"}, {"loop/x", "not before it"},
		{"file/x", "not before it"}, {"cut/f", "not before it"},
	} {
		_, _, err := stack(t, bottom, middle, []entry{link("x", c.target)})
		bad, ok := errors.AsType[*unpack.EntryError](err)
		if !ok || bad.Entry != "x" || !strings.Contains(err.Error(), c.want) ||
			!strings.Contains(err.Error(), c.target) {
			t.Errorf("%s: %v", c.target, err)
		}
	}
	dirs, needs, err := stack(t, bottom, []entry{link("x", "file")})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	cancel(why)
	if err := unpack.Complete(ctx, dirs[1], needs[1], dirs[:1]); !errors.Is(err, why) {
		t.Errorf("the context has ended: %v", err)
	}
	if err := unpack.Complete(t.Context(), dirs[1], needs[1], []string{"/not/there"}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a layer that is not there: %v", err)
	}
}

func TestNeedsAreBounded(t *testing.T) {
	_, in := sandbox(t)
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	name := strings.Repeat(strings.Repeat("n", 250)+"/", 15)
	for i := range 5000 { // 18 MiB of names
		h := tar.Header{Name: fmt.Sprintf("link-%d", i), Typeflag: tar.TypeLink, Linkname: name + fmt.Sprint(i)}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
	}
	_, err := unpack.Unpack(t.Context(), in, &b, layer)
	if _, ok := errors.AsType[*unpack.EntryError](err); !ok || !strings.Contains(err.Error(), "one thing too many") {
		t.Errorf("error %v", err)
	}
}

// No path of the kernel's is long enough to name what is nested so deep.
func TestUnpackDeep(t *testing.T) {
	const depth = 500
	deep := strings.Repeat("directory/", depth)
	for name, entries := range map[string][]entry{
		"implied": {file(deep+"f", "deep"), link(deep+"g", deep+"f"), link("top", deep+"f")},
		"named":   append(nested(depth), file(deep+"f", "deep"), link(deep+"g", deep+"f"), link("top", deep+"f")),
	} {
		dirs, needs, err := stack(t, entries, []entry{file(deep+"h", "x"), link(deep+"i", deep+"f")})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := read(t, filepath.Join(dirs[0], "top")); got != "deep" {
			t.Errorf("%s: %q", name, got)
		}
		if n := stat(t, filepath.Join(dirs[0], "top")).Nlink; n != 5 { // both layers'
			t.Errorf("%s: %d links", name, n)
		}
		if len(needs[1].Parents) != depth || len(needs[1].Links) != 1 {
			t.Errorf("%s: %d parents, %d links needed", name, len(needs[1].Parents), len(needs[1].Links))
		}
	}
}

func nested(depth int) (out []entry) {
	for i := range depth {
		out = append(out, dir(strings.Repeat("directory/", i+1)))
	}
	return out
}

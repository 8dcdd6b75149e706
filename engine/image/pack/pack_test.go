package pack_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/engine/image/pack"
)

// container is a mounted root filesystem on one layer, in a directory of its own.
type container struct {
	lower, upper, root string
}

func run(t *testing.T, below func(root string), inside func(root string)) container {
	t.Helper()
	dir := t.TempDir()
	c := container{mkdir(t, dir, "lower"), mkdir(t, dir, "upper"), mkdir(t, dir, "root")}
	below(c.lower)
	unmount := mount(t, c.root, []string{c.lower}, c.upper, mkdir(t, dir, "work"))
	defer unmount()
	inside(c.root)
	return c
}

func write(t tester, path, text string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path, []byte(text), 0o644))
}

// entries reads a layer.
func (c container) entries(t *testing.T, o pack.Options) (map[string]*tar.Header, pack.Stats) {
	t.Helper()
	var b bytes.Buffer
	stats, err := pack.Layer(t.Context(), c.upper, []string{c.lower}, &b, o)
	must(t, err)
	out := map[string]*tar.Header{}
	for r := tar.NewReader(&b); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out, stats
		}
		must(t, err)
		out[h.Name] = h
	}
}

func names(m map[string]*tar.Header) string {
	var out []string
	for name := range m {
		out = append(out, name)
	}
	return strings.Join(slices.Sorted(slices.Values(out)), " ")
}

func TestLayerAndChanges(t *testing.T) {
	c := run(t, func(root string) {
		write(t, root+"/etc/kept", "k")
		write(t, root+"/etc/changed", "c")
		write(t, root+"/gone/in", "x")
		write(t, root+"/again/old", "x")
		write(t, root+"/again/older", "x")
		write(t, root+"/device", "x")
		write(t, root+"/socket", "x")
	}, func(root string) {
		write(t, root+"/etc/changed", "C")
		write(t, root+"/etc/new", "n")
		must(t, os.RemoveAll(root+"/gone"))
		must(t, os.RemoveAll(root+"/again"))
		write(t, root+"/again/old", "new")
		write(t, root+"/fresh/dir/file", "x")
		write(t, root+"/.wh.trick", "x")
		must(t, os.Remove(root+"/device"))
		must(t, unix.Mknod(root+"/device", unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
		must(t, os.Remove(root+"/socket"))
		must(t, unix.Mknod(root+"/socket", unix.S_IFSOCK|0o600, 0))
		must(t, unix.Mknod(root+"/socket2", unix.S_IFSOCK|0o600, 0))
	})
	got, stats := c.entries(t, pack.Options{})
	const want = ".wh.device .wh.gone .wh.socket again/ again/.wh..wh..opq again/old etc/ etc/changed etc/new fresh/ " +
		"fresh/dir/ fresh/dir/file"
	if diff := cmp.Diff(want, names(got)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(pack.Stats{Entries: 12, Size: 6, LeftOut: 4}, stats); diff != "" {
		t.Error(diff)
	}
	var told []string
	must(t, pack.Changes(t.Context(), c.upper, []string{c.lower}, pack.Options{}, func(c pack.Change) error {
		told = append(told, text(c))
		return nil
	}))
	if diff := cmp.Diff([]string{"A /.wh.trick", "C /again", "C /again/old", "D /again/older", "C /device", "C /etc",
		"C /etc/changed", "A /etc/new", "A /fresh", "A /fresh/dir", "A /fresh/dir/file", "D /gone", "C /socket",
		"A /socket2"}, told); diff != "" {
		t.Error(diff)
	}
	why := errors.New("enough")
	if err := pack.Changes(t.Context(), c.upper, []string{c.lower}, pack.Options{}, func(pack.Change) error {
		return why
	}); !errors.Is(err, why) {
		t.Errorf("error %v", err)
	}
}

// The owners of a container with user IDs of its own are on disk with its shift, and its root's capabilities are of
// that root.
func TestLayerOfAUserNamespace(t *testing.T) {
	const base = 1 << 20
	capability := binary.LittleEndian.AppendUint32(nil, 0x03000001)
	capability = append(capability, make([]byte, 16)...)
	capability = binary.LittleEndian.AppendUint32(capability, base)
	acl := []byte{2, 0, 0, 0}
	for _, e := range [][3]uint32{{1, 6, 1<<32 - 1}, {2, 4, base + 7}, {4, 4, 1<<32 - 1}, {16, 4, 1<<32 - 1},
		{32, 0, 1<<32 - 1}} {
		acl = binary.LittleEndian.AppendUint16(acl, uint16(e[0]))
		acl = binary.LittleEndian.AppendUint16(acl, uint16(e[1]))
		acl = binary.LittleEndian.AppendUint32(acl, e[2])
	}
	c := run(t, func(root string) { write(t, root+"/dir/file", "x") }, func(root string) {
		write(t, root+"/mine", "x")
		must(t, os.Chown(root+"/mine", base+5, base))
		must(t, unix.Setxattr(root+"/mine", "security.capability", capability, 0))
		must(t, unix.Setxattr(root+"/mine", "system.posix_acl_access", acl, 0))
		write(t, root+"/host", "x")
		must(t, os.Chown(root+"/dir", base, base))
		must(t, unix.Utimes(root+"/dir", []unix.Timeval{{Sec: 5}, {Sec: 5}}))
	})
	must(t, unix.Utimes(c.lower+"/dir", []unix.Timeval{{Sec: 5}, {Sec: 5}}))
	o := pack.Options{IDMap: pack.IDMap{HostID: base, Size: 65536}}
	got, _ := c.entries(t, o)
	if diff := cmp.Diff("dir/ host mine", names(got)); diff != "" {
		t.Error(diff)
	}
	for name, want := range map[string][2]int{"mine": {5, 0}, "host": {65534, 65534}, "dir/": {0, 0}} {
		if h := got[name]; h == nil || h.Uid != want[0] || h.Gid != want[1] {
			t.Errorf("%s: %+v, want the owner %v", name, h, want)
		}
	}
	v := got["mine"].PAXRecords["SCHILY.xattr.security.capability"]
	if len(v) != 20 || v[3] != 2 || v[0] != 1 {
		t.Errorf("capability %x, want one of version 2", v)
	}
	if v := got["mine"].PAXRecords["SCHILY.xattr.system.posix_acl_access"]; len(v) != len(acl) ||
		binary.LittleEndian.Uint32([]byte(v)[16:]) != 7 {
		t.Errorf("access control list %x", v)
	}
	var told []string
	must(t, pack.Changes(t.Context(), c.upper, []string{c.lower}, o, func(c pack.Change) error {
		told = append(told, text(c))
		return nil
	}))
	if diff := cmp.Diff([]string{"A /host", "A /mine"}, told); diff != "" {
		t.Errorf("a directory with nothing but its shift: %s", diff)
	}
}

// slowWriter calls a function before the n-th byte is written.
type slowWriter struct {
	w     io.Writer
	after int
	call  func()
}

func (s *slowWriter) Write(b []byte) (int, error) {
	if s.after -= len(b); s.after < 0 && s.call != nil {
		s.call()
		s.call = nil
	}
	return s.w.Write(b)
}

// What changes while it is read gives no damaged tar.
func TestLayerOfARunningContainer(t *testing.T) {
	const size = 4 << 20
	for name, change := range map[string]func(dir string){
		"shrinks":  func(dir string) { must(t, os.Truncate(dir+"/b", 1<<20)) },
		"grows":    func(dir string) { must(t, os.Truncate(dir+"/b", 9<<20)) },
		"vanishes": func(dir string) { must(t, os.RemoveAll(dir+"/c")); must(t, os.Remove(dir+"/b")) },
		"becomes a fifo": func(dir string) {
			must(t, os.RemoveAll(dir+"/c"))
			must(t, unix.Mkfifo(dir+"/c", 0o600))
		},
	} {
		dir := t.TempDir()
		write(t, dir+"/a", "before")
		write(t, dir+"/b", strings.Repeat("b", size))
		write(t, dir+"/c/deep/file", "x")
		write(t, dir+"/d", "behind")
		var b bytes.Buffer
		w := &slowWriter{w: &b, after: 2 << 20, call: func() { change(dir) }}
		_, err := pack.Layer(t.Context(), dir, nil, w, pack.Options{})
		must(t, err)
		got := map[string]int64{}
		for r := tar.NewReader(&b); ; {
			h, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			must(t, err)
			n, err := io.Copy(io.Discard, r)
			must(t, err)
			got[h.Name] = n
		}
		if got["a"] != 6 || got["b"] != size || got["d"] != 6 {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestLayerStops(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(dir+"/holes", nil, 0o600))
	must(t, os.Truncate(dir+"/holes", 1<<40))
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	w := &slowWriter{w: io.Discard, after: 8 << 20, call: func() { cancel(why) }}
	if _, err := pack.Layer(ctx, dir, nil, w, pack.Options{}); !errors.Is(err, why) {
		t.Errorf("error %v", err)
	}
	r, pipe := io.Pipe()
	must(t, r.CloseWithError(why))
	if _, err := pack.Layer(t.Context(), dir, nil, pipe, pack.Options{}); !errors.Is(err, why) {
		t.Errorf("a writer that fails: %v", err)
	}
	if _, err := pack.Layer(t.Context(), "/not/there", nil, io.Discard,
		pack.Options{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
	if _, err := pack.Layer(t.Context(), dir, []string{"/not/there"}, io.Discard,
		pack.Options{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no layer: %v", err)
	}
	redirected := t.TempDir()
	must(t, os.Mkdir(redirected+"/d", 0o755))
	must(t, unix.Setxattr(redirected+"/d", "trusted.overlay.redirect", []byte("/x"), 0))
	if _, err := pack.Layer(t.Context(), redirected, nil, io.Discard, pack.Options{}); err == nil ||
		!strings.Contains(err.Error(), "trusted.overlay.redirect") {
		t.Errorf("a directory that is elsewhere: %v", err)
	}
}

// Directories without end take neither descriptors nor paths of theirs.
func TestLayerDeep(t *testing.T) {
	const depth = 600
	dir := t.TempDir()
	at, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	must(t, err)
	for i := range depth {
		must(t, unix.Mkdirat(at, "directory", 0o755))
		must(t, unix.Mkdirat(at, fmt.Sprint("z", i), 0o755))
		next, err := unix.Openat(at, "directory", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		must(t, err)
		must(t, unix.Close(at))
		at = next
	}
	must(t, unix.Close(at))
	c := container{upper: dir, lower: t.TempDir()}
	got, stats := c.entries(t, pack.Options{})
	if stats.Entries != 2*depth || len(got) != 2*depth {
		t.Errorf("%d entries, want %d", stats.Entries, 2*depth)
	}
	if last := strings.Repeat("directory/", depth-1) + fmt.Sprint("z", depth-1) + "/"; got[last] == nil {
		t.Error("the deepest is not there")
	}
	var n int
	must(t, pack.Changes(t.Context(), dir, []string{c.lower}, pack.Options{}, func(pack.Change) error {
		n++
		return nil
	}))
	if n != 2*depth {
		t.Errorf("%d changes", n)
	}
}

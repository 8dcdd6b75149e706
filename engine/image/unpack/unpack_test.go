package unpack_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine/image/unpack"
)

var (
	then   = time.Date(2001, 2, 3, 4, 5, 6, 789, time.UTC)
	layer  = unpack.Options{Layer: true}
	strict = unpack.Options{}
)

// entry is a header and its content.
type entry struct {
	tar.Header
	body string
}

func file(name, body string) entry {
	return entry{tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, ModTime: then, Size: int64(len(body))},
		body}
}

func dir(name string) entry {
	return entry{Header: tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755, ModTime: then}}
}

func symlink(name, target string) entry {
	return entry{Header: tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: target, ModTime: then,
		Mode: 0o777}}
}

func link(name, target string) entry {
	return entry{Header: tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: target, ModTime: then}}
}

func device(name string, kind byte, major, minor int64) entry {
	return entry{Header: tar.Header{Name: name, Typeflag: kind, Devmajor: major, Devminor: minor, ModTime: then}}
}

func (e entry) with(change func(*tar.Header)) entry {
	change(&e.Header)
	return e
}

// archive writes a tar with its end marker.
func archive(tb testing.TB, entries ...entry) []byte {
	tb.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		if err := w.WriteHeader(&e.Header); err != nil {
			tb.Fatalf("write header of %q: %v", e.Name, err)
		}
		if _, err := io.WriteString(w, e.body); err != nil {
			tb.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

// sandbox is a directory to unpack into, in one that must stay as it is.
func sandbox(tb testing.TB) (outside, inside string) {
	tb.Helper()
	outside = tb.TempDir()
	inside = filepath.Join(outside, "in")
	if err := os.Mkdir(inside, 0o755); err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(outside, "canary"), []byte("alive"), 0o600); err != nil {
		tb.Fatal(err)
	}
	return outside, inside
}

// untouched fails when something besides the directory unpacked into changed.
func untouched(tb testing.TB, outside string) {
	tb.Helper()
	names, err := os.ReadDir(outside)
	if err != nil {
		tb.Fatal(err)
	}
	if len(names) != 2 || names[0].Name() != "canary" || names[1].Name() != "in" {
		tb.Errorf("unpacking changed the directory above: %v", names)
	}
	got, err := os.ReadFile(filepath.Join(outside, "canary"))
	if err != nil || string(got) != "alive" {
		tb.Errorf("unpacking changed a file outside: %q, %v", got, err)
	}
}

func stat(t *testing.T, path string) unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatalf("lstat %s: %v", path, err)
	}
	return st
}

func xattr(t *testing.T, path, name string) string {
	t.Helper()
	buf := make([]byte, 256)
	n, err := unix.Lgetxattr(path, name, buf)
	if errors.Is(err, unix.ENODATA) {
		return ""
	}
	if err != nil {
		t.Fatalf("read %s of %s: %v", name, path, err)
	}
	return string(buf[:n])
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// capNetRaw is security.capability with cap_net_raw+ep, see linux/capability.h, revision 2.
const capNetRaw = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

func TestUnpackKeepsWhatTarKeeps(t *testing.T) {
	outside, in := sandbox(t)
	long := strings.Repeat("long/", 60) + "name"
	tarball := archive(t,
		dir("./").with(func(h *tar.Header) { h.Mode = 0o711 }),
		dir("mail/").with(func(h *tar.Header) { h.Mode, h.Gid = 0o2775, 8 }),
		file("mail/box", "in a set-group-ID directory"),
		file("bin/su", "setuid").with(func(h *tar.Header) { h.Mode, h.Uid, h.Gid = 0o4755, 7, 70000 }),
		link("bin/su2", "./bin/su"),
		symlink("bin/sh", "/nowhere/at/all"),
		file("bin/ping", "raw").with(func(h *tar.Header) {
			h.Mode = 0o755
			h.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": capNetRaw,
				"SCHILY.xattr.trusted.note": "kept"}
		}),
		entry{Header: tar.Header{Name: "pipe", Typeflag: tar.TypeFifo, Mode: 0o620, Uid: 3, ModTime: then}},
		file(long, "deep"),
		file("umlaut-ä", "pax").with(func(h *tar.Header) { h.Format = tar.FormatPAX }),
		file("file", "first"),
		file("file", "second"),
		symlink("var/run", "/run"),
		file("var/run/pid", "through a link to nothing"),
		dir("keep").with(func(h *tar.Header) { h.Mode = 0o500 }),
		file("keep/inner", "x"),
	)
	res, err := unpack.Unpack(t.Context(), in, bytes.NewReader(tarball), strict)
	if err != nil {
		t.Fatal(err)
	}
	untouched(t, outside)
	if res.Entries != 16 {
		t.Errorf("entries = %d, want 16", res.Entries)
	}
	at := func(name string) string { return filepath.Join(in, name) }
	for _, want := range []struct {
		name     string
		mode     uint32
		uid, gid uint32
		links    uint64
	}{
		{".", unix.S_IFDIR | 0o711, 0, 0, 0},
		{"mail", unix.S_IFDIR | 0o2775, 0, 8, 0},
		{"mail/box", unix.S_IFREG | 0o644, 0, 0, 1},
		{"bin/su", unix.S_IFREG | 0o4755, 7, 70000, 2},
		{"bin/su2", unix.S_IFREG | 0o4755, 7, 70000, 2},
		{"bin/sh", unix.S_IFLNK | 0o777, 0, 0, 1},
		{"pipe", unix.S_IFIFO | 0o620, 3, 0, 1},
		{"keep", unix.S_IFDIR | 0o500, 0, 0, 0},
	} {
		st := stat(t, at(want.name))
		if st.Mode != want.mode || st.Uid != want.uid || st.Gid != want.gid || want.links > 0 &&
			uint64(st.Nlink) != want.links {
			t.Errorf("%s: mode %o owner %d:%d links %d, want %o %d:%d %d", want.name, st.Mode, st.Uid, st.Gid,
				st.Nlink, want.mode, want.uid, want.gid, want.links)
		}
		if st.Mtim.Sec != then.Unix() {
			t.Errorf("%s: modified %v, want %v", want.name, time.Unix(st.Mtim.Unix()), then)
		}
	}
	if got := xattr(t, at("bin/ping"), "security.capability"); got != capNetRaw {
		t.Errorf("file capabilities = %q", got)
	}
	if got := xattr(t, at("bin/ping"), "trusted.note"); got != "kept" {
		t.Errorf("trusted.note = %q", got)
	}
	for name, want := range map[string]string{
		long: "deep", "umlaut-ä": "pax", "file": "second", "run/pid": "through a link to nothing", "keep/inner": "x",
	} {
		if got := read(t, at(name)); got != want {
			t.Errorf("%s holds %q, want %q", name, got, want)
		}
	}
}

func TestUnpackReplaces(t *testing.T) {
	_, in := sandbox(t)
	tarball := archive(t,
		dir("a"), file("a/b", "gone"), file("a", "a file now"),
		file("c", "gone"), dir("c"), file("c/d", "in a directory now"),
		file("e", "e"), link("e", "e"), link("f", "e"), link("f", "e"),
		symlink("g", "c"), dir("g"), file("g/h", "not in c"),
	)
	if _, err := unpack.Unpack(t.Context(), in, bytes.NewReader(tarball), strict); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"a": "a file now", "c/d": "in a directory now", "e": "e", "f": "e",
		"g/h": "not in c"} {
		if got := read(t, filepath.Join(in, name)); got != want {
			t.Errorf("%s holds %q, want %q", name, got, want)
		}
	}
	if _, err := os.Lstat(filepath.Join(in, "c/h")); !os.IsNotExist(err) {
		t.Errorf("c/h: %v, want it not to exist", err)
	}
}

func TestUnpackWhiteouts(t *testing.T) {
	_, in := sandbox(t)
	tarball := archive(t,
		dir("etc"), file("etc/.wh.passwd", ""),
		dir("opt"), file("opt/.wh..wh..opq", ""), file("opt/new", "n"),
		dir("both"), file("both/in", "i"), file(".wh.both", ""),
		file(".wh.later", ""), dir("later"), file("later/in", "i"),
		file(".wh..wh.plnk", "aufs"),
		device("native", tar.TypeChar, 0, 0),
		file("/absolute/name", "taken in layers"),
	)
	if _, err := unpack.Unpack(t.Context(), in, bytes.NewReader(tarball), layer); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"etc/passwd", "native"} {
		if st := stat(t, filepath.Join(in, name)); st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != 0 {
			t.Errorf("%s: mode %o device %x, want overlayfs's whiteout", name, st.Mode, st.Rdev)
		}
	}
	for name, want := range map[string]string{"opt": "y", "both": "y", "later": "y", "etc": "", "absolute": ""} {
		if got := xattr(t, filepath.Join(in, name), "trusted.overlay.opaque"); got != want {
			t.Errorf("%s: opaque = %q, want %q", name, got, want)
		}
	}
	for _, name := range []string{"opt/new", "both/in", "later/in", "absolute/name"} {
		read(t, filepath.Join(in, name))
	}
	if left, err := filepath.Glob(filepath.Join(in, "*", ".wh.*")); err != nil || len(left) > 0 {
		t.Errorf("markers left: %v, %v", left, err)
	}
	if left, err := filepath.Glob(filepath.Join(in, ".wh.*")); err != nil || len(left) > 0 {
		t.Errorf("markers left: %v, %v", left, err)
	}
}

func TestUnpackRefuses(t *testing.T) {
	good := file("ok", "fine")
	for _, c := range []struct {
		name    string
		entries []entry
		opts    unpack.Options
		entry   string
		want    string
	}{
		{"absolute", []entry{good, file("/etc/passwd", "x")}, strict, "/etc/passwd", "absolute path"},
		{"climbing", []entry{file("../canary", "x")}, strict, "../canary", "'..'"},
		{"climbing in a layer", []entry{file("/../canary", "x")}, layer, "/../canary", "'..'"},
		{"climbing inside", []entry{dir("a"), file("a/../b", "x")}, strict, "a/../b", "'..'"},
		{"hard link climbing", []entry{link("x", "../canary")}, layer, "x", "'..'"},
		{"hard link absolute", []entry{good, link("x", "/ok")}, strict, "x", "absolute"},
		{"hard link to nothing", []entry{link("x", "missing")}, strict, "x", "not before it"},
		{"hard link to nothing, deep", []entry{link("x", "miss/ing")}, strict, "x", "not before it"},
		{"hard link to a directory", []entry{dir("d"), link("x", "d")}, strict, "x", "is a directory"},
		{"hard link out through a symlink", []entry{symlink("out", ".."), link("x", "out/canary")}, strict, "x",
			"not before it"},
		{"overlay whiteout in a root filesystem", []entry{device("w", tar.TypeChar, 0, 0)}, strict, "w", "device node"},
		{"file as root", []entry{file(".", "")}, strict, ".", "not a directory"},
		{"symlink as root", []entry{symlink(".", "..")}, strict, ".", "not a directory"},
		{"below a file", []entry{file("f", ""), file("f/g", "")}, strict, "f/g", "not a directory"},
		{"loop", []entry{symlink("a", "b"), symlink("b", "a"), file("a/f", "")}, strict, "a/f", "loop"},
		{"whiteout of nothing", []entry{file("d/.wh.", "")}, layer, "d/.wh.", "whiteout of nothing"},
		{"whiteout of the parent", []entry{file("d/.wh...", "")}, layer, "d/.wh...", "whiteout of nothing"},
		{"redirect", []entry{dir("d").with(func(h *tar.Header) {
			h.PAXRecords = map[string]string{"SCHILY.xattr.trusted.overlay.redirect": "/etc"}
		})}, layer, "d", "overlayfs's own"},
		{"owner", []entry{file("f", "").with(func(h *tar.Header) { h.Uid, h.Format = -1, tar.FormatGNU })}, strict,
			"f", "owner"},
	} {
		t.Run(c.name, func(t *testing.T) {
			outside, in := sandbox(t)
			_, err := unpack.Unpack(t.Context(), in, bytes.NewReader(archive(t, c.entries...)), c.opts)
			untouched(t, outside)
			bad, ok := errors.AsType[*unpack.EntryError](err)
			if !ok {
				t.Fatalf("error %v (%T), want an EntryError", err, err)
			}
			if bad.Entry != c.entry || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %q about %q, want one about %q with %q", err, bad.Entry, c.entry, c.want)
			}
			if !errors.Is(err, cnm.ErrInvalid) {
				t.Errorf("error %v is no ErrInvalid", err)
			}
		})
	}
}

// Device nodes are left out, as root filesystems of distributions have some: what hides things of the layers below is
// in their place, also in a root filesystem, which is a layer to those who get its image.
func TestUnpackLeavesDevicesOut(t *testing.T) {
	tarball := archive(t, dir("dev"), device("dev/null", tar.TypeChar, 1, 3), device("dev/sda", tar.TypeBlock, 8, 0),
		file("etc", "x"))
	for name, opts := range map[string]unpack.Options{"root filesystem": strict, "layer": layer} {
		outside, in := sandbox(t)
		if _, err := unpack.Unpack(t.Context(), in, bytes.NewReader(tarball), opts); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		untouched(t, outside)
		for _, path := range []string{"dev/null", "dev/sda"} {
			var st unix.Stat_t
			err := unix.Lstat(filepath.Join(in, path), &st)
			if err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != 0 {
				t.Errorf("%s: in place of %s is: %v, mode %o device %x", name, path, err, st.Mode, st.Rdev)
			}
		}
		if text, err := os.ReadFile(filepath.Join(in, "etc")); err != nil || string(text) != "x" {
			t.Errorf("%s: what comes behind: %q, %v", name, text, err)
		}
	}
}

// Links that lead out of the root in a container lead to its root: so they do here.
func TestUnpackThroughLinksStaysInside(t *testing.T) {
	for name, target := range map[string]string{"absolute": "/", "climbing": "../../..", "far": "/../../tmp/../x",
		"proc": "/proc/self/root"} {
		t.Run(name, func(t *testing.T) {
			outside, in := sandbox(t)
			tarball := archive(t, symlink("out", target), file("out/canary", "pwned"), file("out/fresh", "pwned"),
				dir("out/d"), symlink("out/l", "x"), file("out/.wh.canary", ""))
			if _, err := unpack.Unpack(t.Context(), in, bytes.NewReader(tarball), layer); err != nil {
				t.Fatal(err)
			}
			untouched(t, outside)
			for _, host := range []string{"/canary", "/fresh", "/x/fresh", "/tmp/fresh"} {
				if _, err := os.Lstat(host); !os.IsNotExist(err) {
					t.Errorf("%s: %v, want it not to exist", host, err)
				}
			}
		})
	}
}

func TestUnpackDescribesWhatIsNoArchive(t *testing.T) {
	whole := archive(t, file("a", strings.Repeat("a", 700)), file("b", strings.Repeat("b", 512)))
	damaged := bytes.Clone(whole)
	copy(damaged[1536:], "rubbish")
	for _, c := range []struct {
		name string
		data string
		want string
	}{
		{"nothing", "", "empty"},
		{"text", "hello world", `starts with "hello world"`},
		{"web page", "<!DOCTYPE html><html>" + strings.Repeat(" ", 600), "text/html"},
		{"ELF", "\x7fELF" + strings.Repeat("\x01", 600), "ELF executable"},
		{"zip", "PK\x03\x04" + strings.Repeat("\x01", 600), "zip archive"},
		{"truncated header", string(whole[:1536+100]), "truncated"},
		{"truncated content", string(whole[:800]), `truncated: it ends after 800 bytes, in or behind entry "a"`},
		{"truncated between entries", string(whole[:1536]), `ends after entry "a" without an end-of-archive marker`},
		{"truncated after the last entry", string(whole[:2560]), "without an end-of-archive marker"},
		{"damaged", string(damaged), `damaged behind entry "a"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, in := sandbox(t)
			_, err := unpack.Unpack(t.Context(), in, strings.NewReader(c.data), strict)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error %v, want one with %q", err, c.want)
			}
			if !errors.Is(err, cnm.ErrInvalid) {
				t.Errorf("error %v is no ErrInvalid", err)
			}
		})
	}
	t.Run("an empty archive is one", func(t *testing.T) {
		_, in := sandbox(t)
		if _, err := unpack.Unpack(t.Context(), in, bytes.NewReader(make([]byte, 10240)), strict); err != nil {
			t.Fatal(err)
		}
	})
}

func TestUnpackKeepsHoles(t *testing.T) {
	source := filepath.Join(t.TempDir(), "sparse")
	f, err := os.Create(source)
	if err != nil {
		t.Fatal(err)
	}
	const size = 64 << 20
	if _, err := f.WriteAt([]byte("end"), size-3); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	for _, format := range []string{"gnu", "pax"} {
		t.Run(format, func(t *testing.T) {
			tarball := run(t, "tar", "-C", filepath.Dir(source), "--sparse", "--format="+format, "-c", "sparse")
			_, in := sandbox(t)
			if _, err := unpack.Unpack(t.Context(), in, bytes.NewReader(tarball), strict); err != nil {
				t.Fatal(err)
			}
			st := stat(t, filepath.Join(in, "sparse"))
			if st.Size != size || st.Blocks*512 > 1<<20 {
				t.Errorf("size %d with %d bytes on disk, want %d with next to none", st.Size, st.Blocks*512, size)
			}
			if got := read(t, filepath.Join(in, "sparse")); !strings.HasSuffix(got, "\x00end") ||
				strings.Trim(got[:size-3], "\x00") != "" {
				t.Error("the content differs")
			}
		})
	}
}

// A file of zeros without end, in an archive of some KiB, is refused and not gone through.
func TestUnpackRefusesWhatCannotFit(t *testing.T) {
	source := filepath.Join(t.TempDir(), "sparse")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.WriteFile(source, []byte("start"), 0o600))
	must(os.Truncate(source, 15<<40))
	for _, format := range []string{"gnu", "pax"} {
		tarball := run(t, "tar", "-C", filepath.Dir(source), "--sparse", "--format="+format, "-c", "sparse")
		_, in := sandbox(t)
		_, err := unpack.Unpack(t.Context(), in, bytes.NewReader(tarball), strict)
		if bad, ok := errors.AsType[*unpack.EntryError](err); !ok || bad.Entry != "sparse" ||
			!strings.Contains(err.Error(), "files with holes may have 256 GiB in all") {
			t.Errorf("%s: %v", format, err)
		}
	}
	// Without holes, all of the content is to come: there is no need to wait for the disk to be full.
	var b bytes.Buffer
	must(tar.NewWriter(&b).WriteHeader(&tar.Header{Name: "big", Typeflag: tar.TypeReg, Size: 1 << 60, ModTime: then}))
	_, in := sandbox(t)
	if _, err := unpack.Unpack(t.Context(), in, &b, strict); !errors.Is(err, unix.ENOSPC) ||
		!strings.Contains(err.Error(), "it has 1152921504606846976 bytes") {
		t.Errorf("a file larger than the disk: %v", err)
	}
}

func TestUnpackStops(t *testing.T) {
	t.Run("when the context ends", func(t *testing.T) {
		_, in := sandbox(t)
		ctx, cancel := context.WithCancelCause(t.Context())
		why := errors.New("enough")
		big := archive(t, file("big", strings.Repeat("x", 8<<20)))
		r := &callReader{r: bytes.NewReader(big), after: 1 << 20, call: func() error { cancel(why); return nil }}
		if _, err := unpack.Unpack(ctx, in, r, strict); !errors.Is(err, why) {
			t.Errorf("error %v, want %v", err, why)
		}
	})
	t.Run("when the reader fails", func(t *testing.T) {
		_, in := sandbox(t)
		why := errors.New("connection lost")
		r := &callReader{r: bytes.NewReader(archive(t, file("big", strings.Repeat("x", 8<<20)))), after: 1 << 20,
			call: func() error { return why }}
		if _, err := unpack.Unpack(t.Context(), in, r, strict); !errors.Is(err, why) || errors.Is(err, cnm.ErrInvalid) {
			t.Errorf("error %v, want %v and no ErrInvalid", err, why)
		}
	})
}

// callReader calls a function once enough was read, and fails with what it returns.
type callReader struct {
	r     io.Reader
	after int
	call  func() error
}

func (c *callReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if c.after -= n; c.after < 0 {
		if cerr := c.call(); cerr != nil {
			return n, cerr
		}
	}
	return n, err
}

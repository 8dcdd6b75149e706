package pack_test

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/vethloom/vethloom/engine/image/pack"
	"github.com/vethloom/vethloom/engine/image/unpack"
	"github.com/vethloom/vethloom/engine/rootfile"
	"github.com/vethloom/vethloom/internal/soak"
)

// components are few, so that what layers hold meets.
var components = []string{"a", "b", "c", "d", "odd-\xff\xfe", "new\nline", "e=f%3D", strings.Repeat("l", 250)}

func drawPath(t *rapid.T, label string) string {
	n := rapid.IntRange(1, 3).Draw(t, label+" depth")
	var parts []string
	for range n {
		parts = append(parts, rapid.SampledFrom(components).Draw(t, label))
	}
	return strings.Join(parts, "/")
}

func drawTime(t *rapid.T) time.Time {
	return time.Unix(rapid.Int64Range(1, 1e9).Draw(t, "seconds"), rapid.Int64Range(0, 999_999_999).Draw(t, "ns"))
}

// fileCapability is the value of security.capability: version 2, CAP_NET_RAW permitted and effective.
func fileCapability() string {
	b := binary.LittleEndian.AppendUint32(nil, 0x02000001)
	return string(append(b, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0))
}

func drawHeader(t *rapid.T, name string, kind byte) *tar.Header {
	h := &tar.Header{Name: name, Typeflag: kind, Format: tar.FormatPAX, ModTime: drawTime(t),
		Mode: int64(rapid.SampledFrom([]int{0o644, 0o755, 0o4755, 0o2711, 0o1777, 0, 0o600}).Draw(t, "mode")),
		Uid:  rapid.SampledFrom([]int{0, 1000, 70000, 1 << 30}).Draw(t, "uid"),
		Gid:  rapid.SampledFrom([]int{0, 100, 3 << 20}).Draw(t, "gid"), PAXRecords: map[string]string{}}
	if (kind == tar.TypeReg || kind == tar.TypeDir) && rapid.Bool().Draw(t, "attribute") {
		h.PAXRecords["SCHILY.xattr.user.x"] = rapid.SampledFrom([]string{"", "v", "\x00\xff"}).Draw(t, "value")
		h.PAXRecords["SCHILY.xattr.user.odd%3Dname"] = "v"
	}
	if kind == tar.TypeReg && rapid.Bool().Draw(t, "capability") {
		h.PAXRecords["SCHILY.xattr.security.capability"] = fileCapability()
	}
	return h
}

// layerMaker draws a layer that goes well on what is below.
type layerMaker struct {
	below map[string]about
	kinds map[string]byte // of what the layer has so far, parents that it leaves out too
	out   []*tar.Header
	body  map[string]string
}

// kind is what a path is once the layer is there: a type of entry, or 0.
func (m *layerMaker) kind(p string) byte {
	if k, ok := m.kinds[p]; ok {
		return k
	}
	for dir := filepath.Dir(p); dir != "."; dir = filepath.Dir(dir) {
		if k := m.kinds[dir]; k == 'O' || k != 0 && k != tar.TypeDir {
			return 0
		}
	}
	a, ok := m.below[p]
	switch {
	case !ok:
		return 0
	case a.isDir():
		return tar.TypeDir
	case a.mode&unix.S_IFMT == unix.S_IFREG:
		return tar.TypeReg
	}
	return 'x'
}

// fits reports whether an entry can be there: everything above it is a directory, or nothing.
func (m *layerMaker) fits(p string) bool {
	for dir := filepath.Dir(p); dir != "."; dir = filepath.Dir(dir) {
		if k := m.kind(dir); k != 0 && k != tar.TypeDir && k != 'O' {
			return false
		}
	}
	_, taken := m.kinds[p]
	return !taken
}

func (m *layerMaker) add(p string, h *tar.Header, kind byte) {
	for dir := filepath.Dir(p); dir != "."; dir = filepath.Dir(dir) {
		if m.kinds[dir] == 0 {
			m.kinds[dir] = tar.TypeDir
		}
	}
	m.kinds[p] = kind
	m.out = append(m.out, h)
}

func (m *layerMaker) draw(t *rapid.T) {
	p := drawPath(t, "path")
	if !m.fits(p) {
		return
	}
	switch rapid.IntRange(0, 7).Draw(t, "kind") {
	case 0, 1:
		m.add(p, drawHeader(t, p, tar.TypeReg), tar.TypeReg)
		m.body[p] = rapid.SampledFrom([]string{"", "x", strings.Repeat("y", 5000)}).Draw(t, "body")
	case 2:
		m.add(p, drawHeader(t, p+"/", tar.TypeDir), tar.TypeDir)
	case 3:
		h := drawHeader(t, p, tar.TypeSymlink)
		// Nothing that leads out of the tree when it is followed from here.
		h.Linkname = rapid.SampledFrom([]string{"a", "/no/where", "nowhere\xff", "b/c"}).Draw(t, "target")
		m.add(p, h, tar.TypeSymlink)
	case 4:
		m.add(p, drawHeader(t, p, tar.TypeFifo), tar.TypeFifo)
	case 5:
		target := drawPath(t, "target")
		if target == p || m.kind(target) != tar.TypeReg {
			return
		}
		m.add(p, &tar.Header{Name: p, Typeflag: tar.TypeLink, Linkname: target}, tar.TypeReg)
	case 6:
		if dir := filepath.Dir(p); dir != "." && m.kind(dir) == 0 {
			return // nothing that the flat tree would make
		}
		m.add(p, &tar.Header{Name: filepath.Dir(p) + "/.wh." + filepath.Base(p), Typeflag: tar.TypeReg}, 'w')
	case 7:
		m.add(p, drawHeader(t, p+"/", tar.TypeDir), 'O')
		m.out = append(m.out, &tar.Header{Name: p + "/.wh..wh..opq", Typeflag: tar.TypeReg})
	}
}

// archive writes the entries that a function takes.
func (m *layerMaker) archive(t tester, take func(*tar.Header) bool) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range m.out {
		if !take(h) {
			continue
		}
		h.Size = int64(len(m.body[h.Name]))
		must(t, w.WriteHeader(h))
		_, err := w.Write([]byte(m.body[h.Name]))
		must(t, err)
	}
	must(t, w.Close())
	return b.Bytes()
}

// flatten does to a plain tree what a layer says, as the image specification has it: first what goes, then what comes.
func (m *layerMaker) flatten(t *rapid.T, root string) {
	for _, h := range m.out {
		dir, name := filepath.Split(h.Name)
		dir = filepath.Join(root, dir)
		switch {
		case name == ".wh..wh..opq":
			entries, err := os.ReadDir(dir)
			if !os.IsNotExist(err) && !errors.Is(err, unix.ENOTDIR) {
				must(t, err)
			}
			for _, e := range entries {
				must(t, os.RemoveAll(filepath.Join(dir, e.Name())))
			}
		case strings.HasPrefix(name, ".wh."):
			err := rootfile.RemoveTree(filepath.Join(dir, strings.TrimPrefix(name, ".wh.")))
			if !errors.Is(err, unix.ENOTDIR) { // a file, until the layer has made a directory of it
				must(t, err)
			}
		case h.Typeflag == tar.TypeDir: // what is said of a directory is all of it
			for _, name := range []string{"user.x", "user.odd=name"} {
				if err := unix.Lremovexattr(dir, name); err != nil && !errors.Is(err, unix.ENODATA) &&
					!errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR) && !errors.Is(err, unix.EPERM) {
					t.Fatal(err)
				}
			}
		}
	}
	plain := m.archive(t, func(h *tar.Header) bool { return !strings.HasPrefix(filepath.Base(h.Name), ".wh.") })
	_, err := unpack.Unpack(t.Context(), root, bytes.NewReader(plain), unpack.Options{})
	must(t, err)
}

// timeless is a tree without what putting one layer after the other into it changes: the times of directories.
func timeless(tree map[string]about) map[string]about {
	out := maps.Clone(tree)
	for p, a := range out {
		if a.isDir() {
			a.mtime = unix.Timespec{}
			out[p] = a
		}
	}
	return out
}

// drawStack unpacks a few layers, and compares what overlayfs shows with the layers put one over the other.
func drawStack(t *rapid.T, dir string) (lowers []string) {
	flat, merged := mkdir(t, dir, "flat"), mkdir(t, dir, "merged")
	lowers = []string{mkdir(t, dir, "bottom")} // overlayfs wants two
	below := look(t, lowers[0])
	for i := range rapid.IntRange(1, 4).Draw(t, "layers") {
		m := &layerMaker{below: below, kinds: map[string]byte{}, body: map[string]string{}}
		for range rapid.IntRange(1, 12).Draw(t, "entries") {
			m.draw(t)
		}
		layer := mkdir(t, dir, fmt.Sprint(i))
		data := m.archive(t, func(*tar.Header) bool { return true })
		res, err := unpack.Unpack(t.Context(), layer, bytes.NewReader(data), unpack.Options{Layer: true})
		must(t, err)
		must(t, unpack.Complete(t.Context(), layer, res.Needs, lowers))
		lowers = append(lowers, layer)
		unmount := mount(t, merged, lowers, "", "")
		below = look(t, merged)
		unmount()
		m.flatten(t, flat)
		if diff := differ(timeless(look(t, flat)), timeless(below)); diff != "" {
			t.Fatalf("layer %d: put one over the other, and merged:\n%s", i, diff)
		}
	}
	return lowers
}

// act changes something in a root filesystem, as a container would; what cannot be done is not.
func act(t *rapid.T, root string) {
	p := filepath.Join(root, drawPath(t, "path"))
	q := filepath.Join(root, drawPath(t, "other"))
	var err error
	switch rapid.IntRange(0, 16).Draw(t, "action") {
	case 0, 1:
		err = overwrite(p, rapid.SampledFrom([]string{"", "new", strings.Repeat("z", 9000)}).Draw(t, "text"))
	case 2, 3:
		err = os.Mkdir(p, 0o750)
	case 4, 5:
		err = rootfile.RemoveTree(p)
	case 6:
		err = os.Rename(p, q)
	case 7:
		err = os.Symlink("x\xfe/y", p)
	case 8:
		err = os.Link(p, q)
	case 9:
		err = unix.Mkfifo(p, 0o600)
	case 10:
		err = os.Lchown(p, rapid.IntRange(0, 70000).Draw(t, "uid"), 5)
	case 11:
		err = unix.Chmod(p, rapid.SampledFrom([]uint32{0o4711, 0o2755, 0o1777, 0}).Draw(t, "mode"))
	case 12:
		if err = unix.Lsetxattr(p, "user.new=", []byte("\x00v"), 0); err == nil {
			err = unix.Lsetxattr(p, "security.capability", []byte(fileCapability()), 0)
		}
	case 13:
		err = unix.Truncate(p, rapid.SampledFrom([]int64{0, 3, 1 << 20}).Draw(t, "size"))
	case 14:
		if err = rootfile.RemoveTree(p); err == nil {
			err = os.Mkdir(p, 0o700) // opaque
		}
	case 15:
		ts := unix.NsecToTimespec(drawTime(t).UnixNano())
		err = unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
	case 16:
		err = unix.Chmod(root, 0o2711)
	}
	if err != nil {
		t.Logf("not done: %q", err.Error())
	}
}

// overwrite waits for no reader: the path may be that of a fifo.
func overwrite(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NONBLOCK, 0o640)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

func packed(t *rapid.T, upper string, lowers []string) []byte {
	var b bytes.Buffer
	_, err := pack.Layer(t.Context(), upper, lowers, &b, pack.Options{})
	must(t, err)
	return b.Bytes()
}

// What a container did, packed and unpacked as one more layer, shows what the container saw.
func TestLayersComeBackAsTheyWere(t *testing.T) {
	// Each try mounts ten times, and runs tar: other ones each time, more of them under make soak.
	must(t, flag.Set("rapid.checks", fmt.Sprint(200/soak.Stride(10))))
	in := scratch(t)
	rapid.Check(t, func(t *rapid.T) {
		in(t, func(dir string) {
			lowers := drawStack(t, dir)
			merged, upper := filepath.Join(dir, "merged"), mkdir(t, dir, "upper")
			unmount := mount(t, merged, lowers, upper, mkdir(t, dir, "work"))
			before := look(t, merged)
			for range rapid.IntRange(1, 15).Draw(t, "actions") {
				act(t, merged)
			}
			after := look(t, merged)
			unmount()

			data := packed(t, upper, lowers)
			if !bytes.Equal(data, packed(t, upper, lowers)) {
				t.Error("the second time gives other bytes")
			}
			layer := mkdir(t, dir, "layer")
			res, err := unpack.Unpack(t.Context(), layer, bytes.NewReader(data), unpack.Options{Layer: true})
			must(t, err)
			if !res.Needs.Empty() || res.LostXattrs != 0 {
				t.Errorf("the layer is not complete: %+v", res)
			}
			unmount = mount(t, merged, append(slices.Clone(lowers), layer), "", "")
			if diff := differ(after, look(t, merged)); diff != "" {
				t.Errorf("as the container saw it, and from the layer:\n%s", diff)
			}
			checkTree(t, dir, merged, after)
			unmount()
			checkChanges(t, upper, lowers, before, after)
		})
	})
}

// checkTree compares a whole tree's tar with what tar makes of it, and with what we do.
func checkTree(t *rapid.T, dir, root string, want map[string]about) {
	f, err := os.Open(root)
	must(t, err)
	defer f.Close()
	var b bytes.Buffer
	_, err = pack.Tree(t.Context(), f, &b, pack.Options{})
	must(t, err)
	ours, theirs := mkdir(t, dir, "ours"), mkdir(t, dir, "theirs")
	_, err = unpack.Unpack(t.Context(), ours, bytes.NewReader(b.Bytes()), unpack.Options{})
	must(t, err)
	cmd := exec.Command("tar", "--xattrs", "--xattrs-include=*", "--same-owner", "--numeric-owner", "-p", "-C", theirs,
		"-xf", "-")
	cmd.Stdin = &b
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Fatalf("tar: %v: %s", err, out)
	}
	for who, got := range map[string]string{"we": ours, "tar": theirs} {
		if diff := differ(want, look(t, got)); diff != "" {
			t.Errorf("the tree, and what %s made of its tar:\n%s", who, diff)
		}
	}
}

// checkChanges compares what is told with two looks at the whole tree.
func checkChanges(t *rapid.T, upper string, lowers []string, before, after map[string]about) {
	got := map[string]pack.Kind{}
	must(t, pack.Changes(t.Context(), upper, lowers, pack.Options{}, func(c pack.Change) error {
		p := strings.TrimPrefix(c.Path, "/")
		if _, twice := got[p]; twice {
			t.Errorf("%q is told twice", p)
		}
		if dir := filepath.Dir(p); dir != "." && got[dir] == 0 {
			t.Errorf("%q is told and not %q above it", p, dir)
		}
		got[p] = c.Kind
		return nil
	}))
	for p, a := range after {
		b, was := before[p]
		b.first = a.first
		switch {
		case p == ".":
		case !was && got[p] != pack.Added:
			t.Errorf("%q is new and told as %q", p, got[p])
		case was && a != b && got[p] != pack.Modified:
			t.Errorf("%q differs and is told as %q", p, got[p])
		case was && got[p] != 0 && got[p] != pack.Modified:
			t.Errorf("%q was there and is told as %q", p, got[p])
		}
	}
	for p := range before {
		_, is := after[p]
		told := got[p] == pack.Deleted
		if want := !is && after[filepath.Dir(p)].isDir(); told != want {
			t.Errorf("%q: told to be deleted: %v, want %v", p, told, want)
		}
	}
	for p, k := range got {
		_, is := after[p]
		if _, was := before[p]; !is && !was || k == pack.Deleted && is {
			t.Errorf("%q is told as %q: it was there: %v, it is there: %v", p, k, was, is)
		}
	}
}

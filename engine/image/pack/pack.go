package pack

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/engine/snapshot"
)

// Options say what a tar is to hold.
type Options struct {
	IDMap IDMap // of the container whose files they are, if it has one
}

// Stats sum up what was written.
type Stats struct {
	Entries int
	Size    int64 // bytes of content in regular files; holes count, hard links do not
	// LeftOut are things that a tar, or a layer, cannot have: sockets, device nodes, and in a layer files whose
	// names say that others are removed (.wh.…).
	LeftOut int
}

// Names of the OCI image layer specification.
const (
	whiteoutPrefix = ".wh."
	opaqueMarker   = ".wh..wh..opq"
)

// Layer writes what is in overlayfs's upper directory as a layer of an OCI image. lowers are the directories of the
// layers below, bottom first; without any, there is nothing that the layer could hide.
//
// Entries are sorted, and no time of reading is in them: the same tree gives the same bytes. The root directory is
// there when it differs from the one below.
//
// The tree may change meanwhile: each file has the size it had when it was opened, the missing part of one that
// shrinks is zeros. What vanishes is left out.
func Layer(ctx context.Context, upper string, lowers []string, w io.Writer, o Options) (Stats, error) {
	p := newPacker(ctx, w, o)
	err := withTrees(upper, lowers, func(root, below int) error {
		walk := &walker{root: root, other: below, visit: p.change}
		return p.finish(walk.walk(ctx))
	})
	if err != nil {
		return p.stats, fmt.Errorf("pack layer %s: %w", upper, err)
	}
	return p.stats, nil
}

// Tree writes a root filesystem as a tar: what is in a directory, the directory itself included. Mounts in it are
// empty directories. See [Layer] for what is said of changes meanwhile; a descriptor opened with O_PATH will do.
func Tree(ctx context.Context, root *os.File, w io.Writer, o Options) (Stats, error) {
	p := newPacker(ctx, w, o)
	walk := &walker{root: int(root.Fd()), other: -1, visit: p.whole}
	if err := p.finish(walk.walk(ctx)); err != nil {
		return p.stats, fmt.Errorf("pack the tree %s: %w", root.Name(), err)
	}
	return p.stats, nil
}

// withTrees opens an upper directory, and what the layers below it show.
func withTrees(upper string, lowers []string, do func(root, below int) error) error {
	root, err := unix.Open(upper, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(root)
	if len(lowers) == 0 {
		return do(root, -1)
	}
	merged, err := snapshot.OpenMerged(lowers)
	if err != nil {
		return err
	}
	return errors.Join(do(root, int(merged.Fd())), merged.Close())
}

type packer struct {
	ctx   context.Context
	ids   IDMap
	tar   *tar.Writer
	buf   []byte
	stats Stats
	links map[inode]string // the first name of each file with several
}

type inode struct{ dev, ino uint64 }

func newPacker(ctx context.Context, w io.Writer, o Options) *packer {
	return &packer{ctx: ctx, ids: o.IDMap, tar: tar.NewWriter(w), buf: make([]byte, copyBuffer),
		links: map[inode]string{}}
}

func (p *packer) finish(err error) error {
	if err != nil {
		return err
	}
	if err := p.tar.Close(); err != nil {
		return fmt.Errorf("end the archive: %w", err)
	}
	return nil
}

// whole writes a node of a merged tree.
func (p *packer) whole(n node) (descent, error) {
	if n.st.Mode&unix.S_IFMT == unix.S_IFDIR {
		_, err := p.directory(n)
		return alone, err
	}
	_, err := p.put(n)
	return leave, err
}

// change writes a node of an upper directory.
func (p *packer) change(n node) (descent, error) {
	if n.path == "." {
		return along, p.root(n)
	}
	if strings.HasPrefix(n.name, whiteoutPrefix) {
		p.stats.LeftOut++
		return leave, nil
	}
	switch n.st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return p.changedDirectory(n)
	case unix.S_IFCHR:
		if n.st.Rdev == 0 {
			return leave, p.hide(n)
		}
	}
	written, err := p.put(n)
	if !written && err == nil {
		err = p.hide(n) // what is below does not show through
	}
	return leave, err
}

// changedDirectory writes a directory, and that it covers what is below.
func (p *packer) changedDirectory(n node) (descent, error) {
	a, err := p.directory(n)
	if err != nil {
		return leave, err
	}
	if a.incomplete != "" {
		return leave, fmt.Errorf("%q has the attribute %s: it was written by an overlay that refers to other "+
			"directories, which the layers here do not", n.path, a.incomplete)
	}
	st, ok, err := n.under()
	if err != nil {
		return leave, err
	}
	if !ok || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return alone, nil
	}
	if !a.opaque {
		return along, nil
	}
	return alone, p.marker(n.path + "/" + opaqueMarker)
}

// hide writes that something below is removed, if there is something.
func (p *packer) hide(n node) error {
	if _, ok, err := n.under(); !ok || err != nil {
		return err
	}
	dir := strings.TrimSuffix(n.path, n.name)
	return p.marker(dir + whiteoutPrefix + n.name)
}

// marker writes an empty file that says something of the layers below.
func (p *packer) marker(name string) error {
	return p.begin(&tar.Header{Name: name, Typeflag: tar.TypeReg, Format: tar.FormatPAX})
}

// root writes the root directory if it differs from the one below.
func (p *packer) root(n node) error {
	if n.below < 0 {
		_, err := p.directory(n)
		return err
	}
	a, err := p.ids.attributesOf(n.proc(), -1)
	if err != nil {
		return err
	}
	below, _, err := n.under()
	if err != nil {
		return err
	}
	under, err := IDMap{}.attributesOf(fdPath(n.below)+"/.", -1)
	if err != nil {
		return err
	}
	uid, gid := p.ids.owner(n)
	if uid == int(below.Uid) && gid == int(below.Gid) && n.st.Mode == below.Mode && maps.Equal(a.pax, under.pax) {
		return nil
	}
	_, err = p.directory(n)
	return err
}

// begin writes a header.
func (p *packer) begin(h *tar.Header) error {
	if err := p.tar.WriteHeader(h); err != nil {
		return fmt.Errorf("write the header of %q: %w", h.Name, err)
	}
	p.stats.Entries++
	return nil
}

func (p *packer) directory(n node) (attributes, error) {
	a, err := p.ids.attributesOf(n.proc(), -1)
	if err != nil {
		return a, fmt.Errorf("%q: %w", n.path, err)
	}
	h := p.ids.header(n, a)
	h.Typeflag = tar.TypeDir
	h.Name += "/"
	return a, p.begin(h)
}

// put writes what is no directory; false when a tar has no such thing, or it has vanished.
func (p *packer) put(n node) (written bool, err error) {
	kind := n.st.Mode & unix.S_IFMT
	var flag byte
	var target string
	switch kind {
	case unix.S_IFREG:
		flag = tar.TypeReg
	case unix.S_IFIFO:
		flag = tar.TypeFifo
	case unix.S_IFLNK:
		flag = tar.TypeSymlink
		if target, err = readlink(n); gone(err) || errors.Is(err, unix.EINVAL) {
			return true, nil
		}
	default:
		p.stats.LeftOut++
		return false, nil
	}
	if err != nil {
		return true, fmt.Errorf("read link %q: %w", n.path, err)
	}
	id := inode{n.st.Dev, n.st.Ino}
	if n.st.Nlink > 1 {
		if first, ok := p.links[id]; ok {
			h := p.ids.header(n, attributes{})
			h.Typeflag, h.Linkname = tar.TypeLink, first
			return true, p.begin(h)
		}
	}
	if kind == unix.S_IFREG {
		return true, p.file(n)
	}
	a, err := p.ids.attributesOf(n.proc(), -1)
	if err != nil {
		return true, fmt.Errorf("%q: %w", n.path, err)
	}
	h := p.ids.header(n, a)
	h.Typeflag, h.Linkname = flag, target
	if n.st.Nlink > 1 {
		p.links[id] = n.path
	}
	return true, p.begin(h)
}

func readlink(n node) (string, error) {
	buf := make([]byte, unix.PathMax)
	size, err := unix.Readlinkat(n.dir, n.name, buf)
	if err != nil {
		return "", err
	}
	return string(buf[:size]), nil
}

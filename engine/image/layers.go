package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine/image/unpack"
	"github.com/vethloom/vethloom/engine/rootfile"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// layers are the unpacked layers:
//
//	layers/<hex of the diff ID>/fs          what overlayfs shows
//	layers/<hex of the diff ID>/layer.json  layerInfo
//	tmp/                                    what is half-done; nothing refers to it
//
// A layer appears with one rename, complete and synced, and goes the same way.
type layers struct {
	root string
	log  *slog.Logger

	mu   sync.Mutex      // held while layers appear, disappear, or are pinned
	pins map[string]*pin // by hex
}

// pin keeps a layer that no record refers to yet from being swept, and lets
// one importer at a time unpack it.
type pin struct {
	holders int
	turn    chan struct{} // holds a token when no one unpacks
}

// layerInfo is what is known of a layer besides its content.
type layerInfo struct {
	DiffID  string `json:"diffID"`
	Size    int64  `json:"size"`    // bytes in regular files
	TarSize int64  `json:"tarSize"` // bytes of the uncompressed tar
}

func openLayers(root string, log *slog.Logger) (*layers, error) {
	root, err := filepath.Abs(root) // layers are mounted by processes elsewhere
	if err != nil {
		return nil, fmt.Errorf("find image directory: %w", err)
	}
	l := &layers{root: root, log: log, pins: map[string]*pin{}}
	for _, dir := range []string{root, l.published(), l.tmp()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make image directory: %w", diskError(root, err))
		}
	}
	left, err := os.ReadDir(l.tmp())
	if err != nil {
		return nil, fmt.Errorf("look for what killed imports left: %w", err)
	}
	for _, e := range left {
		if err := rootfile.RemoveTree(filepath.Join(l.tmp(), e.Name())); err != nil {
			return nil, fmt.Errorf("remove what a killed import left: %w", err)
		}
	}
	if len(left) > 0 {
		log.Info("removed what killed imports left", "dir", l.tmp(), "entries", len(left))
	}
	return l, nil
}

func (l *layers) published() string          { return filepath.Join(l.root, "layers") }
func (l *layers) tmp() string                { return filepath.Join(l.root, "tmp") }
func (l *layers) path(diffID v1.Hash) string { return filepath.Join(l.published(), diffID.Hex) }
func (l *layers) fs(diffID v1.Hash) string   { return filepath.Join(l.path(diffID), "fs") }

// hold pins a layer until release is called.
func (l *layers) hold(diffID v1.Hash) (p *pin, release func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p = l.pins[diffID.Hex]
	if p == nil {
		p = &pin{turn: make(chan struct{}, 1)}
		p.turn <- struct{}{}
		l.pins[diffID.Hex] = p
	}
	p.holders++
	return p, sync.OnceFunc(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if p.holders--; p.holders == 0 {
			delete(l.pins, diffID.Hex)
		}
	})
}

// info reads what is known of a layer; fs.ErrNotExist when it is not there.
func (l *layers) info(diffID v1.Hash) (layerInfo, error) {
	b, err := os.ReadFile(filepath.Join(l.path(diffID), "layer.json"))
	if err != nil {
		return layerInfo{}, err
	}
	var info layerInfo
	if err := json.Unmarshal(b, &info); err != nil {
		return layerInfo{}, fmt.Errorf("read %s: %w", filepath.Join(l.path(diffID), "layer.json"), err)
	}
	return info, nil
}

// size sums up layers by their diff IDs, in bytes; those not there count nothing.
func (l *layers) size(diffIDs []string) (sum int64) {
	for _, d := range diffIDs {
		if h, err := v1.NewHash(d); err == nil {
			if info, err := l.info(h); err == nil {
				sum += info.Size
			}
		}
	}
	return sum
}

// ensure makes a held layer be there: it opens and unpacks the tar when it is not.
func (l *layers) ensure(ctx context.Context, p *pin, diffID v1.Hash, open func() (io.ReadCloser, error),
	room *space) (layerInfo, error) {
	select {
	case <-p.turn:
		defer func() { p.turn <- struct{}{} }()
	case <-ctx.Done():
		return layerInfo{}, context.Cause(ctx)
	}
	info, err := l.info(diffID)
	if !errors.Is(err, fs.ErrNotExist) {
		return info, err
	}
	r, err := open()
	if err != nil {
		return layerInfo{}, err
	}
	defer r.Close()
	got, err := l.unpack(ctx, r, unpack.Options{Layer: true}, room)
	if err != nil {
		return layerInfo{}, err
	}
	defer got.discard()
	if got.diffID != diffID {
		return layerInfo{}, &unpack.FormatError{
			Reason: fmt.Sprintf("does not match its digest: it should be %s and is %s", diffID, got.diffID),
			Remedy: "the archive is damaged or was tampered with: fetch or make it again",
		}
	}
	return got.info, l.publish(got)
}

// unpacked is a layer in the temporary directory.
type unpacked struct {
	dir    string
	diffID v1.Hash
	info   layerInfo
}

// discard removes the layer unless it was published.
func (u *unpacked) discard() error { return rootfile.RemoveTree(u.dir) }

// unpack unpacks a tar, compressed or not, into the temporary directory, and
// leaves nothing there when it fails.
func (l *layers) unpack(ctx context.Context, r io.Reader, o unpack.Options, room *space) (u *unpacked, err error) {
	dir, err := os.MkdirTemp(l.tmp(), "layer-")
	if err != nil {
		return nil, fmt.Errorf("make directory for layer: %w", diskError(l.root, err))
	}
	u = &unpacked{dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(diskError(l.root, err), u.discard())
			u = nil
		}
	}()
	target := filepath.Join(dir, "fs")
	if err := os.Mkdir(target, 0o755); err != nil {
		return u, err
	}
	s := openStream(ctx, r, room)
	defer s.close()
	res, err := unpack.Unpack(ctx, target, s, o)
	if err != nil {
		return u, err
	}
	var tarSize int64
	if u.diffID, tarSize, err = s.digest(); err != nil {
		return u, err
	}
	if res.LostXattrs > 0 {
		l.log.Warn("the image directory's filesystem cannot keep some extended attributes", "layer", u.diffID.String(),
			"attributes", res.LostXattrs)
	}
	u.info = layerInfo{DiffID: u.diffID.String(), Size: res.Size, TarSize: tarSize}
	b, err := json.Marshal(u.info)
	if err != nil {
		return u, err
	}
	if err := os.WriteFile(filepath.Join(dir, "layer.json"), b, 0o600); err != nil {
		return u, err
	}
	return u, syncFilesystem(dir)
}

// publish gives an unpacked layer its place, unless the same one is there.
func (l *layers) publish(u *unpacked) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	err := os.Rename(u.dir, l.path(u.diffID))
	if errors.Is(err, fs.ErrExist) || errors.Is(err, unix.ENOTEMPTY) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("publish layer %s: %w", u.diffID, diskError(l.root, err))
	}
	return syncDirectory(l.published())
}

// sweep removes every layer that is neither pinned nor needed. needed is
// called with no layer able to appear or be pinned meanwhile.
func (l *layers) sweep(needed func() (map[string]bool, error)) error {
	trash, err := l.bury(needed)
	for _, dir := range trash {
		err = errors.Join(err, rootfile.RemoveTree(dir))
	}
	if err != nil {
		return fmt.Errorf("remove layers no image has: %w", err)
	}
	return nil
}

// bury moves what is to be swept into the temporary directory.
func (l *layers) bury(needed func() (map[string]bool, error)) (trash []string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	keep, err := needed()
	if err != nil {
		return nil, err
	}
	all, err := os.ReadDir(l.published())
	if err != nil {
		return nil, err
	}
	for _, e := range all {
		if keep[e.Name()] || l.pins[e.Name()] != nil {
			continue
		}
		grave, err := os.MkdirTemp(l.tmp(), "gone-")
		if err != nil {
			return trash, err
		}
		trash = append(trash, grave)
		if err := os.Rename(filepath.Join(l.published(), e.Name()), filepath.Join(grave, "layer")); err != nil {
			return trash, err
		}
	}
	return trash, nil
}

// syncFilesystem writes out all of the filesystem a directory is on: one
// call instead of one a file, see syncfs(2).
func syncFilesystem(dir string) error {
	return withDirectory(dir, "sync the filesystem of", unix.Syncfs)
}

// syncDirectory makes renames in a directory last, see fsync(2).
func syncDirectory(dir string) error { return withDirectory(dir, "sync", unix.Fsync) }

func withDirectory(dir, what string, do func(fd int) error) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := do(int(d.Fd())); err != nil {
		return fmt.Errorf("%s %s: %w", what, dir, err)
	}
	return nil
}

// diskError says what to do about a filesystem that takes no more.
func diskError(root string, err error) error {
	switch {
	case errors.Is(err, unix.ENOSPC):
		return &cnm.Error{
			Kind: cnm.ErrExhausted, Cause: err,
			Reason: fmt.Sprintf("the filesystem that holds %s has no room for it (%s)", root, free(root)),
			Remedy: "free space with 'net rmi IMAGE', 'net rm CONTAINER' or 'net volume prune', or start netd " +
				"with --root on a larger filesystem; nothing of this image was kept",
		}
	case errors.Is(err, unix.EDQUOT):
		return &cnm.Error{Kind: cnm.ErrExhausted, Cause: err, Reason: "the disk quota for " + root + " is used up",
			Remedy: "raise it, or free space with 'net rmi IMAGE'"}
	case errors.Is(err, unix.EROFS):
		return &cnm.Error{Kind: cnm.ErrForbidden, Cause: err, Reason: root + " is on a read-only filesystem",
			Remedy: "start netd with --root on a writable one"}
	}
	return err
}

// space is how much an archive may come to, decompressed. Its content has to fit the filesystem; that bounds too how
// long one is read that decompresses to more and more of what is not kept.
// A part of the filesystem is left for what netd has to write meanwhile, its records above all.
type space struct {
	root        string
	left, limit int64 // bytes
	reserve     int64 // bytes that stay free
	unchecked   int64 // bytes since the last look at what is free
}

// maxReserve is the most that is left free, in bytes; of a small filesystem it is a twentieth.
const maxReserve = 256 << 20

// checkEvery is how much is taken between two looks at the filesystem, in bytes.
const checkEvery = 1 << 20

// spaceSlack is what a tar may have besides content that is kept, headers above all, in bytes.
const spaceSlack = 1 << 30

func (l *layers) space() *space {
	s := &space{root: l.root, limit: 1 << 40} // where the filesystem does not tell
	var st unix.Statfs_t
	if err := unix.Statfs(l.root, &st); err == nil {
		free := int64(st.Bavail) * st.Bsize
		s.limit = free + free/4 + spaceSlack
		s.reserve = min(maxReserve, int64(st.Blocks)*st.Bsize/20)
	}
	s.left = s.limit
	return s
}

// take is called for what was read.
func (s *space) take(n int) error {
	if s.left -= int64(n); s.left >= 0 {
		return s.check(n)
	}
	return &cnm.Error{Kind: cnm.ErrExhausted,
		Reason: fmt.Sprintf("it decompresses to more than %d MiB, for which there is no space", s.limit>>20),
		Remedy: "free space, or start netd with --root on a larger filesystem"}
}

// check looks whether the reserve is untouched.
func (s *space) check(n int) error {
	if s.unchecked += int64(n); s.unchecked < checkEvery {
		return nil
	}
	s.unchecked = 0
	var st unix.Statfs_t
	if err := unix.Statfs(s.root, &st); err != nil || int64(st.Bavail)*st.Bsize >= s.reserve {
		return nil
	}
	return &cnm.Error{Kind: cnm.ErrExhausted,
		Reason: fmt.Sprintf("the filesystem that holds %s has no room for it: the last %d MiB are left for netd's "+
			"records", s.root, s.reserve>>20),
		Remedy: "free space with 'net rmi IMAGE', 'net rm CONTAINER' or 'net volume prune', or start netd with " +
			"--root on a larger filesystem; nothing of this image was kept"}
}

// free tells what ran out: bytes or inodes.
func free(dir string) string {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return "its free space is unknown: " + err.Error()
	}
	return fmt.Sprintf("%d MiB and %d inodes left", st.Bavail*uint64(st.Bsize)>>20, st.Ffree)
}

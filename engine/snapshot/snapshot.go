package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine/rootfile"
)

// Snapshots are the writable layers of a node's containers:
//
//	<id>/rootfs    where the root filesystem is mounted; empty on the host
//	<id>/rw/upper  what the container wrote
//	<id>/rw/work   overlayfs's own
//	<id>/l/0…      links to the image's layers, top first, for their short names
//	<id>/empty     the layer of an image without layers
//	.base          the lowest layer of all, with what images leave out
type Snapshots struct {
	root string
}

// Usage is the space a container's writable layer takes.
type Usage struct {
	Bytes  int64 // allocated on disk
	Inodes int64
}

// gonePrefix marks what is being removed; no ID starts with it.
const gonePrefix = ".gone-"

// Open opens the snapshots under a directory, which is made when missing, and
// finishes the removals that a crash cut short.
func Open(root string) (*Snapshots, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, fmt.Errorf("open snapshots: %w", err)
	}
	// Traversable: the root of a container in a user namespace must reach its rootfs.
	if err := os.MkdirAll(root, 0o711); err != nil {
		return nil, fmt.Errorf("open snapshots: %w", err)
	}
	left, err := filepath.Glob(filepath.Join(escapeGlob(root), gonePrefix+"*"))
	if err != nil {
		return nil, fmt.Errorf("open snapshots: %w", err)
	}
	for _, dir := range left {
		if err := rootfile.RemoveTree(dir); err != nil {
			return nil, fmt.Errorf("finish removing a snapshot: %w", err)
		}
	}
	s := &Snapshots{root: root}
	if err := s.base(); err != nil {
		return nil, fmt.Errorf("open snapshots: %w", err)
	}
	return s, nil
}

func escapeGlob(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// validID is no regular expression: compiling one would take a millisecond of
// every net-shim's start, which imports this package for Mount.
func validID(id string) bool {
	const alnum = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	return id != "" && len(id) <= 128 && strings.ContainsRune(alnum, rune(id[0])) && strings.Trim(id, alnum+"_.-") == ""
}

func (s *Snapshots) dir(id string) (string, error) {
	if !validID(id) {
		return "", &cnm.Error{Kind: cnm.ErrInvalid, Field: "snapshot ID", Value: id,
			Reason: "is not made of letters, digits, '_', '.' and '-'"}
	}
	return filepath.Join(s.root, id), nil
}

// Dirs are the directories of a container's writable layer, whether it has been made or not.
type Dirs struct {
	Root        string // where the root filesystem is, for its supervisor
	Upper, Work string
}

// Dirs names the directories of a container's writable layer.
func (s *Snapshots) Dirs(id string) Dirs {
	dir := filepath.Join(s.root, id)
	return Dirs{Root: filepath.Join(dir, "rootfs"), Upper: filepath.Join(dir, "rw", "upper"),
		Work: filepath.Join(dir, "rw", "work")}
}

// Prepare makes the writable layer of a container, unless it is there already,
// and returns the mounts that assemble its root filesystem at the last mount's
// Target. lower is bottom first, as image.Store.LayerDirs returns it.
func (s *Snapshots) Prepare(ctx context.Context, id string, lower []string) ([]Mount, error) {
	dir, err := s.dir(id)
	if err != nil {
		return nil, err
	}
	if len(lower) == 0 {
		lower = []string{filepath.Join(dir, "empty")}
	}
	lower = s.Below(lower)
	if err = s.layout(ctx, dir, lower); err == nil {
		err = makeWritable(dir, lower)
	}
	if err != nil {
		return nil, fmt.Errorf("prepare snapshot %s: %w", id, err)
	}
	return []Mount{overlay(dir, lower, true)}, nil
}

// View is Prepare without a writable layer: a root filesystem that cannot be
// changed. (A container with a read-only root needs Prepare: its mount points are
// made before the root is turned read-only.)
func (s *Snapshots) View(ctx context.Context, id string, lower []string) ([]Mount, error) {
	dir, err := s.dir(id)
	if err != nil {
		return nil, err
	}
	if len(lower) == 0 {
		lower = []string{filepath.Join(dir, "empty")}
	}
	lower = s.Below(lower) // overlayfs wants two lower ones where there is no upper
	if err := s.layout(ctx, dir, lower); err != nil {
		return nil, fmt.Errorf("prepare view %s: %w", id, err)
	}
	return []Mount{overlay(dir, lower, false)}, nil
}

// layout makes a snapshot's directories and links.
func (s *Snapshots) layout(ctx context.Context, dir string, lower []string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	links := filepath.Join(dir, "l")
	if err := os.RemoveAll(links); err != nil { // of another image, or of a Prepare cut short
		return err
	}
	for _, d := range []struct {
		path string
		mode os.FileMode
	}{{dir, 0o711}, {filepath.Join(dir, "rw"), 0o700}, {links, 0o700}, {filepath.Join(dir, "rootfs"), 0o755},
		{filepath.Join(dir, "empty"), 0o755}} {
		if err := os.Mkdir(d.path, d.mode); err != nil && !errors.Is(err, fs.ErrExist) {
			return diskError(s.root, err)
		}
		if err := os.Chmod(d.path, d.mode); err != nil { // whatever the umask
			return err
		}
	}
	if fits(dir, lower) {
		return nil
	}
	for i := range lower {
		if err := os.Symlink(lower[len(lower)-1-i], filepath.Join(links, linkName(i))); err != nil {
			return diskError(s.root, err)
		}
	}
	return nil
}

// makeWritable makes the upper and work directories. The root directory of
// the mount has the upper's owner and mode, which so must be the image's.
func makeWritable(dir string, lower []string) error {
	upper, work := filepath.Join(dir, "rw", "upper"), filepath.Join(dir, "rw", "work")
	if err := os.Mkdir(work, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return diskError(dir, err)
	}
	if _, err := os.Lstat(upper); err == nil {
		return nil
	}
	// Complete before it has its name: a crash in between leaves none.
	fresh := upper + ".new"
	if err := os.Mkdir(fresh, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return diskError(dir, err)
	}
	root := rootOf(lower)
	var st unix.Stat_t
	if err := unix.Stat(root, &st); err != nil {
		return fmt.Errorf("look at layer %s: %w", root, err)
	}
	if err := unix.Chown(fresh, int(st.Uid), int(st.Gid)); err != nil {
		return fmt.Errorf("set owner of %s: %w", fresh, err)
	}
	if err := unix.Chmod(fresh, st.Mode&0o7777); err != nil {
		return fmt.Errorf("set mode of %s: %w", fresh, err)
	}
	return os.Rename(fresh, upper)
}

// RootMark is an attribute of layers' directories: the layer says what owner and mode the root directory has. Most
// layers do not, and their directories have whatever they were made with.
const RootMark = "trusted.vethloom.root"

// rootOf is the layer that the root directory is like: the topmost with the mark, or the topmost of all.
func rootOf(lower []string) string {
	for i := len(lower) - 1; i >= 0; i-- {
		if n, err := unix.Getxattr(lower[i], RootMark, nil); err == nil && n > 0 {
			return lower[i]
		}
	}
	return lower[len(lower)-1]
}

// Upper is the directory that holds what a container wrote, in overlayfs's
// form, for a commit to read.
func (s *Snapshots) Upper(id string) (string, error) {
	dir, err := s.dir(id)
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "rw", "upper"), nil
}

// Remove removes a container's writable layer with all it holds; one that
// does not exist is no error. The container must be gone: removing a mount point pulls its mount away.
func (s *Snapshots) Remove(ctx context.Context, id string) error {
	dir, err := s.dir(id)
	if err != nil {
		return err
	}
	if ctx.Err() != nil {
		return fmt.Errorf("remove snapshot %s: %w", id, context.Cause(ctx))
	}
	gone, err := os.MkdirTemp(s.root, gonePrefix)
	if err != nil {
		return fmt.Errorf("remove snapshot %s: %w", id, err)
	}
	err = os.Rename(dir, filepath.Join(gone, "snapshot"))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err := errors.Join(err, rootfile.RemoveTree(gone)); err != nil {
		return fmt.Errorf("remove snapshot %s: %w", id, err)
	}
	return nil
}

// Usage measures a container's writable layer.
func (s *Snapshots) Usage(ctx context.Context, id string) (Usage, error) {
	upper, err := s.Upper(id)
	if err != nil {
		return Usage{}, err
	}
	var u Usage
	u.Bytes, u.Inodes, err = rootfile.Measure(ctx, upper)
	if err != nil {
		return Usage{}, fmt.Errorf("measure snapshot %s: %w", id, err)
	}
	return u, nil
}

// diskError says what to do about a full filesystem.
func diskError(root string, err error) error {
	if !errors.Is(err, unix.ENOSPC) {
		return err
	}
	return &cnm.Error{
		Kind: cnm.ErrExhausted, Cause: err,
		Reason: "the filesystem that holds " + root + " is full",
		Remedy: "free space with 'net rmi IMAGE', 'net rm CONTAINER' or 'net volume prune'",
	}
}

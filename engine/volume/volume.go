package volume

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine/rootfile"
)

// Volume is a named directory.
type Volume struct {
	Name    string            `json:"name"`
	Path    string            `json:"-"` // absolute path of the data on the host
	Labels  map[string]string `json:"labels,omitempty"`
	Options map[string]string `json:"options,omitempty"` // of the driver: type, device, o
	Created time.Time         `json:"created"`

	revision uint64
}

// Volumes are a node's volumes: a record, and a directory <root>/<name>/_data each.
type Volumes struct {
	root  string
	store cnm.Store
}

// gonePrefix marks what is being removed; no name starts with it.
const gonePrefix = ".gone-"

// Open opens the volumes under a directory, which is made when missing, and
// finishes the removals that a crash cut short.
func Open(root string, store cnm.Store) (*Volumes, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, fmt.Errorf("open volumes: %w", err)
	}
	// Containers leave files in it, which no other user of the host may reach.
	if err := errors.Join(os.MkdirAll(root, 0o700), os.Chmod(root, 0o700)); err != nil {
		return nil, fmt.Errorf("open volumes: %w", err)
	}
	all, err := os.ReadDir(root)
	if err != nil {
		return nil, fmt.Errorf("open volumes: %w", err)
	}
	for _, e := range all {
		if !strings.HasPrefix(e.Name(), gonePrefix) {
			continue
		}
		if err := rootfile.RemoveTree(filepath.Join(root, e.Name())); err != nil {
			return nil, fmt.Errorf("finish removing a volume: %w", err)
		}
	}
	return &Volumes{root: root, store: store}, nil
}

var validName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$`)

// CheckName refuses names that cannot be directories, or be told from paths.
func CheckName(name string) error {
	if validName.MatchString(name) {
		return nil
	}
	return &cnm.Error{
		Kind: cnm.ErrInvalid, Field: "volume name", Value: name,
		Reason: "is not made of 1 to 128 letters, digits, '_', '.' and '-', starting with a letter or digit",
		Remedy: "choose such a name, or give an absolute path to mount a directory of the host",
	}
}

func key(name string) cnm.Key { return cnm.Key{Kind: cnm.KindVolume, ID: name} }

func (v *Volumes) path(name string) string { return filepath.Join(v.root, name, "_data") }

// Ensure returns the volume of that name, made first when there is none;
// fresh tells which. Labels count for a new volume only; other options than those it has are a [cnm.ErrExists].
func (v *Volumes) Ensure(ctx context.Context, r Request) (vol Volume, fresh bool, err error) {
	name := r.Name
	if err := r.Check(); err != nil {
		return Volume{}, false, err
	}
	for {
		vol, err = v.Get(ctx, name)
		if err == nil {
			err = r.conflict(vol)
		}
		if errors.Is(err, cnm.ErrExists) {
			return Volume{}, false, err
		}
		if err == nil {
			// The record comes first: a crash in between is mended here.
			return vol, false, v.makeDirectory(name)
		}
		if !errors.Is(err, cnm.ErrNotFound) {
			return Volume{}, false, err
		}
		vol, err = v.create(ctx, r)
		if !errors.Is(err, cnm.ErrConflict) { // made by someone else meanwhile
			return vol, err == nil, err
		}
	}
}

func (v *Volumes) create(ctx context.Context, r Request) (Volume, error) {
	name := r.Name
	vol := Volume{Name: name, Labels: r.Labels, Options: r.Options, Created: time.Now().UTC()}
	b, err := json.Marshal(vol)
	if err != nil {
		return Volume{}, fmt.Errorf("create volume %s: %w", name, err)
	}
	if err := v.store.Commit(ctx, cnm.Write{Key: key(name), Value: b}); err != nil {
		return Volume{}, fmt.Errorf("create volume %s: %w", name, err)
	}
	if err := v.makeDirectory(name); err != nil {
		return Volume{}, errors.Join(err, v.drop(context.WithoutCancel(ctx), name))
	}
	return v.Get(ctx, name)
}

// drop takes the record of a volume that could not be made back.
func (v *Volumes) drop(ctx context.Context, name string) error {
	vol, err := v.Get(ctx, name)
	if err != nil {
		return err
	}
	return v.store.Commit(ctx, cnm.Write{Key: key(name), Revision: vol.revision})
}

func (v *Volumes) makeDirectory(name string) error {
	for _, d := range []struct {
		path string
		mode os.FileMode
	}{{filepath.Join(v.root, name), 0o700}, {v.path(name), 0o755}} {
		err := os.Mkdir(d.path, d.mode)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err == nil {
			err = os.Chmod(d.path, d.mode) // whatever the umask
		}
		if err != nil {
			return fmt.Errorf("make directory of volume %s: %w", name, err)
		}
	}
	return nil
}

// Get returns a volume; a [NotFoundError] when there is none of that name.
func (v *Volumes) Get(ctx context.Context, name string) (Volume, error) {
	r, err := v.store.Get(ctx, key(name))
	if errors.Is(err, cnm.ErrNotFound) {
		return Volume{}, &NotFoundError{Name: name}
	}
	if err != nil {
		return Volume{}, fmt.Errorf("get volume %s: %w", name, err)
	}
	return v.decode(r)
}

func (v *Volumes) decode(r cnm.Record) (Volume, error) {
	vol := Volume{Path: v.path(r.Key.ID), revision: r.Revision}
	if err := json.Unmarshal(r.Value, &vol); err != nil {
		return Volume{}, fmt.Errorf("read record of volume %s: %w", r.Key.ID, err)
	}
	return vol, nil
}

// List returns every volume in order of name.
func (v *Volumes) List(ctx context.Context) ([]Volume, error) {
	records, err := v.store.List(ctx, cnm.KindVolume)
	if err != nil {
		return nil, fmt.Errorf("list volumes: %w", err)
	}
	var all []Volume
	for _, r := range records {
		vol, err := v.decode(r)
		if err != nil {
			return nil, err
		}
		all = append(all, vol)
	}
	return all, nil
}

// Remove removes a volume and its data. inUse names the containers that have
// a volume mounted (nil: none does): then it is kept, a [cnm.ErrInUse].
func (v *Volumes) Remove(ctx context.Context, name string, inUse func(name string) []string) error {
	vol, err := v.Get(ctx, name)
	if err != nil {
		return err
	}
	if inUse != nil {
		if users := inUse(name); len(users) > 0 {
			return fmt.Errorf("remove volume %s: %w", name, &cnm.Error{
				Kind: cnm.ErrInUse, Reason: "it is in use by container " + strings.Join(users, ", "),
				Remedy: "remove the container first with 'net rm'",
			})
		}
	}
	// The data is moved away before the record goes, so that no new volume of
	// the name finds it, and removed last, as Open would do after a crash.
	gone, err := os.MkdirTemp(v.root, gonePrefix)
	if err != nil {
		return fmt.Errorf("remove volume %s: %w", name, err)
	}
	err = os.Rename(filepath.Join(v.root, name), filepath.Join(gone, name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove volume %s: %w", name, errors.Join(err, os.Remove(gone)))
	}
	if err := v.store.Commit(ctx, cnm.Write{Key: key(name), Revision: vol.revision}); err != nil {
		back := os.Rename(filepath.Join(gone, name), filepath.Join(v.root, name))
		return fmt.Errorf("remove volume %s: %w", name, errors.Join(err, back, os.Remove(gone)))
	}
	if err := rootfile.RemoveTree(gone); err != nil {
		return fmt.Errorf("remove data of volume %s: %w", name, err)
	}
	return nil
}

// Prune removes every volume that no container uses, and returns their names.
func (v *Volumes) Prune(ctx context.Context, inUse func(name string) []string) ([]string, error) {
	all, err := v.List(ctx)
	if err != nil {
		return nil, err
	}
	var gone []string
	for _, vol := range all {
		err := v.Remove(ctx, vol.Name, inUse)
		if errors.Is(err, cnm.ErrInUse) {
			continue
		}
		if err != nil {
			return gone, err
		}
		gone = append(gone, vol.Name)
	}
	return gone, nil
}

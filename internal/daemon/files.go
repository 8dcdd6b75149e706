package daemon

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/vethloom/vethloom/api/server"
	"github.com/vethloom/vethloom/engine"
	"github.com/vethloom/vethloom/engine/image"
	"github.com/vethloom/vethloom/engine/image/pack"
	"github.com/vethloom/vethloom/engine/snapshot"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Commit implements [server.ContainerFiles].
func (c containers) Commit(ctx context.Context, r server.CommitRequest) (id string, err error) {
	images{daemon: c.daemon}.before(ctx, nil)
	files, err := c.Files(ctx, r.Container)
	if err != nil {
		return "", err
	}
	if r.Pause {
		release, err := c.Hold(ctx, files.ID)
		if err != nil {
			return "", fmt.Errorf("hold container %s while it is read: %w", files.Name, err)
		}
		defer func() { err = errors.Join(err, release()) }()
	}
	upper, lowers, err := c.layers(files)
	if err != nil {
		return "", err
	}
	img, err := piped(func(w io.Writer) error {
		if upper == "" { // it was never started
			return tar.NewWriter(w).Close()
		}
		_, err := pack.Layer(ctx, upper, lowers, w, packOptions(files))
		return err
	}, func(tar io.Reader) (image.Image, error) {
		return c.daemon.images.Commit(ctx, files.Image, tar, image.CommitOptions{Reference: r.Reference,
			Author: r.Author, Message: r.Message, Changes: r.Changes, Config: configOf(files),
			Command: files.Spec.Command})
	})
	if err != nil {
		return "", err
	}
	c.daemon.events.emit(server.Event{Type: "image", Action: "commit", ID: img.ID,
		Attributes: map[string]string{"name": r.Reference, "container": files.ID}})
	return img.ID, nil
}

// Changes implements [server.ContainerFiles].
func (c containers) Changes(ctx context.Context, ref string, f func([]server.FileChange) error) error {
	files, err := c.Files(ctx, ref)
	if err != nil {
		return err
	}
	upper, lowers, err := c.layers(files)
	if err != nil || upper == "" {
		return err
	}
	kinds := map[pack.Kind]string{pack.Added: server.ChangeAdded, pack.Modified: server.ChangeChanged,
		pack.Deleted: server.ChangeDeleted}
	var some []server.FileChange
	err = pack.Changes(ctx, upper, lowers, packOptions(files), func(ch pack.Change) error {
		some = append(some, server.FileChange{Kind: kinds[ch.Kind], Path: ch.Path})
		if len(some) < changesAtOnce {
			return nil
		}
		err := f(some)
		some = nil
		return err
	})
	if err == nil && len(some) > 0 {
		err = f(some)
	}
	return err
}

// changesAtOnce is how many changes are told in one message: a path has 4096 bytes at most.
const changesAtOnce = 200

// Export implements [server.ContainerFiles].
func (c containers) Export(ctx context.Context, ref string, w io.Writer) error {
	files, err := c.Files(ctx, ref)
	if err != nil {
		return err
	}
	upper, lowers, err := c.layers(files)
	if err != nil {
		return err
	}
	if upper != "" {
		lowers = append(lowers, upper)
	}
	root, err := snapshot.OpenMerged(lowers)
	if err != nil {
		return err
	}
	defer root.Close()
	_, err = pack.Tree(ctx, root.File, w, packOptions(files))
	return err
}

// layers are what a container wrote, "" for one that was never started, and what is below it, bottom first.
func (c containers) layers(f engine.Files) (upper string, lowers []string, err error) {
	if upper, err = c.daemon.snapshots.Upper(f.ID); err != nil {
		return "", nil, err
	}
	if _, err := os.Lstat(upper); errors.Is(err, fs.ErrNotExist) {
		upper = ""
	} else if err != nil {
		return "", nil, err
	}
	return upper, c.daemon.snapshots.Below(c.daemon.images.LayerDirs(f.Image)), nil
}

func packOptions(f engine.Files) pack.Options {
	if f.IDMap == nil {
		return pack.Options{}
	}
	return pack.Options{IDMap: pack.IDMap{HostID: f.IDMap.HostID, Size: f.IDMap.Size}}
}

// piped has one function read what another writes. The reader's error counts, unless the writer's ended it.
func piped(write func(io.Writer) error, read func(io.Reader) (image.Image, error)) (image.Image, error) {
	r, w := io.Pipe()
	wrote := make(chan error, 1)
	go func() {
		err := write(w)
		w.CloseWithError(err)
		wrote <- err
	}()
	img, err := read(r)
	r.CloseWithError(errors.New("nobody reads the layer any more"))
	werr := <-wrote
	if werr != nil && err != nil && errors.Is(err, werr) {
		return image.Image{}, werr
	}
	return img, err
}

// configOf is the configuration of an image made of a container: what it runs with, as with Docker.
func configOf(f engine.Files) v1.Config {
	s, old := f.Spec, f.Image.Config
	c := v1.Config{Cmd: s.Command, Entrypoint: s.Entrypoint, Env: s.Env, WorkingDir: s.WorkDir, User: s.User,
		Labels: s.Labels, StopSignal: s.StopSignal, Volumes: old.Volumes, ExposedPorts: map[string]struct{}{}}
	for p := range old.ExposedPorts {
		c.ExposedPorts[p] = struct{}{}
	}
	for _, p := range s.Expose {
		c.ExposedPorts[fmt.Sprintf("%d/%s", p.Port, p.Proto)] = struct{}{}
	}
	return c
}

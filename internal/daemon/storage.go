package daemon

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"io"
	"path/filepath"

	"github.com/vethloom/vethloom/api/server"
	"github.com/vethloom/vethloom/engine"
	"github.com/vethloom/vethloom/engine/image"
	"github.com/vethloom/vethloom/engine/registry"
	"github.com/vethloom/vethloom/engine/rootfile"
	"github.com/vethloom/vethloom/engine/volume"
	"github.com/vethloom/vethloom/internal/store/bolt"
)

// openStore opens the records, those that outlive a reboot and those that do not.
func (d *daemon) openStore(ctx context.Context) (*bolt.Store, error) {
	return bolt.Open(ctx, bolt.Config{
		StateFile:   filepath.Join(d.cfg.Root, "state.db"),
		RuntimeFile: filepath.Join(d.cfg.Run, "runtime.db"),
		BootID:      d.boot,
		Log:         d.log,
	})
}

// images serves the API's images. What a container was made from is in use.
type images struct {
	*image.Store
	registries *registry.Client
	daemon     *daemon
}

// ImportImage implements [server.Images].
func (i images) ImportImage(ctx context.Context, r io.Reader, o image.ImportOptions) (image.Image, error) {
	i.before(ctx, nil)
	img, err := i.Import(ctx, r, o)
	if err == nil {
		i.daemon.events.emit(server.Event{Type: "image", Action: "import", ID: img.ID,
			Attributes: map[string]string{"name": o.Reference}})
	}
	return img, err
}

// LoadImages implements [server.Images].
func (i images) LoadImages(ctx context.Context, r io.Reader) ([]image.Image, error) {
	i.before(ctx, nil)
	list, err := i.Load(ctx, r)
	for _, img := range list {
		i.daemon.events.emit(server.Event{Type: "image", Action: "load", ID: img.ID})
	}
	return list, err
}

// ListImages implements [server.Images].
func (i images) ListImages(ctx context.Context) ([]image.Image, error) { return i.List(ctx) }

// InspectImage implements [server.Images].
func (i images) InspectImage(ctx context.Context, ref string) (image.Image, error) {
	return i.Resolve(ctx, ref)
}

// RemoveImage implements [server.Images].
func (i images) RemoveImage(ctx context.Context, ref string, force bool) (untagged, deleted []string, err error) {
	named, _ := i.Resolve(ctx, ref) // for events; Remove says what is wrong
	untagged, deleted, err = i.Remove(ctx, ref, force, i.daemon.engine.ImageUsers)
	for _, name := range untagged {
		i.daemon.events.emit(server.Event{Type: "image", Action: "untag", ID: named.ID,
			Attributes: map[string]string{"name": name}})
	}
	for _, id := range deleted {
		i.daemon.events.emit(server.Event{Type: "image", Action: "remove", ID: id})
	}
	return untagged, deleted, err
}

// TagImage implements [server.Images].
func (i images) TagImage(ctx context.Context, src, dst string) error {
	if err := i.Tag(ctx, src, dst); err != nil {
		return err
	}
	if named, err := image.ParseNamed(dst); err == nil {
		if img, err := i.Resolve(ctx, dst); err == nil {
			i.daemon.events.emit(server.Event{Type: "image", Action: "tag", ID: img.ID,
				Attributes: map[string]string{"name": named.String()}})
		}
	}
	return nil
}

// volumes serves the API's volumes. What a container mounts is in use.
type volumes struct {
	*volume.Volumes
	daemon *daemon
}

func (v volumes) view(vol volume.Volume) server.VolumeView {
	return server.VolumeView{Volume: vol, Containers: v.daemon.engine.VolumeUsers(vol.Name)}
}

// CreateVolume implements [server.Volumes]. One without a name gets such as volumes have that nobody has named.
func (v volumes) CreateVolume(ctx context.Context, r volume.Request) (server.VolumeView, error) {
	if r.Name == "" {
		var b [32]byte
		_, _ = rand.Read(b[:]) // never fails
		r.Name = hex.EncodeToString(b[:])
	}
	vol, fresh, err := v.Ensure(ctx, r)
	if err != nil {
		return server.VolumeView{}, err
	}
	if fresh {
		v.daemon.events.emit(server.Event{Type: "volume", Action: "create", ID: vol.Name})
	}
	return v.view(vol), nil
}

// ListVolumes implements [server.Volumes].
func (v volumes) ListVolumes(ctx context.Context) ([]server.VolumeView, error) {
	list, err := v.List(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]server.VolumeView, 0, len(list))
	for _, vol := range list {
		out = append(out, v.view(vol))
	}
	return out, nil
}

// InspectVolume implements [server.Volumes].
func (v volumes) InspectVolume(ctx context.Context, name string) (server.VolumeView, error) {
	vol, err := v.Get(ctx, name)
	if err != nil {
		return server.VolumeView{}, err
	}
	return v.view(vol), nil
}

// RemoveVolume implements [server.Volumes].
func (v volumes) RemoveVolume(ctx context.Context, name string) error {
	if err := v.Remove(ctx, name, v.daemon.engine.VolumeUsers); err != nil {
		return err
	}
	v.daemon.events.emit(server.Event{Type: "volume", Action: "remove", ID: name})
	return nil
}

// PruneVolumes implements [server.Volumes].
func (v volumes) PruneVolumes(ctx context.Context, all bool, due func(volume.Volume) bool) (names []string,
	freed int64, err error) {
	sizes := map[string]int64{}
	names, err = v.Prune(ctx, func(name string) []string {
		vol, err := v.Get(ctx, name)
		switch {
		case err != nil || !due(vol):
			return []string{"who did not ask for it"}
		case !all && !engine.Anonymous(name):
			return []string{"its name"} // somebody gave it one, to find it again
		}
		users := v.daemon.engine.VolumeUsers(name)
		if len(users) == 0 {
			sizes[name], _, _ = rootfile.Measure(ctx, vol.Path) // it goes, measured or not
		}
		return users
	})
	for _, name := range names {
		freed += sizes[name]
		v.daemon.events.emit(server.Event{Type: "volume", Action: "remove", ID: name})
	}
	return names, freed, err
}

package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"

	"github.com/vethloom/vethloom/api/server"
	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine"
	"github.com/vethloom/vethloom/engine/image"
	"github.com/vethloom/vethloom/engine/snapshot"
	"github.com/vethloom/vethloom/engine/volume"
)

// openEngine makes the engine and with it takes over the containers of an earlier
// life. The passes must be running: containers that have ended leave their networks.
func (d *daemon) openEngine(ctx context.Context) error {
	var err error
	records := d.stored()
	if d.images, err = image.Open(ctx, image.Config{Root: filepath.Join(d.cfg.Root, "images"), Store: records,
		Log: d.log, Step: d.cfg.Faults.Images}); err != nil {
		return fmt.Errorf("open the images: %w", err)
	}
	if d.snapshots, err = snapshot.Open(filepath.Join(d.cfg.Root, "snapshots")); err != nil {
		return fmt.Errorf("open the snapshots: %w", err)
	}
	if d.volumes, err = volume.Open(filepath.Join(d.cfg.Root, "volumes"), records); err != nil {
		return fmt.Errorf("open the volumes: %w", err)
	}
	d.engine, err = engine.New(ctx, engine.Config{
		Store: records, Networks: d.nets, Images: d.images, Snapshots: d.snapshots, Volumes: d.volumes,
		Root: d.cfg.Root, Run: d.cfg.Run, ShimPath: d.cfg.Shim, CgroupParent: d.cfg.CgroupParent,
		Resolv: d.cfg.resolvFiles(), BootID: d.boot, Events: d.containerChanged, Log: d.log,
	})
	if err != nil {
		return fmt.Errorf("take over the containers: %w", err)
	}
	d.nets.containers = d.engine
	d.closing(d.engine.Close)
	return nil
}

func (d *daemon) containerChanged(e engine.Event) {
	d.events.emit(server.Event{Time: e.Time, Type: "container", Action: e.Action, ID: e.ID, Attributes: e.Attributes})
}

// sandboxOf finds the sandbox of a container, "" for one that does not run, or one that is no container's.
func (n *networks) sandboxOf(ctx context.Context, ref string) (sandbox string, bare bool, err error) {
	if n.containers != nil {
		sandbox, _, err = n.containers.SandboxOf(ref)
		if err == nil || !errors.Is(err, cnm.ErrNotFound) {
			return sandbox, false, err
		}
	}
	b, notBare := n.ctrl.Sandbox(ctx, ref)
	if notBare != nil || b.Container != "" {
		return "", false, err
	}
	return b.ID, true, nil
}

// changed lets a sandbox's containers know their addresses.
func (n *networks) changed(ctx context.Context, sandbox string) error {
	if n.containers == nil {
		return nil
	}
	ends, err := n.ctrl.EndpointsOf(ctx, sandbox)
	if errors.Is(err, cnm.ErrNotFound) {
		return nil // it is made at the next start
	}
	if err != nil {
		return err
	}
	return n.containers.NetworksChanged(ctx, sandbox, ends)
}

// readdress gives an endpoint what a DHCP server has decided, and tells its container's files.
func (n *networks) readdress(ctx context.Context, endpoint string, addrs []netip.Prefix, l *cnm.Leased) error {
	e, err := n.ctrl.Readdress(ctx, endpoint, addrs, l)
	if err != nil {
		return err
	}
	return n.changed(ctx, e.Sandbox)
}

// containers shows the engine's containers together with their networks.
type containers struct {
	*engine.Engine
	nets   *networks
	daemon *daemon
}

// Create implements [server.ContainerLife].
func (c containers) Create(ctx context.Context, s engine.Spec) (id string, warnings []string, err error) {
	made, warnings, err := c.Engine.Create(ctx, s)
	if err != nil {
		return made.ID, warnings, err
	}
	missing, unknown := c.nets.missing(ctx, made.Spec.Ports)
	if unknown != nil {
		warnings = append(warnings, unknown.Error())
	}
	for _, a := range missing {
		warnings = append(warnings, fmt.Sprintf("the host has no address %s: what is published on it waits for it", a))
	}
	return made.ID, warnings, nil
}

// List implements [server.ContainerViews].
func (c containers) List(ctx context.Context, all bool) ([]server.ContainerView, error) {
	list, err := c.Engine.List(ctx, all)
	if err != nil {
		return nil, err
	}
	out := make([]server.ContainerView, 0, len(list))
	for _, one := range list {
		v, err := c.Inspect(ctx, one.ID)
		if errors.Is(err, cnm.ErrNotFound) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

// Inspect implements [server.ContainerViews].
func (c containers) Inspect(ctx context.Context, ref string) (server.ContainerView, error) {
	d, err := c.Engine.Inspect(ctx, ref)
	if err != nil {
		return server.ContainerView{}, err
	}
	v := server.ContainerView{Details: d, Layer: c.daemon.snapshots.Dirs(d.ID)}
	v.Sandbox, err = c.sandbox(ctx, d.Container.Sandbox)
	return v, err
}

// sandbox describes the sandbox a container is in; one that is gone is empty.
func (c containers) sandbox(ctx context.Context, id string) (server.SandboxView, error) {
	if id == "" {
		return server.SandboxView{}, nil
	}
	b, err := c.nets.ctrl.Sandbox(ctx, id)
	if errors.Is(err, cnm.ErrNotFound) {
		return server.SandboxView{}, nil
	}
	if err != nil {
		return server.SandboxView{}, err
	}
	ends, err := c.nets.ctrl.EndpointsOf(ctx, b.ID)
	if err != nil {
		return server.SandboxView{}, err
	}
	return c.nets.sandboxView(ctx, b, ends)
}

// WrittenBy implements [server.ContainerViews].
func (c containers) WrittenBy(ctx context.Context, ref string) (int64, error) {
	return c.Engine.DiskUsage(ctx, ref)
}

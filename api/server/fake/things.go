package fake

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/vethloom/vethloom/api/server"
	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine"
	"github.com/vethloom/vethloom/engine/volume"
	"github.com/vethloom/vethloom/internal/doctor"
	"github.com/vethloom/vethloom/plan"
)

// CreateSandbox implements [server.Sandboxes].
func (d *networkPart) CreateSandbox(_ context.Context, r cnm.SandboxRequest) (server.SandboxView, error) {
	if err := d.enter("CreateSandbox"); err != nil {
		return server.SandboxView{}, err
	}
	defer d.mu.Unlock()
	for _, s := range d.sandboxes {
		if s.ID == r.ID {
			return s, nil
		}
	}
	c := &container{}
	c.view.Sandbox = server.SandboxView{Sandbox: cnm.Sandbox{ID: r.ID, Labels: r.Labels, Phase: cnm.Active}}
	if r.ID == "" {
		c.view.Sandbox.ID = d.id()
	}
	c.view.Sandbox.Path = "/run/vethloom/netns/" + c.view.Sandbox.ID
	for _, n := range r.Attach {
		if _, err := d.join(c, n, r.Ports); err != nil {
			return server.SandboxView{}, err
		}
	}
	d.sandboxes = append(d.sandboxes, c.view.Sandbox)
	return c.view.Sandbox, nil
}

// RemoveSandbox implements [server.Sandboxes].
func (d *networkPart) RemoveSandbox(_ context.Context, id string) error {
	if err := d.enter("RemoveSandbox"); err != nil {
		return err
	}
	defer d.mu.Unlock()
	d.sandboxes = slices.DeleteFunc(d.sandboxes, func(s server.SandboxView) bool { return s.ID == id })
	return nil
}

// ListSandboxes implements [server.Sandboxes].
func (d *networkPart) ListSandboxes(context.Context) ([]server.SandboxView, error) {
	if err := d.enter("ListSandboxes"); err != nil {
		return nil, err
	}
	defer d.mu.Unlock()
	return slices.Clone(d.sandboxes), nil
}

// CreateVolume implements [server.Volumes].
func (d *volumePart) CreateVolume(_ context.Context, r volume.Request) (server.VolumeView, error) {
	name, labels := r.Name, r.Labels
	if err := d.enter("CreateVolume"); err != nil {
		return server.VolumeView{}, err
	}
	defer d.mu.Unlock()
	if name == "" {
		name = d.id()
	}
	for _, v := range d.volumes {
		if v.Name == name {
			return server.VolumeView{Volume: v}, nil
		}
	}
	v := volume.Volume{Name: name, Path: "/var/lib/vethloom/volumes/" + name + "/_data", Labels: labels,
		Options: r.Options, Created: Epoch}
	d.volumes = append(d.volumes, v)
	return server.VolumeView{Volume: v}, nil
}

func (d *core) volumeView(v volume.Volume) server.VolumeView {
	out := server.VolumeView{Volume: v}
	for _, c := range d.containers {
		for _, m := range c.view.Spec.Mounts {
			if m.Volume && m.Source == v.Name {
				out.Containers = append(out.Containers, c.view.Spec.Name)
			}
		}
	}
	return out
}

// ListVolumes implements [server.Volumes].
func (d *volumePart) ListVolumes(context.Context) ([]server.VolumeView, error) {
	if err := d.enter("ListVolumes"); err != nil {
		return nil, err
	}
	defer d.mu.Unlock()
	var out []server.VolumeView
	for _, v := range d.volumes {
		out = append(out, d.volumeView(v))
	}
	return out, nil
}

// InspectVolume implements [server.Volumes].
func (d *volumePart) InspectVolume(_ context.Context, name string) (server.VolumeView, error) {
	if err := d.enter("InspectVolume"); err != nil {
		return server.VolumeView{}, err
	}
	defer d.mu.Unlock()
	for _, v := range d.volumes {
		if v.Name == name {
			return d.volumeView(v), nil
		}
	}
	return server.VolumeView{}, missing("volume", name)
}

// RemoveVolume implements [server.Volumes].
func (d *volumePart) RemoveVolume(_ context.Context, name string) error {
	if err := d.enter("RemoveVolume"); err != nil {
		return err
	}
	defer d.mu.Unlock()
	for i, v := range d.volumes {
		if v.Name != name {
			continue
		}
		if by := d.volumeView(v).Containers; len(by) > 0 {
			return &cnm.Error{Kind: cnm.ErrInUse, Field: "volume", Value: name, Reason: "container " + by[0] +
				" uses it"}
		}
		d.volumes = slices.Delete(d.volumes, i, i+1)
		return nil
	}
	return missing("volume", name)
}

// PruneVolumes implements [server.Volumes].
func (d *volumePart) PruneVolumes(_ context.Context, all bool, due func(volume.Volume) bool) ([]string, int64,
	error) {
	if err := d.enter("PruneVolumes"); err != nil {
		return nil, 0, err
	}
	defer d.mu.Unlock()
	var names []string
	d.volumes = slices.DeleteFunc(d.volumes, func(v volume.Volume) bool {
		unused := due(v) && len(d.volumeView(v).Containers) == 0 && (all || engine.Anonymous(v.Name))
		if unused {
			names = append(names, v.Name)
		}
		return unused
	})
	return names, int64(len(names)) << 21, nil
}

// Version implements [server.System].
func (d *systemPart) Version() server.Version {
	return server.Version{Version: "1.0", Commit: "abc", Go: "go1.26", Kernel: "6.18"}
}

// Status implements [server.System].
func (d *systemPart) Status(context.Context) (server.Status, error) {
	if err := d.enter("Status"); err != nil {
		return server.Status{}, err
	}
	defer d.mu.Unlock()
	return d.status, nil
}

// Diff implements [server.System].
func (d *systemPart) Diff(context.Context) ([]plan.Op, error) {
	if err := d.enter("Diff"); err != nil {
		return nil, err
	}
	defer d.mu.Unlock()
	return d.ops, nil
}

// Doctor implements [server.System].
func (d *systemPart) Doctor(context.Context) ([]doctor.Finding, error) {
	if err := d.enter("Doctor"); err != nil {
		return nil, err
	}
	defer d.mu.Unlock()
	return d.findings, nil
}

// Events implements [server.System], for one watcher at a time.
func (d *systemPart) Events(ctx context.Context, since time.Time) <-chan server.Event {
	out := make(chan server.Event)
	d.Watchers.Add(1)
	d.mu.Lock()
	past := slices.Clone(d.past)
	d.mu.Unlock()
	go func() { // ends with the context, as the channel does
		defer d.Watchers.Add(-1)
		defer close(out)
		for _, e := range past {
			if !since.IsZero() && !e.Time.Before(since) {
				out <- e // whoever asks for the past reads it to its end
			}
		}
		for {
			select {
			case e := <-d.events:
				select {
				case out <- e:
				case <-ctx.Done():
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

// CommandError is a command that could not be run, with its exit code.
type CommandError struct {
	Command string
	Code    int
}

// Error tells which way it failed.
func (e *CommandError) Error() string {
	if e.Code == 127 {
		return fmt.Sprintf("command %q: not found in the container", e.Command)
	}
	return fmt.Sprintf("command %q: cannot be executed", e.Command)
}

// ExitCode implements [server.ExitCoder].
func (e *CommandError) ExitCode() int { return e.Code }

var errNotRunning = errors.New("it is not running")

// ListEndpoints implements [server.Networks].
func (d *networkPart) ListEndpoints(_ context.Context, network string) ([]server.EndpointView, error) {
	if err := d.enter("ListEndpoints"); err != nil {
		return nil, err
	}
	defer d.mu.Unlock()
	var out []server.EndpointView
	for _, n := range d.networks {
		if network == "" || n.Name == network {
			out = append(out, d.networkView(n).Endpoints...)
		}
	}
	return out, nil
}

package fake

import (
	"context"
	"io"
	"path"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine"
)

// change edits a container that there is, in the call of that name.
func (d *containerPart) change(call, ref string, edit func(*container) error) error {
	if err := d.enter(call); err != nil {
		return err
	}
	defer d.mu.Unlock()
	c, err := d.container(ref)
	if err != nil {
		return err
	}
	return edit(c)
}

// Restart implements [server.ContainerLife].
func (d *containerPart) Restart(ctx context.Context, ref string, o engine.StopOptions) error {
	if err := d.Stop(ctx, ref, o); err != nil {
		return err
	}
	return d.Start(ctx, ref)
}

// Pause implements [server.ContainerLife].
func (d *containerPart) Pause(_ context.Context, ref string) error {
	return d.change("Pause", ref, func(c *container) error {
		c.view.Status = engine.Paused
		return nil
	})
}

// Unpause implements [server.ContainerLife].
func (d *containerPart) Unpause(_ context.Context, ref string) error {
	return d.change("Unpause", ref, func(c *container) error {
		c.view.Status = engine.Running
		return nil
	})
}

// Rename implements [server.ContainerLife].
func (d *containerPart) Rename(_ context.Context, ref, name string) error {
	return d.change("Rename", ref, func(c *container) error {
		if _, err := d.container(name); err == nil {
			return &cnm.Error{Kind: cnm.ErrExists, Field: "name", Value: name, Reason: "is taken"}
		}
		c.view.Spec.Name = name
		return nil
	})
}

// Update implements [server.ContainerLife].
func (d *containerPart) Update(_ context.Context, ref string, u engine.Update) (warnings []string, err error) {
	return nil, d.change("Update", ref, func(c *container) error {
		if u.Memory != 0 {
			c.view.Spec.Memory = u.Memory
		}
		if u.Restart != nil {
			c.view.Spec.Restart = *u.Restart
		}
		return nil
	})
}

// PruneContainers implements [server.ContainerLife].
func (d *containerPart) PruneContainers(_ context.Context, due func(engine.Container) bool) (ids []string,
	reclaimed int64, err error) {
	if err := d.enter("PruneContainers"); err != nil {
		return nil, 0, err
	}
	defer d.mu.Unlock()
	kept := d.containers[:0]
	for _, c := range d.containers {
		if s := c.view.Status; (s == engine.Exited || s == engine.Created) && due(c.view.Container) {
			ids = append(ids, c.view.ID)
			continue
		}
		kept = append(kept, c)
	}
	d.containers = kept
	return ids, int64(len(ids)) << 10, nil
}

// Top implements [server.ContainerViews].
func (d *containerPart) Top(_ context.Context, ref string, _ []string) (p engine.Processes, err error) {
	err = d.change("Top", ref, func(c *container) error {
		p = engine.Processes{Titles: []string{"UID", "PID", "CMD"}, Rows: [][]string{{"root", "7", "sleep 9"}}}
		return nil
	})
	return p, err
}

// Stats implements [server.ContainerViews].
func (d *containerPart) Stats(_ context.Context, ref string) (s engine.Stats, err error) {
	err = d.change("Stats", ref, func(c *container) error {
		s = engine.Stats{ID: c.view.ID, Name: c.view.Spec.Name, Read: Epoch, CPUTotal: 5e8, HostCPU: 1e10, CPUs: 2,
			Memory: 10 << 20, MemoryLimit: 100 << 20, Pids: 3, BlockRead: 4096,
			Interfaces: []engine.InterfaceStats{{Interface: "eth0", Network: "bridge", RxBytes: 1500, TxBytes: 700}}}
		return nil
	})
	return s, err
}

// StatPath implements [server.ContainerFiles].
func (d *containerPart) StatPath(_ context.Context, ref, name string) (st engine.PathStat, err error) {
	err = d.change("StatPath", ref, func(*container) error {
		st = engine.PathStat{Name: path.Base(name), Size: 5, Mode: 0o644, Modified: Epoch}
		return nil
	})
	return st, err
}

// CopyOut implements [server.ContainerFiles]. What it writes is no tar.
func (d *containerPart) CopyOut(ctx context.Context, ref, name string, begin func(engine.PathStat) error,
	w io.Writer) error {
	st, err := d.StatPath(ctx, ref, name)
	if err != nil {
		return err
	}
	if err := begin(st); err != nil {
		return err
	}
	_, err = io.WriteString(w, "a tar of "+name)
	return err
}

// CopyIn implements [server.ContainerFiles].
func (d *containerPart) CopyIn(_ context.Context, ref, _ string, _ engine.CopyInOptions, r io.Reader) error {
	if err := d.change("CopyIn", ref, func(*container) error { return nil }); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, r)
	return err
}

// WrittenBy implements [server.ContainerViews].
func (d *containerPart) WrittenBy(_ context.Context, ref string) (int64, error) {
	return 4096, d.change("WrittenBy", ref, func(*container) error { return nil })
}

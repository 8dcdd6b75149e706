package daemon

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/drivers/remote"
	"github.com/vethloom/vethloom/drivers/remote/plugin"
	"github.com/vethloom/vethloom/plan"
)

// openRemote makes what asks plugins.
func (d *daemon) openRemote(ctx context.Context, records cnm.Store, drivers []cnm.Driver) (err error) {
	d.remote, err = remote.New(ctx, remote.Config{
		Store:  records,
		Finder: plugin.NewFinder(plugin.Config{Dirs: d.cfg.pluginDirs(), Wait: d.cfg.PluginWait}),
		Ours: func(name string) bool {
			return slices.ContainsFunc(drivers, func(d cnm.Driver) bool { return d.Name() == name })
		},
		LastLink: d.kernel.LastLink, SandboxKey: d.kernel.NetNSPath, Log: d.log,
	})
	return err
}

// pluginDirs are where plugins are looked for.
func (c *Config) pluginDirs() plugin.Dirs {
	if c.Plugins == "" {
		return plugin.DockerDirs()
	}
	dirs := strings.Split(c.Plugins, ",")
	return plugin.Dirs{Sockets: dirs, Specs: dirs}
}

// runRemote finishes what plugins were asked for before, and what could not be asked for.
func (d *daemon) runRemote(ctx context.Context) error {
	f := fabric{Reconciler: d.rec, remote: d.remote, patient: true}
	return d.remote.Run(ctx, func(ctx context.Context, o plan.Owner) error { return f.Converge(ctx, o) }, d.lostLinks)
}

// lostLinks are the endpoints whose link a plugin has made and that is there no more.
func (d *daemon) lostLinks() []plan.Owner {
	var out []plan.Owner
	for _, f := range d.rec.Failures() {
		op, failed := errors.AsType[*plan.OpError](f.Err)
		_, missing := errors.AsType[*plan.NoLinkError](f.Err)
		if !failed || !missing {
			continue
		}
		if l, ok := op.Op.Object.(plan.Link); ok && l.Kind == plan.Given {
			out = append(out, f.Owner)
		}
	}
	return out
}

// givenError says what is wrong with a link that a plugin has made for a sandbox.
func givenError(l plan.Link, err error) error {
	e := &cnm.Error{Kind: cnm.ErrUnavailable, Field: "link", Value: l.Given.Name, Cause: err,
		Reason: "the plugin's link cannot be given to the container", Remedy: "look at the plugin's log"}
	if _, missing := errors.AsType[*plan.NoLinkError](err); missing {
		e.Reason = "the plugin says that it has made this link, and the host has none of the name"
	}
	if foreign, ok := errors.AsType[*plan.ForeignLinkError](err); ok {
		e.Kind, e.Cause = cnm.ErrForbidden, nil
		e.Reason = "the plugin says that it has made this link, and " + foreign.Reason
		e.Remedy = "it stays with the host; " + e.Remedy
	}
	return e
}

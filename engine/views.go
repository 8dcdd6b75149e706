package engine

import (
	"context"
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine/image"
	"github.com/vethloom/vethloom/engine/shim/logfile"
)

// Details is a container with what follows from its record. Its Spec has the values of its image where the request
// has none: what the container has, not what was asked for.
type Details struct {
	Container
	Volumes  map[string]string // where the volumes of its mounts are on the host, by name
	LogPath  string
	RootPath string   // of the root filesystem, in its supervisor's mount namespace; "" while it does not run
	Args     []string // what runs: entrypoint and command, resolved
	NetNS    string   // path of its network namespace while it runs; "" on the host's
	ExecIDs  []string // of further commands that run
}

// List returns the containers, newest first; those that do not run only with all.
func (e *viewer) List(ctx context.Context, all bool) ([]Container, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var out []Container
	for _, c := range e.all() {
		if rec := e.snapshot(c); all || isLive(rec.Status) || rec.Status == Restarting {
			out = append(out, rec.Container)
		}
	}
	slices.SortFunc(out, func(a, b Container) int { return b.Created.Compare(a.Created) })
	return out, nil
}

// Inspect describes one container.
func (e *viewer) Inspect(ctx context.Context, ref string) (Details, error) {
	c, rec, err := e.glance(ctx, ref)
	if err != nil {
		return Details{}, err
	}
	d := Details{Container: rec.Container, LogPath: filepath.Join(c.dir, logName), Volumes: map[string]string{}}
	d.Spec.Hostname = e.hostname(rec, rec.NetNS)
	if rec.Spec.LogDriver == LogNone {
		d.LogPath = ""
	}
	if rec.NetNS != hostNetNS {
		d.NetNS = rec.NetNS
	}
	img, err := e.c.Images.Resolve(ctx, rec.ImageID)
	if err != nil && !errors.Is(err, cnm.ErrNotFound) {
		return Details{}, err
	}
	e.mu.Lock()
	if !c.sick.IsZero() {
		d.Error = c.trouble.Error()
	}
	e.mu.Unlock()
	d.Args = arguments(rec.Spec, img)
	d.Spec = withImage(d.Spec, img)
	for _, m := range rec.Spec.Mounts {
		if !m.Volume {
			continue
		}
		if v, err := e.c.Volumes.Get(ctx, m.Source); err == nil { // else it was removed, or is yet to be made
			d.Volumes[m.Source] = v.Path
		}
	}
	return d, nil
}

// withImage completes a spec by what the image says. Nothing is added of an image that is gone.
func withImage(s Spec, img image.Image) Spec {
	p := process(s, img)
	s.Env, s.WorkDir, s.User = p.Env, p.Cwd, p.User
	if len(s.Entrypoint) == 0 {
		s.Entrypoint = img.Config.Entrypoint
		if len(s.Command) == 0 {
			s.Command = img.Config.Cmd
		}
	}
	if s.StopSignal == "" {
		s.StopSignal = img.Config.StopSignal
	}
	s.Health = healthcheck(s, img)
	if len(img.Config.Labels) > 0 {
		labels := maps.Clone(img.Config.Labels)
		maps.Copy(labels, s.Labels)
		s.Labels = labels
	}
	return s
}

// SandboxOf returns the sandbox and the name of a container.
func (e *viewer) SandboxOf(ref string) (sandbox, name string, err error) {
	c, err := e.find(ref)
	if err != nil {
		return "", "", err
	}
	rec := e.snapshot(c)
	return rec.Sandbox, rec.Spec.Name, nil
}

// LogsRequest selects lines of a container's log.
type LogsRequest struct {
	Container    string
	Follow       bool
	Tail         int // lines from the end; negative: all
	Since, Until time.Time
}

// LogLine is one line of output, with its newline when it had one.
type LogLine struct {
	Time   time.Time
	Stderr bool
	Line   []byte
}

// Logs calls the function for each line; an error of it ends Logs. Following
// ends with the container, once that is not started again by its restart policy.
func (e *viewer) Logs(ctx context.Context, r LogsRequest, each func(LogLine) error) error {
	c, rec, err := e.glance(ctx, r.Container)
	if err != nil {
		return err
	}
	if rec.Spec.LogDriver == LogNone {
		return &cnm.Error{Kind: cnm.ErrForbidden, Field: "log-driver", Value: LogNone,
			Reason: "the container's output is not kept", Remedy: "attach to it, or create it with another log driver"}
	}
	o := logfile.Options{Tail: r.Tail, Since: r.Since, Until: r.Until}
	if r.Follow && (isLive(rec.Status) || rec.Status == Restarting) {
		o.Follow, o.Watcher = e.overOf(c), e.followed
	}
	for entry, err := range logfile.Read(ctx, filepath.Join(c.dir, logName), o) {
		if errors.Is(err, logfile.ErrTorn) {
			continue // what is behind it is whole
		}
		if err != nil {
			return err
		}
		if err := each(LogLine{Time: entry.Time, Stderr: entry.Stream == "stderr", Line: entry.Line()}); err != nil {
			return err
		}
	}
	return nil
}

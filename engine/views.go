package engine

import (
	"context"
	"path/filepath"
	"slices"
	"time"

	"github.com/vethloom/vethloom/engine/shim/logfile"
)

// Details is a container with what follows from its record.
type Details struct {
	Container
	LogPath  string
	RootPath string   // of the root filesystem, in its supervisor's mount namespace; "" while it does not run
	Args     []string // what runs: entrypoint and command, resolved
	NetNS    string   // path of its network namespace while it runs; "" on the host's
}

// List returns the containers, newest first; those that do not run only with all.
func (e *Engine) List(ctx context.Context, all bool) ([]Container, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var out []Container
	for _, c := range e.all() {
		if rec := e.snapshot(c); all || isLive(rec.Status) {
			out = append(out, rec.Container)
		}
	}
	slices.SortFunc(out, func(a, b Container) int { return b.Created.Compare(a.Created) })
	return out, nil
}

// Inspect describes one container.
func (e *Engine) Inspect(ctx context.Context, ref string) (Details, error) {
	c, rec, err := e.settled(ctx, ref)
	if err != nil {
		return Details{}, err
	}
	d := Details{Container: rec.Container, LogPath: filepath.Join(c.dir, logName)}
	d.Spec.Hostname = e.hostname(rec, rec.NetNS)
	if rec.NetNS != hostNetNS {
		d.NetNS = rec.NetNS
	}
	if img, err := e.c.Images.Resolve(ctx, rec.ImageID); err == nil {
		d.Args = arguments(rec.Spec, img)
	} else {
		d.Args = slices.Concat(rec.Spec.Entrypoint, rec.Spec.Command)
	}
	return d, nil
}

// SandboxOf returns the sandbox and the name of a container.
func (e *Engine) SandboxOf(ref string) (sandbox, name string, err error) {
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

// Logs hands over line after line; an error of the function ends it. Following
// ends with the container.
func (e *Engine) Logs(ctx context.Context, r LogsRequest, each func(LogLine) error) error {
	c, rec, err := e.settled(ctx, r.Container)
	if err != nil {
		return err
	}
	o := logfile.Options{Tail: r.Tail, Since: r.Since, Until: r.Until}
	if r.Follow && isLive(rec.Status) {
		o.Follow = e.endOf(c)
	}
	for entry, err := range logfile.Read(ctx, filepath.Join(c.dir, logName), o) {
		if err != nil {
			return err
		}
		if err := each(LogLine{Time: entry.Time, Stderr: entry.Stream == "stderr", Line: entry.Line()}); err != nil {
			return err
		}
	}
	return nil
}

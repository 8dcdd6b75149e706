package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"

	"github.com/vethloom/vethloom/engine/shim"
	"github.com/vethloom/vethloom/engine/volume"
)

// binds makes the sources of a spec's mounts: volumes that do not exist yet, and
// host directories that are missing.
func (e *preparer) binds(ctx context.Context, s Spec) ([]shim.Bind, error) {
	var out []shim.Bind
	for _, m := range s.Mounts {
		b := shim.Bind{Source: m.Source, Target: path.Clean(m.Target), ReadOnly: m.ReadOnly,
			Propagation: m.Propagation, NonRecursive: m.NonRecursive, ShallowReadOnly: m.ShallowReadOnly}
		var err error
		switch {
		case m.Tmpfs != nil:
			b.Tmpfs = tmpfsOptions(*m.Tmpfs)
		case m.Volume:
			err = e.bindVolume(ctx, m, &b)
		default:
			err = hostSource(m)
		}
		if err != nil {
			return nil, err
		}
		out = append(out, b)
	}
	return out, nil
}

// bindVolume has a bind show a volume, which is made when there is none.
func (e *preparer) bindVolume(ctx context.Context, m Mount, b *shim.Bind) error {
	v, _, err := e.c.Volumes.Ensure(ctx, volumeRequest(m))
	if err != nil {
		return fmt.Errorf("mount volume %s: %w", m.Source, err)
	}
	b.Source, b.CopyUp, b.Subpath = v.Path, !m.NoCopy, m.Subpath
	if len(v.Options) > 0 {
		if b.FileSystem, err = volumeFileSystem(ctx, v); err != nil {
			return fmt.Errorf("mount volume %s: %w", m.Source, err)
		}
	}
	return nil
}

// volumeFileSystem is what a volume with options shows. A server is looked up here, as the kernel takes only its
// address.
func volumeFileSystem(ctx context.Context, v volume.Volume) (*shim.FileSystem, error) {
	f := &shim.FileSystem{Type: v.Options["type"], Device: v.Options["device"], Options: v.Options["o"]}
	options := strings.Split(f.Options, ",")
	for i, o := range options {
		host, ok := strings.CutPrefix(o, "addr=")
		if !ok || host == "" {
			continue
		}
		if _, err := netip.ParseAddr(host); err == nil {
			continue
		}
		addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		if err != nil {
			return nil, fmt.Errorf("look up its server: %w", err)
		}
		options[i] = "addr=" + addrs[0].Unmap().String()
	}
	f.Options = strings.Join(options, ",")
	return f, nil
}

// hostSource makes a host directory that is missing, and refuses one that cannot be shown as asked.
func hostSource(m Mount) error {
	_, err := os.Stat(m.Source)
	switch {
	case errors.Is(err, fs.ErrNotExist) && m.MustExist:
		return noSource(m)
	case errors.Is(err, fs.ErrNotExist):
		if err := os.MkdirAll(m.Source, 0o755); err != nil {
			return fmt.Errorf("make the host directory of volume %s: %w", m.Source, err)
		}
	case err != nil:
		return fmt.Errorf("mount %s: %w", m.Source, err)
	}
	return checkPeers(m)
}

func noSource(m Mount) error {
	return invalid("mount", m.Target,
		`invalid mount config for type "bind": bind source path does not exist: `+m.Source, "make it first")
}

// checkPeers refuses a propagation that the host's mount does not take part in.
func checkPeers(m Mount) error {
	var want []string
	switch m.Propagation {
	case "shared", "rshared":
		want = []string{"shared:"}
	case "slave", "rslave":
		want = []string{"shared:", "master:"}
	default:
		return nil
	}
	source, err := filepath.EvalSymlinks(m.Source)
	if err != nil {
		return fmt.Errorf("mount %s: %w", m.Source, err)
	}
	above, err := mountinfo.GetMounts(mountinfo.ParentsFilter(source))
	if err != nil {
		return fmt.Errorf("learn how %s is mounted: %w", m.Source, err)
	}
	var on *mountinfo.Info
	for _, i := range above {
		if on == nil || len(i.Mountpoint) >= len(on.Mountpoint) { // of several at one place the last is on top
			on = i
		}
	}
	if on != nil && slices.ContainsFunc(want, func(w string) bool { return strings.Contains(on.Optional, w) }) {
		return nil
	}
	at, kind := "/", "shared"
	if on != nil {
		at = on.Mountpoint
	}
	if len(want) > 1 {
		kind = "shared or slave"
	}
	return invalid("mount", m.Target, fmt.Sprintf("path %s is mounted on %s but it is not a %s mount", m.Source, at,
		kind), "make it one with 'mount --make-shared "+at+"', or choose another propagation")
}

// tmpfsOptions are those of mount(8).
func tmpfsOptions(t Tmpfs) []string {
	out := []string{}
	if t.Size > 0 {
		out = append(out, fmt.Sprintf("size=%d", t.Size))
	}
	mode := t.Mode
	if mode == 0 {
		mode = 0o1777
	}
	out = append(out, fmt.Sprintf("mode=%o", mode))
	return append(out, eachOption(t.Options)...)
}

// eachOption splits options that were given together.
func eachOption(given []string) []string {
	var out []string
	for _, o := range given {
		for one := range strings.SplitSeq(o, ",") {
			if one != "" {
				out = append(out, one)
			}
		}
	}
	return out
}

// ordered puts mounts that are below others after them: what is to be seen at /etc/hosts comes
// after a volume at /etc.
func ordered(binds []shim.Bind) []shim.Bind {
	slices.SortStableFunc(binds, func(a, b shim.Bind) int {
		return strings.Count(a.Target, "/") - strings.Count(b.Target, "/")
	})
	return binds
}

// Anonymous reports whether a volume's name was made up for one container.
func Anonymous(name string) bool {
	return len(name) == 64 && strings.Trim(name, "0123456789abcdef") == ""
}

// volumeRequest is the volume that a mount asks for. One whose name was made up for one container is marked.
func volumeRequest(m Mount) volume.Request {
	r := volume.Request{Name: m.Source, Driver: m.Driver, Options: m.DriverOptions, Labels: maps.Clone(m.Labels)}
	if Anonymous(m.Source) {
		if r.Labels == nil {
			r.Labels = map[string]string{}
		}
		r.Labels[anonymousLabel] = "true"
	}
	return r
}

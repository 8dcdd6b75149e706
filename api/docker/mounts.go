package docker

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	units "github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/vethloom/vethloom/api/server"
	"github.com/vethloom/vethloom/engine"
	"github.com/vethloom/vethloom/engine/volume"
)

// This file has mounts, which Docker has in four places.

// mounts are all that the request has. A volume of the image's kind gives way to what is mounted at the same path.
func (c createBody) mounts(volumes map[string]struct{}, n *notes) ([]engine.Mount, error) {
	h := c.HostConfig
	var out []engine.Mount
	for _, b := range h.Binds {
		m, err := decodeBind(b, h.VolumeDriver)
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	for _, given := range h.Mounts {
		m, err := decodeMount(given, n)
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	for _, target := range sortedKeys(h.Tmpfs) {
		m, err := decodeTmpfs(target, h.Tmpfs[target])
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	for _, target := range sortedKeys(volumes) {
		if !slices.ContainsFunc(out, func(m engine.Mount) bool { return path.Clean(m.Target) == path.Clean(target) }) {
			out = append(out, engine.Mount{Target: target, Volume: true, Driver: h.VolumeDriver})
		}
	}
	return out, nil
}

// decodeBind reads SOURCE:TARGET[:OPTIONS], or TARGET alone for a volume without a name.
func decodeBind(text, driver string) (engine.Mount, error) {
	bad := func(reason string) (engine.Mount, error) {
		return engine.Mount{}, invalid("Binds", text, reason, "write SOURCE:TARGET or SOURCE:TARGET:OPTION,…")
	}
	parts := strings.Split(text, ":")
	var m engine.Mount
	switch len(parts) {
	case 1:
		m = engine.Mount{Target: parts[0]}
	case 2, 3:
		m = engine.Mount{Source: parts[0], Target: parts[1]}
		if m.Source == "" {
			return bad("has no source")
		}
	default:
		return bad("has too many colons")
	}
	m.Volume = !path.IsAbs(m.Source)
	if m.Volume && strings.Contains(m.Source, "/") {
		return bad("has a source that is neither an absolute path nor the name of a volume")
	}
	if m.Volume {
		m.Driver = driver
	}
	if len(parts) < 3 {
		return m, nil
	}
	for o := range strings.SplitSeq(parts[2], ",") {
		if !bindOption(&m, o) {
			return bad("has the option " + strconv.Quote(o) + ", which is not known")
		}
	}
	return m, nil
}

// bindOption sets an option, and reports whether it is one. Labels of SELinux and hints to machines that are none mean
// nothing here.
func bindOption(m *engine.Mount, o string) bool {
	switch {
	case o == "ro":
		m.ReadOnly = true
	case slices.Contains([]string{"", "rw", "z", "Z", "consistent", "cached", "delegated", "default"}, o):
	case o == "nocopy" && m.Volume:
		m.NoCopy = true
	case o == "copy" && m.Volume:
		m.NoCopy = false
	case slices.Contains(mount.Propagations, mount.Propagation(o)) && !m.Volume:
		m.Propagation = o
	default:
		return false
	}
	return true
}

func decodeMount(g mount.Mount, n *notes) (engine.Mount, error) {
	m := engine.Mount{Source: g.Source, Target: g.Target, ReadOnly: g.ReadOnly}
	switch g.Type {
	case mount.TypeBind:
		m.MustExist = true
		if b := g.BindOptions; b != nil {
			m.Propagation, m.NonRecursive, m.MustExist = string(b.Propagation), b.NonRecursive, !b.CreateMountpoint
			m.ShallowReadOnly = b.ReadOnlyNonRecursive
			n.ignored("ReadOnlyForceRecursive", b.ReadOnlyForceRecursive)
		}
		if !path.IsAbs(m.Source) {
			return m, invalid("Mounts", g.Source, "the source of a bind mount is no absolute path", "begin it with /")
		}
	case mount.TypeVolume:
		m.Volume = true
		if v := g.VolumeOptions; v != nil {
			m.NoCopy, m.Subpath, m.Labels = v.NoCopy, v.Subpath, v.Labels
			if v.DriverConfig != nil {
				m.Driver, m.DriverOptions = v.DriverConfig.Name, v.DriverConfig.Options
			}
		}
	case mount.TypeTmpfs:
		if g.Source != "" {
			return m, invalid("Mounts", g.Source, "a file system in memory has no source", "leave it out")
		}
		m.Tmpfs = &engine.Tmpfs{}
		if t := g.TmpfsOptions; t != nil {
			m.Tmpfs.Size, m.Tmpfs.Mode = t.SizeBytes, uint32(t.Mode)&allModes
			for _, o := range t.Options {
				m.Tmpfs.Options = append(m.Tmpfs.Options, strings.Join(o, "="))
			}
		}
	case mount.TypeImage, mount.TypeCluster, mount.TypeNamedPipe:
		return m, unsupported("Mounts", string(g.Type), "nothing of this type is mounted here",
			"use bind, volume or tmpfs")
	default:
		return m, invalid("Mounts", string(g.Type), "is no type of a mount", "use bind, volume or tmpfs")
	}
	return m, nil
}

// allModes are the bits of chmod(2), as clients send them.
const allModes = 0o7777

// decodeTmpfs reads options of mount(8) for a file system in memory.
func decodeTmpfs(target, options string) (engine.Mount, error) {
	m := engine.Mount{Target: target, Tmpfs: &engine.Tmpfs{}}
	for o := range strings.SplitSeq(options, ",") {
		name, value, _ := strings.Cut(o, "=")
		var err error
		switch {
		case o == "":
		case o == "ro":
			m.ReadOnly = true
		case name == "size" && !strings.HasSuffix(value, "%"):
			m.Tmpfs.Size, err = units.RAMInBytes(value)
		case name == "mode":
			var mode uint64
			mode, err = strconv.ParseUint(value, 8, 12)
			m.Tmpfs.Mode = uint32(mode)
		default:
			m.Tmpfs.Options = append(m.Tmpfs.Options, o)
		}
		if err != nil {
			return m, invalid("Tmpfs", o, "is no option of a file system in memory", "write size=64m or mode=1777")
		}
	}
	return m, nil
}

// encodeMounts puts mounts where a request has them: short where that says all.
func encodeMounts(mounts []engine.Mount, out *container.HostConfig) {
	for _, m := range mounts {
		switch {
		case m.Tmpfs != nil:
			if out.Tmpfs == nil {
				out.Tmpfs = map[string]string{}
			}
			out.Tmpfs[m.Target] = tmpfsOptions(m)
		case m.Volume && engine.Anonymous(m.Source): // asked for by its target alone
		case short(m):
			out.Binds = append(out.Binds, m.Source+":"+m.Target+bindOptions(m))
		default:
			out.Mounts = append(out.Mounts, encodeMount(m))
		}
	}
}

// short reports whether SOURCE:TARGET:OPTIONS says all about a mount.
func short(m engine.Mount) bool {
	return !m.MustExist && !m.NonRecursive && !m.ShallowReadOnly && m.Subpath == "" && m.Driver == "" &&
		len(m.DriverOptions) == 0 && len(m.Labels) == 0
}

func bindOptions(m engine.Mount) string {
	var out []string
	if m.ReadOnly {
		out = append(out, "ro")
	}
	if m.NoCopy {
		out = append(out, "nocopy")
	}
	if m.Propagation != "" {
		out = append(out, m.Propagation)
	}
	if len(out) == 0 {
		return ""
	}
	return ":" + strings.Join(out, ",")
}

func tmpfsOptions(m engine.Mount) string {
	out := slices.Clone(m.Tmpfs.Options)
	if m.ReadOnly {
		out = append(out, "ro")
	}
	if m.Tmpfs.Size != 0 {
		out = append(out, fmt.Sprintf("size=%d", m.Tmpfs.Size))
	}
	if m.Tmpfs.Mode != 0 {
		out = append(out, fmt.Sprintf("mode=%o", m.Tmpfs.Mode))
	}
	return strings.Join(out, ",")
}

func encodeMount(m engine.Mount) mount.Mount {
	out := mount.Mount{Type: mount.TypeBind, Source: m.Source, Target: m.Target, ReadOnly: m.ReadOnly}
	if m.Volume {
		out.Type = mount.TypeVolume
		out.VolumeOptions = &mount.VolumeOptions{NoCopy: m.NoCopy, Labels: m.Labels, Subpath: m.Subpath}
		if m.Driver != "" || len(m.DriverOptions) > 0 {
			out.VolumeOptions.DriverConfig = &mount.Driver{Name: m.Driver, Options: m.DriverOptions}
		}
		return out
	}
	out.BindOptions = &mount.BindOptions{Propagation: mount.Propagation(m.Propagation), NonRecursive: m.NonRecursive,
		CreateMountpoint: !m.MustExist, ReadOnlyNonRecursive: m.ShallowReadOnly}
	return out
}

// mountPoints are the mounts of a container as an inspection shows them.
func mountPoints(c server.ContainerView) []container.MountPoint {
	out := []container.MountPoint{}
	for _, m := range c.Spec.Mounts {
		p := container.MountPoint{Type: mount.TypeBind, Source: m.Source, Destination: m.Target, RW: !m.ReadOnly}
		switch {
		case m.Tmpfs != nil:
			p.Type, p.Source = mount.TypeTmpfs, ""
		case m.Volume:
			p.Type, p.Name, p.Source = mount.TypeVolume, m.Source, c.Volumes[m.Source]
			p.Driver = cmp.Or(m.Driver, volume.LocalDriver)
		default:
			p.Propagation = mount.Propagation(cmp.Or(m.Propagation, string(mount.PropagationRPrivate)))
		}
		if m.ReadOnly {
			p.Mode = "ro"
		}
		out = append(out, p)
	}
	return out
}

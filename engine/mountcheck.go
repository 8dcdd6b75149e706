package engine

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/vethloom/vethloom/engine/shim"
)

// checkMounts refuses mounts that cannot be, by themselves or together.
func checkMounts(s Spec) error {
	seen := map[string]bool{}
	for _, m := range s.Mounts {
		target := path.Clean(m.Target)
		switch {
		case !path.IsAbs(m.Target) || target == "/" || strings.ContainsRune(m.Target, 0):
			return invalid("volume", m.Target, "not a path below / in the container", "give an absolute path")
		case seen[target]:
			return invalid("volume", m.Target, "two mounts have this target", "leave one out")
		}
		seen[target] = true
		var err error
		switch {
		case m.Tmpfs != nil:
			err = checkTmpfs(m)
		case m.Volume:
			err = checkVolume(m)
		default:
			err = checkBind(m, s.UserNS == "auto")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func checkBind(m Mount, mapped bool) error {
	switch {
	case !filepath.IsAbs(m.Source) || strings.ContainsRune(m.Source, 0):
		return invalid("volume", m.Source, "neither an absolute host path nor a volume's name", "begin a path with /")
	case !slices.Contains(propagations(), m.Propagation):
		return invalid("bind-propagation", m.Propagation, "unknown",
			"use one of "+strings.Join(propagations()[1:], ", "))
	case mapped && (shim.Bind{Propagation: m.Propagation}).Shared():
		return invalid("bind-propagation", m.Propagation,
			"with --userns auto nothing that the container mounts can reach the host", "use rslave or rprivate")
	case m.hasVolumeOptions():
		return invalid("mount", m.Target, "it is of the host, and has options of a volume", "leave them out")
	}
	if m.MustExist {
		if _, err := os.Stat(m.Source); errors.Is(err, fs.ErrNotExist) {
			return noSource(m)
		}
	}
	return nil
}

func propagations() []string {
	return []string{"", "private", "rprivate", "shared", "rshared", "slave", "rslave"}
}

func (m Mount) hasVolumeOptions() bool {
	return m.NoCopy || m.Subpath != "" || m.Driver != "" || len(m.DriverOptions) > 0 || len(m.Labels) > 0
}

func (m Mount) hasBindOptions() bool { return m.Propagation != "" || m.NonRecursive || m.MustExist }

func checkVolume(m Mount) error {
	if m.hasBindOptions() {
		return invalid("mount", m.Target, "it is a volume, and has options of a host path: bind-propagation, "+
			"bind-recursive or the like", "leave them out")
	}
	if m.Subpath != "" && !filepath.IsLocal(m.Subpath) {
		return invalid("volume-subpath", m.Subpath, "not a path in the volume", "give one without / in front, and "+
			"without ..")
	}
	r := volumeRequest(m)
	if m.Source == "" { // made up later
		if m.Subpath != "" {
			return invalid("volume-subpath", m.Subpath, "a new volume has nothing in it", "name a volume that has")
		}
		r.Name = "anonymous"
	}
	return r.Check()
}

func checkTmpfs(m Mount) error {
	switch {
	case m.Source != "" || m.Volume:
		return invalid("tmpfs", m.Target, "a file system in memory has no source", "leave it out")
	case m.hasBindOptions() || m.hasVolumeOptions() || m.ShallowReadOnly:
		return invalid("tmpfs", m.Target, "it has options of a host path or of a volume", "leave them out")
	case m.Tmpfs.Size < 0:
		return invalid("tmpfs-size", strconv.FormatInt(m.Tmpfs.Size, 10), "negative",
			"give a number of bytes, or 0 for half the memory")
	case m.Tmpfs.Mode > 0o7777:
		return invalid("tmpfs-mode", strconv.FormatUint(uint64(m.Tmpfs.Mode), 8), "more than permissions",
			"give one up to 7777, octal")
	}
	values := []string{"size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol"}
	for _, o := range eachOption(m.Tmpfs.Options) {
		if _, ok := shim.TmpfsFlags()[o]; ok {
			continue
		}
		name, value, _ := strings.Cut(o, "=")
		if value == "" || !slices.Contains(values, name) {
			return invalid("tmpfs", o, "no option of a file system in memory", "use "+strings.Join(values, "=, ")+
				"=, or flags such as exec, suid and ro")
		}
	}
	return nil
}

// addMountsFrom adds the mounts of other containers, where the request has none at the same place. Of several
// containers the last counts. The caller holds the mutex.
func (e *creator) addMountsFrom(rec *record) error {
	given := map[string]Mount{}
	anonymous := map[string]bool{}
	var order []string
	for _, from := range rec.Spec.VolumesFrom {
		ref, mode, _ := strings.Cut(from, ":")
		readOnly, err := mountsMode(from, mode)
		if err != nil {
			return err
		}
		other := cmp.Or(e.containers[e.names[strings.TrimPrefix(ref, "/")]], e.byID(ref))
		if other == nil {
			return notFound(ref)
		}
		for _, m := range other.rec.Spec.Mounts {
			if m.Tmpfs != nil {
				continue // nobody else's
			}
			m.ReadOnly, m.NoCopy = m.ReadOnly || readOnly, m.Volume
			target := path.Clean(m.Target)
			if _, ok := given[target]; !ok {
				order = append(order, target)
			}
			given[target] = m
			anonymous[m.Source] = m.Volume && slices.Contains(other.rec.Anonym, m.Source)
		}
	}
	rec.Spec.VolumesFrom = nil
	for _, m := range rec.Spec.Mounts {
		delete(given, path.Clean(m.Target))
	}
	for _, target := range order {
		m, ok := given[target]
		if !ok {
			continue
		}
		rec.Spec.Mounts = append(rec.Spec.Mounts, m)
		if anonymous[m.Source] && !slices.Contains(rec.Anonym, m.Source) {
			rec.Anonym = append(rec.Anonym, m.Source) // it goes with the last of them
		}
	}
	return nil
}

func mountsMode(from, mode string) (readOnly bool, err error) {
	if mode == "" && !strings.Contains(from, ":") {
		return false, nil
	}
	for one := range strings.SplitSeq(mode, ",") {
		switch one {
		case "ro":
			readOnly = true
		case "rw", "z", "Z":
		default:
			return false, invalid("volumes-from", from, "invalid mode: "+mode, "write NAME, NAME:ro or NAME:rw")
		}
	}
	return readOnly, nil
}

package box

import (
	"strings"

	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/engine/shim"
	"github.com/vethloom/vethloom/engine/shim/mounts"
)

// binds are the mounts that were asked for, of sources that are ready.
func binds(b shim.Bundle, ids *mounts.IDs) []*configs.Mount {
	var out []*configs.Mount
	for _, m := range b.Binds {
		if m.Tmpfs != nil {
			out = append(out, tmpfs(m))
			continue
		}
		flags, propagation := mounts.Flags(m)
		cm := &configs.Mount{Source: m.Source, Destination: m.Target, Device: "bind", Flags: flags,
			PropagationFlags: []int{propagation}}
		if m.ReadOnly && !m.ShallowReadOnly && !m.NonRecursive {
			// Mounts below the source too; they would stay writable otherwise.
			cm.RecAttr = &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
		}
		if ids != nil && ids.Can(m.Source) {
			cm.IDMapping = &configs.MountIDMapping{UIDMappings: idMaps(*b.IDMap), GIDMappings: idMaps(*b.IDMap)}
		}
		out = append(out, cm)
	}
	return out
}

// tmpfs is a file system in memory. Of options that contradict each other the last counts.
func tmpfs(m shim.Bind) *configs.Mount {
	cm := &configs.Mount{Source: "tmpfs", Destination: m.Target, Device: "tmpfs", Flags: safeFlags,
		PropagationFlags: []int{unix.MS_PRIVATE}}
	var data []string
	for _, o := range m.Tmpfs {
		flag, known := shim.TmpfsFlags()[o]
		switch {
		case !known:
			data = append(data, o)
		case flag.Clear:
			cm.Flags &^= flag.Bit
		default:
			cm.Flags |= flag.Bit
		}
	}
	if m.ReadOnly {
		cm.Flags |= unix.MS_RDONLY
	}
	cm.Data = strings.Join(data, ",")
	return cm
}

// rootPropagation is that of the container's root. A bind that is shared needs one whose events leave it; all others
// have one that takes them alone.
func rootPropagation(b shim.Bundle) int {
	for _, m := range b.Binds {
		if m.Shared() {
			return unix.MS_SHARED
		}
	}
	return unix.MS_SLAVE | unix.MS_REC
}

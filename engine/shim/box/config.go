package box

import (
	"fmt"
	"maps"
	"os"

	"github.com/docker/go-units"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer/configs"

	"github.com/vethloom/vethloom/engine/shim"
	"github.com/vethloom/vethloom/engine/shim/mounts"
)

func config(b shim.Bundle, ids *mounts.IDs) (*configs.Config, error) {
	limits, err := Limits(b.Resources)
	if err != nil {
		return nil, err
	}
	c := &configs.Config{
		Rootfs:          b.Root,
		RootPropagation: rootPropagation(b),
		Readonlyfs:      b.ReadOnly,
		Namespaces:      namespaces(b),
		Capabilities:    initCapabilities(b.Caps),
		Cgroups:         &cgroups.Cgroup{Path: b.Cgroup, Resources: limits},
		Mounts:          append(systemMounts(b), binds(b, ids)...),
		NoNewPrivileges: b.NoNewPrivs,
		Sysctl:          sysctls(b),
		Version:         "1.0.0",
	}
	if b.AppArmor != shim.Unconfined {
		c.AppArmorProfile = b.AppArmor
	}
	if b.Namespaces.UTS != shim.HostNamespace {
		c.Hostname, c.Domainname = b.Hostname, b.Domainname
	}
	if ids != nil {
		c.UIDMappings, c.GIDMappings = idMaps(*b.IDMap), idMaps(*b.IDMap)
	}
	if !b.Privileged && !b.Unmasked {
		c.MaskPaths, c.ReadonlyPaths = maskedPaths(), readonlyPaths()
	}
	if c.Rlimits, err = rlimits(b.Ulimits); err != nil {
		return nil, err
	}
	if c.OomScoreAdj, err = oomScoreAdj(b.OOMScoreAdj); err != nil {
		return nil, err
	}
	if c.Seccomp, err = seccompProfile(b); err != nil {
		return nil, fmt.Errorf("build the seccomp filter: %w", err)
	}
	return c, addDevices(c, b)
}

// namespaces are the container's: of its own, without a path, or others' by theirs. What is the host's is left out.
func namespaces(b shim.Bundle) configs.Namespaces {
	ns := configs.Namespaces{{Type: configs.NEWNS}}
	for _, n := range []struct {
		kind configs.NamespaceType
		from string
	}{
		{configs.NEWUTS, b.Namespaces.UTS}, {configs.NEWIPC, b.Namespaces.IPC},
		{configs.NEWPID, b.Namespaces.PID}, {configs.NEWCGROUP, b.Namespaces.Cgroup},
	} {
		if n.from != shim.HostNamespace {
			ns = append(ns, configs.Namespace{Type: n.kind, Path: n.from})
		}
	}
	if b.NetNS != "" {
		ns = append(ns, configs.Namespace{Type: configs.NEWNET, Path: b.NetNS})
	}
	if b.IDMap != nil {
		ns = append(ns, configs.Namespace{Type: configs.NEWUSER})
	}
	return ns
}

func rlimits(given []shim.Ulimit) ([]configs.Rlimit, error) {
	var out []configs.Rlimit
	for _, u := range given {
		r, err := (&units.Ulimit{Name: u.Name, Soft: u.Soft, Hard: u.Hard}).GetRlimit()
		if err != nil {
			return nil, &shim.Error{Code: shim.CodeInvalid, Message: fmt.Sprintf("ulimit %s: %v", u.Name, err)}
		}
		out = append(out, configs.Rlimit{Type: r.Type, Soft: r.Soft, Hard: r.Hard})
	}
	return out, nil
}

// oomScoreAdj is what is to be set. Without a wish a container has not what keeps netd from being killed for memory;
// what makes netd a likelier victim it keeps, since only a privileged process could change that.
func oomScoreAdj(wish int) (*int, error) {
	if wish != 0 {
		return &wish, nil
	}
	own, err := shim.OOMScoreAdj()
	if err != nil || own >= 0 {
		return nil, err
	}
	return &wish, nil
}

// sysctls are those asked for, and two that let a container without privileges bind any port
// and ping: that is safe because the network namespace is its own. One with a user namespace
// could not set these.
func sysctls(b shim.Bundle) map[string]string {
	if b.NetNS == "" || b.IDMap != nil {
		return b.Sysctls
	}
	s := map[string]string{
		"net.ipv4.ip_unprivileged_port_start": "0",
		"net.ipv4.ping_group_range":           "0 2147483647",
	}
	for name := range s {
		if _, err := os.Stat("/proc/sys/" + slashed(name)); err != nil {
			delete(s, name)
		}
	}
	maps.Copy(s, b.Sysctls)
	return s
}

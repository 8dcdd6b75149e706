package box

import (
	"fmt"
	"maps"
	"os"

	"github.com/opencontainers/cgroups"
	devices "github.com/opencontainers/cgroups/devices/config"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/specconv"

	"github.com/vethloom/vethloom/engine/shim"
	"github.com/vethloom/vethloom/engine/shim/mounts"
)

func config(b shim.Bundle, ids *mounts.IDs) (*configs.Config, error) {
	c := &configs.Config{
		Rootfs:          b.Root,
		RootPropagation: rootPropagation(b),
		Readonlyfs:      b.ReadOnly,
		Hostname:        b.Hostname,
		Namespaces:      namespaces(b),
		Capabilities:    initCapabilities(b.Caps),
		Cgroups:         &cgroups.Cgroup{Path: b.Cgroup, Resources: resources(b)},
		Devices:         defaultDevices(),
		Mounts:          append(systemMounts(b), binds(b, ids)...),
		NoNewPrivileges: b.NoNewPrivs,
		Version:         "1.0.0",
	}
	if ids != nil {
		c.UIDMappings, c.GIDMappings = idMaps(*b.IDMap), idMaps(*b.IDMap)
	}
	c.Sysctl = sysctls(b)
	if b.Privileged {
		return c, addHostDevices(c)
	}
	c.MaskPaths, c.ReadonlyPaths = maskedPaths(), readonlyPaths()
	var err error
	if c.Seccomp, err = seccompProfile(b.Caps, b.Compat); err != nil {
		return nil, fmt.Errorf("build the seccomp filter: %w", err)
	}
	return c, nil
}

func namespaces(b shim.Bundle) configs.Namespaces {
	ns := configs.Namespaces{
		{Type: configs.NEWNS}, {Type: configs.NEWUTS}, {Type: configs.NEWIPC},
		{Type: configs.NEWPID}, {Type: configs.NEWCGROUP},
	}
	if b.NetNS != "" {
		ns = append(ns, configs.Namespace{Type: configs.NEWNET, Path: b.NetNS})
	}
	if b.IDMap != nil {
		ns = append(ns, configs.Namespace{Type: configs.NEWUSER})
	}
	return ns
}

func defaultDevices() []*devices.Device {
	var out []*devices.Device
	for _, d := range specconv.AllowedDevices {
		if d.Path != "" {
			out = append(out, d)
		}
	}
	return out
}

// addHostDevices gives a privileged container what is in the host's /dev.
func addHostDevices(c *configs.Config) error {
	host, err := hostDevices()
	if err != nil {
		return fmt.Errorf("list the host's devices: %w", err)
	}
	have := map[string]bool{}
	for _, d := range c.Devices {
		have[d.Path] = true
	}
	for _, d := range host {
		if !have[d.Path] {
			c.Devices = append(c.Devices, d)
		}
	}
	return nil
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

package box

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	devices "github.com/opencontainers/cgroups/devices/config"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/engine/shim"
)

const allPermissions = "rwm"

// addDevices puts into a configuration the devices that a container has, and the rules for those that it may use.
func addDevices(c *configs.Config, b shim.Bundle) error {
	c.Devices = defaultDevices()
	c.Cgroups.Devices = append(c.Cgroups.Devices, &devices.Rule{
		Type: devices.WildcardDevice, Major: devices.Wildcard, Minor: devices.Wildcard,
		Permissions: allPermissions, Allow: b.Privileged,
	})
	if !b.Privileged {
		for _, d := range specconv.AllowedDevices {
			c.Cgroups.Devices = append(c.Cgroups.Devices, &d.Rule)
		}
	}
	for _, given := range b.Devices {
		d, err := deviceAt(given.Source)
		if err != nil {
			return &shim.Error{Code: shim.CodeInvalid, Message: fmt.Sprintf("device %s: %v", given.Source, err)}
		}
		d.Path = given.Target
		d.Permissions = devices.Permissions(given.Permissions)
		// One of the usual ones can be given another meaning, as a file of that name could.
		c.Devices = slices.DeleteFunc(c.Devices, func(other *devices.Device) bool { return other.Path == d.Path })
		if b.IDMap != nil {
			// It may make no devices. libcontainer would bind what the host has at the container's path.
			c.Mounts = append(c.Mounts, &configs.Mount{Source: given.Source, Destination: d.Path, Device: "bind",
				Flags: unix.MS_BIND | unix.MS_NOSUID | unix.MS_NOEXEC, PropagationFlags: []int{unix.MS_PRIVATE}})
		} else {
			c.Devices = append(c.Devices, d)
		}
		if !b.Privileged {
			c.Cgroups.Devices = append(c.Cgroups.Devices, &d.Rule)
		}
	}
	if b.Privileged {
		return addHostDevices(c)
	}
	for _, text := range b.DeviceRules {
		r, err := shim.ParseDeviceRule(text)
		if err != nil {
			return &shim.Error{Code: shim.CodeInvalid, Message: "device-cgroup-rule " + err.Error()}
		}
		c.Cgroups.Devices = append(c.Cgroups.Devices, &devices.Rule{Type: devices.Type(r.Type), Major: r.Major,
			Minor: r.Minor, Permissions: devices.Permissions(r.Permissions), Allow: true})
	}
	return nil
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

// hostDevices lists the device nodes in the host's /dev, without the terminals
// and the shared memory that a container has its own of.
func hostDevices() ([]*devices.Device, error) {
	var out []*devices.Device
	own := map[string]bool{"/dev/pts": true, "/dev/shm": true, "/dev/mqueue": true, "/dev/fd": true,
		"/dev/console": true, "/dev/ptmx": true}
	err := filepath.WalkDir("/dev", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil && path != "/dev":
			return nil // it went away while we looked
		case err != nil:
			return err
		case own[path] && d.IsDir():
			return fs.SkipDir
		case own[path] || d.Type()&fs.ModeDevice == 0:
			return nil
		}
		dev, err := deviceAt(path)
		if err == nil {
			out = append(out, dev)
		}
		return nil
	})
	return out, err
}

func deviceAt(path string) (*devices.Device, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return nil, &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	kind := devices.CharDevice
	if st.Mode&unix.S_IFMT == unix.S_IFBLK {
		kind = devices.BlockDevice
	}
	return &devices.Device{
		Path: path, FileMode: os.FileMode(st.Mode & 0o7777), Uid: st.Uid, Gid: st.Gid,
		Rule: devices.Rule{
			Type: kind, Major: int64(unix.Major(uint64(st.Rdev))), Minor: int64(unix.Minor(uint64(st.Rdev))),
			Permissions: "rwm", Allow: true,
		},
	}, nil
}

package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vethloom/vethloom/engine/shim"
)

// maxDevices bounds how many devices a directory may have.
const maxDevices = 4096

// ownDevices are directories in /dev that each container has of its own.
var ownDevices = []string{"pts", "shm", "fd", "mqueue"}

func checkDevices(s Spec) error {
	for _, d := range s.Devices {
		switch {
		case !path.IsAbs(d.Source):
			return invalid("device", d.Source, "not an absolute path of the host", "begin it with /")
		case d.Target != "" && (!path.IsAbs(d.Target) || path.Clean(d.Target) == "/"):
			return invalid("device", d.Source+":"+d.Target, "not a path below / in the container", "begin it with /")
		case d.Permissions != "" && !shim.DevicePermissions(d.Permissions):
			return invalid("device", d.Source+":"+d.Target+":"+d.Permissions, "unknown permissions",
				"use some of r, w and m")
		}
	}
	for _, r := range s.DeviceRules {
		if _, err := shim.ParseDeviceRule(r); err != nil {
			return invalid("device-cgroup-rule", r, err.Error(), "see 'devices.allow' of cgroups v1")
		}
	}
	return nil
}

// hostDevices are the devices that a container's wish means now: links are followed, and directories are read.
func hostDevices(wish []shim.Device) ([]shim.Device, error) {
	var out []shim.Device
	for _, d := range wish {
		found, err := devicesAt(d)
		if err != nil {
			return nil, invalid("device", d.Source, err.Error(), "name a device of the host, or a directory of devices")
		}
		out = append(out, found...)
	}
	return out, nil
}

func devicesAt(d shim.Device) ([]shim.Device, error) {
	if d.Target == "" {
		d.Target = d.Source
	}
	if d.Permissions == "" {
		d.Permissions = "rwm"
	}
	d.Target = path.Clean(d.Target)
	source, err := filepath.EvalSymlinks(d.Source)
	if err != nil {
		return nil, err
	}
	d.Source = source
	info, err := os.Lstat(source)
	switch {
	case err != nil:
		return nil, err
	case info.IsDir():
		return devicesIn(d)
	case info.Mode()&fs.ModeDevice == 0:
		return nil, errors.New("not a device")
	}
	return []shim.Device{d}, nil
}

func devicesIn(dir shim.Device) ([]shim.Device, error) {
	var out []shim.Device
	err := filepath.WalkDir(dir.Source, func(file string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil && file != dir.Source:
			return nil // it went away while we looked
		case err != nil:
			return err
		case entry.IsDir() && slices.Contains(ownDevices, entry.Name()):
			return fs.SkipDir
		case entry.Type()&fs.ModeDevice == 0 || entry.Name() == "console":
			return nil
		case len(out) == maxDevices:
			return fmt.Errorf("more than %d devices", maxDevices)
		}
		d := dir
		d.Source, d.Target = file, path.Join(dir.Target, strings.TrimPrefix(file, dir.Source))
		out = append(out, d)
		return nil
	})
	if err == nil && len(out) == 0 {
		err = errors.New("no device is in it")
	}
	return out, err
}

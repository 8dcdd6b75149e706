package flagspec

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"strconv"
	"strings"

	"github.com/docker/go-units"

	apiv1 "github.com/vethloom/vethloom/api/v1"
)

// This file has what of the host a container gets: devices, limits of them, and of processes.

// Ulimit parses NAME=SOFT[:HARD]; -1 is no limit.
func Ulimit(value string) (*apiv1.Ulimit, error) {
	u, err := units.ParseUlimit(value)
	if err != nil {
		return nil, fmt.Errorf("%w: use NAME=SOFT[:HARD], for example nofile=1024:4096 or core=-1", err)
	}
	return &apiv1.Ulimit{Name: u.Name, Soft: u.Soft, Hard: u.Hard}, nil
}

// Device parses SOURCE[:TARGET][:PERMISSIONS], paths of the host and of the container and letters of "rwm".
func Device(value string) (*apiv1.Device, error) {
	const forms = "use /dev/X[:/dev/Y][:rwm]"
	parts := strings.Split(value, ":")
	d := &apiv1.Device{Source: parts[0]}
	rest := parts[1:]
	if len(rest) > 0 && permissions(rest[len(rest)-1]) {
		d.Permissions, rest = rest[len(rest)-1], rest[:len(rest)-1]
	}
	switch {
	case strings.Contains(d.Source, "=") && !path.IsAbs(d.Source):
		return nil, fmt.Errorf("devices by CDI names are not there: %s", forms)
	case !path.IsAbs(d.Source):
		return nil, fmt.Errorf("the path %q on the host is not absolute: %s", d.Source, forms)
	case len(rest) > 1:
		return nil, fmt.Errorf("%q are no permissions: %s", rest[1], forms)
	case len(rest) == 1 && !path.IsAbs(rest[0]):
		return nil, fmt.Errorf("%q is neither an absolute path nor permissions: %s", rest[0], forms)
	case len(rest) == 1:
		d.Target = path.Clean(rest[0])
	}
	return d, nil
}

// permissions reports whether a text is one or more of r, w and m, each once.
func permissions(text string) bool {
	for i, c := range text {
		if !strings.ContainsRune("rwm", c) || strings.ContainsRune(text[:i], c) {
			return false
		}
	}
	return text != ""
}

var deviceRule = regexp.MustCompile(`^[acb] (\d+|\*):(\d+|\*) [rwm]{1,3}$`)

// DeviceRule checks a rule of the devices cgroup.
func DeviceRule(value string) (string, error) {
	if !deviceRule.MatchString(value) {
		return "", errors.New("use TYPE MAJOR:MINOR PERMISSIONS, for example 'c 10:200 rwm' or 'b 8:* r'")
	}
	return value, nil
}

// BlockDevice parses DEVICE:VALUE, of which number reads the value.
func BlockDevice(value string, number func(string) (uint64, error)) (*apiv1.BlockDevice, error) {
	device, text, ok := strings.Cut(value, ":")
	if !ok || !strings.HasPrefix(device, "/dev/") {
		return nil, errors.New("use /dev/X:VALUE")
	}
	n, err := number(text)
	if err != nil {
		return nil, err
	}
	return &apiv1.BlockDevice{Path: path.Clean(device), Value: n}, nil
}

// Bytes is [Size] for values of which none is negative.
func Bytes(text string) (uint64, error) {
	n, err := Size(text)
	return uint64(n), err
}

// Count parses a whole number.
func Count(text string) (uint64, error) {
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%q is not a whole number", text)
	}
	return n, nil
}

// Weight parses a share of block devices.
func Weight(text string) (uint64, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n != 0 && (n < 10 || n > 1000) {
		return 0, fmt.Errorf("%q is not a weight: use 10 to 1000, or 0 for none", text)
	}
	return n, nil
}

// Restart parses a restart policy.
func Restart(value string) (*apiv1.RestartPolicy, error) {
	name, retries, counted := strings.Cut(value, ":")
	p := &apiv1.RestartPolicy{Name: name}
	switch name {
	case "no", "always", "unless-stopped":
		if counted {
			return nil, errors.New("only on-failure takes a number of retries")
		}
	case "on-failure":
		if !counted {
			break
		}
		n, err := strconv.ParseInt(retries, 10, 32)
		if err != nil || n < 0 {
			return nil, fmt.Errorf("%q is not a number of retries", retries)
		}
		p.MaxRetries = int32(n)
	default:
		return nil, errors.New("use no, always, unless-stopped or on-failure[:RETRIES]")
	}
	return p, nil
}

// Link parses CONTAINER[:ALIAS].
func Link(value string) (string, error) {
	name, alias, given := strings.Cut(value, ":")
	if !given {
		alias = name[strings.LastIndexByte(name, '/')+1:]
	}
	if name == "" || alias == "" || strings.Contains(alias, ":") {
		return "", errors.New("use CONTAINER[:ALIAS]")
	}
	return name + ":" + alias, nil
}

// Security changes a spec by a value of --security-opt. read gets the content of a profile's file.
func Security(s *apiv1.ContainerSpec, value string, read func(string) (string, error)) error {
	const known = "use seccomp=FILE, seccomp=unconfined, apparmor=PROFILE, no-new-privileges or systempaths=unconfined"
	key, v, given := strings.Cut(value, "=")
	if !given {
		key, v, given = strings.Cut(value, ":") // as it was written once
	}
	switch {
	case key == "no-new-privileges" && !given:
		s.NoNewPrivileges = true
	case key == "no-new-privileges":
		on, err := strconv.ParseBool(v)
		if err != nil {
			return fmt.Errorf("%q is neither true nor false", v)
		}
		s.NoNewPrivileges = on
	case key == "seccomp" && v == "unconfined":
		s.Seccomp = v
	case key == "seccomp" && v == "builtin":
		s.Seccomp = ""
	case key == "seccomp" && v != "":
		profile, err := read(v)
		if err != nil {
			return err
		}
		s.Seccomp = profile
	case key == "apparmor" && v != "":
		s.Apparmor = v
	case key == "systempaths" && v == "unconfined":
		s.Unmasked = true
	case key == "label" && v == "disable": // there are none
	case key == "label":
		return errors.New("containers have no SELinux labels here: leave it out, or use label=disable")
	default:
		return errors.New(known)
	}
	return nil
}

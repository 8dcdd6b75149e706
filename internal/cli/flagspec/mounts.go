package flagspec

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"strings"

	apiv1 "github.com/vethloom/vethloom/api/v1"
)

const mountForms = "use /HOST/PATH:/CONTAINER/PATH[:ro|rw] or VOLUME:/CONTAINER/PATH[:ro|rw]; further options are " +
	"nocopy of a volume, and of a path where mounts are propagated to (rprivate, rslave, rshared …)"

var volumeName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`)

// Mount parses a value of -v. dir is what a relative source ("./data") is
// relative to. A source that is no path names a volume; a target alone asks
// for an anonymous volume (an empty source).
func Mount(value, dir string) (*apiv1.Mount, error) {
	m, err := mount(value, dir)
	if err != nil {
		return nil, fmt.Errorf("invalid -v %q: %w: %s", value, err, mountForms)
	}
	return m, nil
}

func mount(value, dir string) (*apiv1.Mount, error) {
	parts := strings.Split(value, ":")
	m := &apiv1.Mount{}
	options := ""
	switch len(parts) {
	case 1:
		m.Target, m.Volume = parts[0], true
	case 2:
		m.Source, m.Target = parts[0], parts[1]
	case 3:
		m.Source, m.Target, options = parts[0], parts[1], parts[2]
	default:
		return nil, errors.New("too many colons")
	}
	if strings.ContainsRune(value, 0) {
		return nil, errors.New("it contains a NUL byte")
	}
	if !path.IsAbs(m.Target) {
		return nil, fmt.Errorf("the path in the container, %q, is not absolute", m.Target)
	}
	if m.Target = path.Clean(m.Target); m.Target == "/" {
		return nil, errors.New("the container's root cannot be mounted over")
	}
	if len(parts) == 1 {
		return m, nil
	}
	if err := source(m, dir); err != nil || len(parts) == 2 {
		return m, err
	}
	for o := range strings.SplitSeq(options, ",") {
		if err := mountOption(m, o); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func mountOption(m *apiv1.Mount, o string) error {
	switch {
	case o == "ro":
		m.ReadOnly = true
	case o == "rw", o == "z", o == "Z": // the last two are about SELinux labels, which there are none of
	case o == "consistent", o == "cached", o == "delegated": // of other systems
	case o == "nocopy" && m.GetVolume():
		m.NoCopy = true
	case o == "nocopy":
		return fmt.Errorf("only volumes have the option %q", o)
	case propagations(o) && !m.GetVolume():
		m.Propagation = o
	case propagations(o):
		return fmt.Errorf("only paths of the host have the option %q", o)
	default:
		return fmt.Errorf("unknown option %q", o)
	}
	return nil
}

func propagations(o string) bool {
	switch o {
	case "private", "rprivate", "shared", "rshared", "slave", "rslave":
		return true
	}
	return false
}

func source(m *apiv1.Mount, dir string) error {
	switch s := m.Source; {
	case s == "":
		return errors.New("the source is empty")
	case path.IsAbs(s):
		m.Source = path.Clean(s)
	case s == "." || s == ".." || strings.HasPrefix(s, "./") || strings.HasPrefix(s, "../"):
		m.Source = path.Join(dir, s)
	case !volumeName.MatchString(s):
		return fmt.Errorf("%q is neither a path (start it with / or ./) nor a volume's name (letters, digits, '_', "+
			"'.', '-')", s)
	default:
		m.Volume = true
	}
	return nil
}

package flagspec

import (
	"encoding/csv"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"

	apiv1 "github.com/vethloom/vethloom/api/v1"
)

// mountFlag is a value of --mount that is being read.
type mountFlag struct {
	*apiv1.Mount
	kind      string // bind, volume, tmpfs
	recursive string // of bind-recursive
	create    bool   // of bind-create-src
	given     map[string]bool
}

// LongMount parses a value of --mount: KEY=VALUE pairs, by commas, quoted as CSV. dir is what a relative source is
// relative to.
func LongMount(value, dir string) (*apiv1.Mount, error) {
	fields, err := csv.NewReader(strings.NewReader(value)).Read()
	if err != nil {
		return nil, fmt.Errorf("it cannot be read: %w: use type=bind|volume|tmpfs,source=…,target=…", err)
	}
	m := &mountFlag{Mount: &apiv1.Mount{}, kind: "volume", given: map[string]bool{}}
	for _, field := range fields {
		key, v, given := strings.Cut(field, "=")
		if err := m.set(strings.ToLower(key), v, given); err != nil {
			return nil, err
		}
	}
	return m.Mount, m.check(dir)
}

func (m *mountFlag) set(key, v string, given bool) (err error) {
	m.given[key] = true
	if on := m.switches()[key]; on != nil {
		*on, err = flag(key, v, given)
		return err
	}
	if !given || v == "" {
		return fmt.Errorf("%q has no value", key)
	}
	switch key {
	case "type":
		m.kind = strings.ToLower(v)
	case "source", "src":
		m.Source = v
	case "target", "dst", "destination":
		m.Target = v
	case "consistency": // of other systems
	case "bind-propagation":
		m.Propagation = v
	case "bind-recursive":
		m.recursive = v
	case "volume-subpath":
		m.Subpath = v
	case "volume-driver":
		m.Driver = v
	case "volume-label":
		m.Labels = put(m.Labels, v)
	case "volume-opt":
		m.DriverOptions = put(m.DriverOptions, v)
	case "tmpfs-size":
		m.Mount.Tmpfs = orTmpfs(m.Mount.Tmpfs)
		m.Mount.Tmpfs.Size, err = Size(v)
	case "tmpfs-mode":
		m.Mount.Tmpfs = orTmpfs(m.Mount.Tmpfs)
		m.Mount.Tmpfs.Mode, err = mode(v)
	default:
		return fmt.Errorf("unknown key %q", key)
	}
	return err
}

// switches are the keys that are on or off.
func (m *mountFlag) switches() map[string]*bool {
	return map[string]*bool{"readonly": &m.ReadOnly, "ro": &m.ReadOnly, "volume-nocopy": &m.NoCopy,
		"bind-nonrecursive": &m.NonRecursive, "bind-create-src": &m.create}
}

// flag is a value that is true where it is not given.
func flag(key, v string, given bool) (bool, error) {
	if !given {
		return true, nil
	}
	b, err := strconv.ParseBool(v)
	if err != nil {
		return false, fmt.Errorf("%s: %q is neither true nor false", key, v)
	}
	return b, nil
}

func put(m map[string]string, pair string) map[string]string {
	if m == nil {
		m = map[string]string{}
	}
	key, v, _ := strings.Cut(pair, "=")
	m[key] = v
	return m
}

func orTmpfs(t *apiv1.Tmpfs) *apiv1.Tmpfs {
	if t == nil {
		t = &apiv1.Tmpfs{}
	}
	return t
}

func mode(text string) (uint32, error) {
	n, err := strconv.ParseUint(text, 8, 12)
	if err != nil {
		return 0, fmt.Errorf("%q are no permissions: use octal digits such as 1777", text)
	}
	return uint32(n), nil
}

// check sees to it that the keys are those of the type.
func (m *mountFlag) check(dir string) error {
	for key := range m.given {
		if of, _, ok := strings.Cut(key, "-"); ok && of != m.kind {
			return fmt.Errorf("%q is for mounts of type %s, and this is one of type %s", key, of, m.kind)
		}
	}
	if err := m.place(); err != nil {
		return err
	}
	switch m.kind {
	case "bind":
		return m.bind(dir)
	case "volume":
		m.Volume = true
		if m.Source != "" && !volumeName.MatchString(m.Source) {
			return fmt.Errorf("%q is no volume's name: for a path use type=bind", m.Source)
		}
	case "tmpfs":
		if m.Source != "" {
			return errors.New("a tmpfs has no source")
		}
		m.Mount.Tmpfs = orTmpfs(m.Mount.Tmpfs)
	case "image", "npipe", "cluster":
		return fmt.Errorf("mounts of type %s are not there: use bind, volume or tmpfs", m.kind)
	default:
		return fmt.Errorf("unknown type %q: use bind, volume or tmpfs", m.kind)
	}
	return nil
}

// place checks where a mount is in the container.
func (m *mountFlag) place() error {
	switch {
	case strings.ContainsRune(m.Source+m.Target, 0):
		return errors.New("it contains a NUL byte")
	case m.Target == "":
		return errors.New("the target is missing: target=/PATH")
	case !path.IsAbs(m.Target):
		return fmt.Errorf("the path in the container, %q, is not absolute", m.Target)
	}
	if m.Target = path.Clean(m.Target); m.Target == "/" {
		return errors.New("the container's root cannot be mounted over")
	}
	return nil
}

func (m *mountFlag) bind(dir string) error {
	switch {
	case m.Source == "":
		return errors.New("the source is missing: source=/PATH")
	case !path.IsAbs(m.Source):
		m.Source = path.Join(dir, m.Source)
	}
	m.Source, m.MustExist = path.Clean(m.Source), !m.create
	if p := m.Propagation; p != "" && !propagations(p) {
		return fmt.Errorf("bind-propagation %q: use private, rprivate, shared, rshared, slave or rslave", p)
	}
	switch m.recursive {
	case "", "enabled":
	case "disabled":
		m.NonRecursive = true
	case "writable":
		m.ReadOnlyNonRecursive = true
	case "readonly":
		if !m.ReadOnly {
			return errors.New("bind-recursive=readonly needs readonly")
		}
	default:
		return fmt.Errorf("bind-recursive %q: use enabled, disabled, writable or readonly", m.recursive)
	}
	return nil
}

// Tmpfs parses a value of --tmpfs: PATH[:OPTIONS].
func Tmpfs(value string) (*apiv1.Mount, error) {
	target, options, _ := strings.Cut(value, ":")
	m := &mountFlag{Mount: &apiv1.Mount{Target: target, Tmpfs: &apiv1.Tmpfs{}}}
	if err := m.place(); err != nil {
		return nil, fmt.Errorf("%w: use /PATH[:size=64m,mode=1777,…]", err)
	}
	t := m.Mount.Tmpfs
	for o := range strings.SplitSeq(options, ",") {
		key, v, _ := strings.Cut(o, "=")
		var err error
		switch {
		case o == "" && options == "":
		case o == "ro":
			m.ReadOnly = true
		case o == "rw":
		case key == "size" && !strings.HasSuffix(v, "%"):
			t.Size, err = Size(v)
		case key == "mode":
			t.Mode, err = mode(v)
		default:
			t.Options = append(t.Options, o)
		}
		if err != nil {
			return nil, err
		}
	}
	return m.Mount, nil
}

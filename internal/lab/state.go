package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Lab is a cluster inside this machine. Its methods may be called by several
// goroutines and by several processes at once.
type Lab struct{ *faulter }

// The parts of a [Lab], each over the one before it: what is known of it, what runs in it, what makes it, and what
// breaks it.
type (
	processes struct{ *state }
	builder   struct{ *processes }
	faulter   struct{ *builder }
)

func newLab(s *state) *Lab { return &Lab{&faulter{&builder{&processes{s}}}} }

// state is what is known of a lab, and kept in a file.
type state struct {
	Config
	Members []Member `json:"members"`
	Faults  Faults   `json:"faults,omitzero"`
	Ready   bool     `json:"ready"` // false until up has come to its end

	mu sync.Mutex // guards the fields above while daemons start side by side
}

// ErrNotFound says that there is no lab of this name.
var ErrNotFound = errors.New("no such lab")

func (l *state) path(parts ...string) string {
	return filepath.Join(append([]string{l.Dir, l.Name}, parts...)...)
}

// pin is the path that holds a host's network namespace.
func (l *state) pin(host string) string { return l.path("ns", host) }

// Log is the path of a member's log.
func (l *state) Log(member string) string { return l.path(member, "log") }

// Socket is the path of a node's API socket.
func (l *state) Socket(node string) string { return l.path(node, "run", "netd.sock") }

// cgroup is the lab's, below which each node has its own; the directory of labs is part of the name, so that two labs
// of one name in two directories do not meet.
func (l *state) cgroup() string {
	return fmt.Sprintf("vethloom-lab.%s.%08x", l.Name, crc32.ChecksumIEEE([]byte(l.path())))
}

const stateFile = "lab.json"

// load reads what is recorded of the lab.
func (l *state) load() error {
	b, err := os.ReadFile(l.path(stateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("lab %q: %w: netlab ls lists them", l.Name, ErrNotFound)
	}
	if err != nil {
		return fmt.Errorf("read lab %q: %w", l.Name, err)
	}
	var read struct {
		Config
		Members []Member
		Faults  Faults
		Ready   bool
	}
	if err := json.Unmarshal(b, &read); err != nil {
		return fmt.Errorf("read lab %q: %s: %w: netlab down removes it", l.Name, l.path(stateFile), err)
	}
	read.Dir, read.Name = l.Dir, l.Name
	l.Config, l.Members, l.Faults, l.Ready = read.Config, read.Members, read.Faults, read.Ready
	return nil
}

// save records the lab, all of it or nothing.
func (l *state) save() error {
	b, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return fmt.Errorf("record lab %q: %w", l.Name, err)
	}
	next := l.path("." + stateFile)
	if err := os.WriteFile(next, append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("record lab %q: %w", l.Name, err)
	}
	if err := os.Rename(next, l.path(stateFile)); err != nil {
		return fmt.Errorf("record lab %q: %w", l.Name, err)
	}
	return nil
}

// Open finds a lab by its name. An empty dir means [DefaultDir].
func Open(dir, name string) (*Lab, error) {
	l, err := at(dir, name)
	if err != nil {
		return nil, err
	}
	return l, l.load()
}

// at is the lab of this name, whether it exists or not.
func at(dir, name string) (*Lab, error) {
	if dir == "" {
		dir = DefaultDir
	}
	if err := checkName(name); err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("directory of labs %q: %w", dir, err)
	}
	return newLab(&state{Config: Config{Name: name, Dir: dir}}), nil
}

// List returns the names of all labs, those among them that only Down can help.
func List(dir string) ([]string, error) {
	if dir == "" {
		dir = DefaultDir
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list labs: %w", err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && validName.MatchString(e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// Member finds a host by its name.
func (l *state) Member(name string) (Member, error) {
	i, err := l.index(name)
	if err != nil {
		return Member{}, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Members[i], nil
}

func (l *state) index(name string) (int, error) {
	i := slices.IndexFunc(l.Members, func(m Member) bool { return m.Name == name })
	if i < 0 {
		return 0, fmt.Errorf("host %q: lab %q has %s", name, l.Name, strings.Join(l.Hosts(), ", "))
	}
	return i, nil
}

// Hosts are the names of the lab's namespaces.
func (l *state) Hosts() []string {
	names := []string{Underlay}
	for _, m := range l.Members {
		names = append(names, m.Name)
	}
	return names
}

// lock takes the lab for one process at a time. The returned function gives it back.
// It fails with ErrNotFound when the lab is gone.
func (l *state) lock(ctx context.Context) (func(), error) {
	for {
		dir, err := os.Open(l.path())
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("lab %q: %w: netlab ls lists them", l.Name, ErrNotFound)
		}
		if err != nil {
			return nil, fmt.Errorf("lock lab %q: %w", l.Name, err)
		}
		err = unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil && sameFile(dir, l.path()) {
			return func() { dir.Close() }, nil
		}
		dir.Close()
		if err != nil && !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock lab %q: %w", l.Name, err)
		}
		if err := Pause(ctx, look); err != nil {
			return nil, fmt.Errorf("lab %q is held by another netlab: %w", l.Name, err)
		}
	}
}

// sameFile reports whether the path is still that of the open directory.
func sameFile(dir *os.File, path string) bool {
	a, err := dir.Stat()
	if err != nil {
		return false
	}
	b, err := os.Stat(path)
	return err == nil && os.SameFile(a, b)
}

// update changes the lab under its lock, starting from what is recorded.
func (l *state) update(ctx context.Context, change func() error) error {
	unlock, err := l.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := l.load(); err != nil {
		return err
	}
	return errors.Join(change(), l.save())
}

// look is the time between two looks at what another process brings about.
const look = 10 * time.Millisecond

// Pause lets some time pass, unless the context ends.
func Pause(ctx context.Context, long time.Duration) error {
	timer := time.NewTimer(long)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// until waits for what another process brings about, as long as the context lets it.
func until(ctx context.Context, what string, done func() (bool, error)) error {
	for {
		ok, err := done()
		if err != nil {
			return fmt.Errorf("wait until %s: %w", what, err)
		}
		if ok {
			return nil
		}
		if err := Pause(ctx, look); err != nil {
			return fmt.Errorf("wait until %s: %w", what, err)
		}
	}
}

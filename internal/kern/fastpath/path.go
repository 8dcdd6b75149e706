package fastpath

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Path is the fast path of one network namespace. What it has is in the kernel, held by the links that its programs are
// at: another Path finds it there. Its methods may be called concurrently.
type Path struct {
	enter func(func() error) error // runs a function in the namespace

	mu     sync.Mutex
	loaded *kernelObjects
	seen   map[ebpf.ProgramID]program
}

// The names of the programs, as the kernel tells them: by them a program is known for one of ours.
const (
	leaveName   = "vethloom_leave"
	enterName   = "vethloom_enter"
	landName    = "vethloom_land"
	resolveName = "vethloom_resolve"
)

// Open finds the fast path by what is at the links with these indexes. Enter runs a function in their network
// namespace. It is no error that there is none, nor that the kernel knows no such programs.
func Open(enter func(func() error) error, links []uint32) (*Path, error) {
	p := &Path{enter: enter, seen: map[ebpf.ProgramID]program{}}
	tables := map[ebpf.MapID]bool{}
	err := enter(func() error {
		for _, l := range links {
			ours, err := p.ours(l, ebpf.AttachTCXIngress)
			if errors.Is(err, ErrUnsupported) {
				return nil
			}
			if err != nil {
				return err
			}
			for _, id := range ours {
				about, err := p.program(id)
				if err != nil {
					return err
				}
				for table := range about.tables {
					tables[table] = true
				}
			}
		}
		return nil
	})
	if err != nil || len(tables) == 0 {
		return p, err
	}
	return p, p.load(tables)
}

// Close lets go of the programs and tables. What links hold stays.
func (p *Path) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.loaded == nil {
		return nil
	}
	defer func() { p.loaded = nil }()
	return p.loaded.Close()
}

// load loads the programs with the tables that there are. Those of another make, or of another one's, are not taken:
// programs that have them go on with them until they are replaced.
func (p *Path) load(tables map[ebpf.MapID]bool) error {
	spec, err := loadKernel()
	if err != nil {
		return fmt.Errorf("read the programs: %w", err)
	}
	opts := ebpf.CollectionOptions{MapReplacements: map[string]*ebpf.Map{}}
	defer func() {
		for _, m := range opts.MapReplacements {
			m.Close()
		}
	}()
	for id := range tables {
		m, err := ebpf.NewMapFromID(id)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("open table %d: %w", id, err)
		}
		about, err := m.Info()
		if err != nil {
			return errors.Join(fmt.Errorf("look at table %d: %w", id, err), m.Close())
		}
		s := spec.Maps[about.Name]
		if s == nil || s.Compatible(m) != nil || opts.MapReplacements[about.Name] != nil {
			m.Close()
			continue
		}
		opts.MapReplacements[about.Name] = m
	}
	var o kernelObjects
	if err := spec.LoadAndAssign(&o, &opts); err != nil {
		return unsupported(fmt.Errorf("load the programs: %w", err))
	}
	p.loaded = &o
	return nil
}

// ErrUnsupported tells that the kernel has not what the fast path needs.
var ErrUnsupported = errors.New("the kernel has no fast path")

func unsupported(err error) error { return fmt.Errorf("%w: %w", ErrUnsupported, err) }

// objects are the programs and tables, loaded at first use.
func (p *Path) objects() (*kernelObjects, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.loaded == nil {
		if err := p.load(nil); err != nil {
			return nil, err
		}
	}
	return p.loaded, nil
}

// Load loads the programs. The error is an [ErrUnsupported] on a kernel that does not take them, or no such programs at
// links.
func (p *Path) Load() error {
	if _, err := p.objects(); err != nil {
		return err
	}
	_, err := attached(loopback, ebpf.AttachTCXIngress)
	return err
}

// loopback is the index of a namespace's first link.
const loopback = 1

// Found reports whether there is anything to list: programs that were found at links or loaded since.
func (p *Path) Found() bool { return p.found() != nil }

// found are the programs and tables, or nil where none were needed so far.
func (p *Path) found() *kernelObjects {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.loaded
}

// attached are the programs at one side of a link, in their order.
func attached(index uint32, side ebpf.AttachType) ([]ebpf.ProgramID, error) {
	r, err := link.QueryPrograms(link.QueryOptions{Target: int(index), Attach: side})
	switch {
	case err != nil && gone(err):
		return nil, nil
	case errors.Is(err, ebpf.ErrNotSupported), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS),
		errors.Is(err, unix.EPERM):
		return nil, unsupported(fmt.Errorf("list the programs at link %d: %w", index, err))
	case err != nil:
		return nil, fmt.Errorf("list the programs at link %d: %w", index, err)
	}
	ids := make([]ebpf.ProgramID, 0, len(r.Programs))
	for _, a := range r.Programs {
		ids = append(ids, a.ID)
	}
	return ids, nil
}

// gone reports whether an error says that there is no such link, or nothing at it.
func gone(err error) bool { return errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT) }

package fastpath

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Path is the fast path of one network namespace. What it has is in the kernel, held by the links that its programs are
// at: another Path finds it there. Its methods may be called concurrently.
type Path struct {
	enter func(func() error) error // runs a function in the namespace
	spec  func() (*ebpf.CollectionSpec, error)
	at    attachment // nil: the kernel has none
	lacks error      // what the kernel says instead

	mu     sync.Mutex
	loaded *kernelObjects
	tried  bool // the kernel has the programs at links
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
	return open(enter, links, loadKernel, attachments())
}

// open is [Open] with the programs and the kernel's attachments that are given.
func open(enter func(func() error) error, links []uint32, spec func() (*ebpf.CollectionSpec, error),
	all []attachment) (*Path, error) {
	p := &Path{enter: enter, spec: spec, seen: map[ebpf.ProgramID]program{}}
	tables := map[ebpf.MapID]bool{}
	err := enter(func() (err error) {
		p.at, err = choose(all)
		if errors.Is(err, ErrUnsupported) {
			p.lacks, links, err = err, nil, nil
		}
		if err != nil {
			return err
		}
		for _, l := range links {
			ours, err := p.ours(l, ingress)
			if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS) { // it has programs, but not for us
				p.lacks = refusal(err)
				return nil
			}
			if err != nil {
				return err
			}
			for _, o := range ours {
				about, err := p.program(o.id)
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
	if p.lacks != nil {
		return p.lacks
	}
	spec, err := p.spec()
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
	err = spec.LoadAndAssign(&o, &opts)
	if errors.Is(err, unix.EPERM) {
		err = withMemory(func() error { return spec.LoadAndAssign(&o, &opts) })
	}
	if err != nil {
		return refusal(err)
	}
	p.loaded = &o
	return nil
}

// ErrUnsupported tells that the kernel has not what the fast path needs.
var ErrUnsupported = errors.New("the kernel has no fast path")

func unsupported(err error) error { return fmt.Errorf("%w: %w", ErrUnsupported, err) }

// withMemory has f load programs and tables without a limit of the process on them: kernels before 5.11 count them as
// memory that it has locked. What it starts later has the limit that it had.
func withMemory(f func() error) error {
	var had unix.Rlimit
	if err := unix.Prlimit(0, unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY},
		&had); err != nil {
		return fmt.Errorf("lift the limit on locked memory: %w", err)
	}
	err := f()
	if back := unix.Prlimit(0, unix.RLIMIT_MEMLOCK, &had, nil); back != nil {
		err = errors.Join(err, fmt.Errorf("set the limit on locked memory again: %w", back))
	}
	return err
}

// refusal says what a kernel lacks that does not load the programs.
func refusal(err error) error {
	why := "load the programs"
	var verifier *ebpf.VerifierError
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES) && !errors.As(err, &verifier):
		why = "it refuses bpf(2) to netd: want CAP_BPF and CAP_NET_ADMIN, or CAP_SYS_ADMIN, and no seccomp filter or " +
			"lockdown that denies it"
	case errors.Is(err, unix.ENOSYS):
		why = "it has no bpf(2): want CONFIG_BPF_SYSCALL"
	case errors.As(err, &verifier):
		why = "its verifier refuses the programs: want Linux 5.10 or newer"
	}
	return unsupported(fmt.Errorf("%s: %w", why, err))
}

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
	o, err := p.objects()
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.tried {
		return nil
	}
	err = p.enter(func() error { return p.at.try(o.VethloomLeave) })
	p.tried = err == nil
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

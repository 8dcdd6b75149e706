package fastpath

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/internal/kern/netns"
	"github.com/vethloom/vethloom/internal/kern/rtnetlink"
)

// side is one of a link: what comes in by it, or what goes out.
type side bool

const (
	ingress side = false
	egress  side = true
)

func (s side) tcx() ebpf.AttachType {
	if s == egress {
		return ebpf.AttachTCXEgress
	}
	return ebpf.AttachTCXIngress
}

// attachment is how programs are at links. Its functions are for the namespace of the calling thread.
type attachment interface {
	// list are the programs at a side of a link, in their order. There are none at a link that is gone.
	list(index uint32, s side) ([]placed, error)
	// put has a program in the place of another one, in one step, or behind those that are there.
	put(index uint32, s side, prog *ebpf.Program, instead *placed) error
	// take takes one off. That it is gone, or the link, is no error.
	take(index uint32, s side, p placed) error
	// try reports an error where the kernel cannot have the program.
	try(prog *ebpf.Program) error
}

// placed is a program at a link.
type placed struct {
	id     ebpf.ProgramID
	filter rtnetlink.Filter // that it is, where programs are filters
}

// attachments are the ones there are, the best first.
func attachments() []attachment { return []attachment{tcx{}, filters{}} }

// choose is the first that the kernel has.
func choose(all []attachment) (attachment, error) {
	var errs []error
	for _, a := range all {
		_, err := a.list(loopback, ingress)
		if !errors.Is(err, ErrUnsupported) {
			return a, err
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// tcx is what Linux has since 6.6.
type tcx struct{}

func (tcx) list(index uint32, s side) ([]placed, error) {
	r, err := link.QueryPrograms(link.QueryOptions{Target: int(index), Attach: s.tcx()})
	switch {
	case err != nil && gone(err):
		return nil, nil
	case errors.Is(err, ebpf.ErrNotSupported), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS),
		errors.Is(err, unix.EPERM):
		return nil, unsupported(fmt.Errorf("list the programs at link %d: %w", index, err))
	case err != nil:
		return nil, fmt.Errorf("list the programs at link %d: %w", index, err)
	}
	all := make([]placed, 0, len(r.Programs))
	for _, a := range r.Programs {
		all = append(all, placed{id: a.ID})
	}
	return all, nil
}

func (tcx) put(index uint32, s side, prog *ebpf.Program, instead *placed) error {
	at := link.RawAttachProgramOptions{Target: int(index), Program: prog, Attach: s.tcx()}
	if instead != nil {
		old, err := ebpf.NewProgramFromID(instead.id)
		if err != nil {
			return fmt.Errorf("open program %d: %w", instead.id, err)
		}
		defer old.Close()
		at.Anchor = link.ReplaceProgram(old)
	}
	err := link.RawAttachProgram(at)
	if errors.Is(err, unix.EEXIST) { // it is there itself
		return nil
	}
	return err
}

func (tcx) take(index uint32, s side, p placed) error {
	prog, err := ebpf.NewProgramFromID(p.id)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open program %d: %w", p.id, err)
	}
	defer prog.Close()
	err = link.RawDetachProgram(link.RawDetachProgramOptions{Target: int(index), Program: prog, Attach: s.tcx()})
	if err != nil && gone(err) {
		return nil
	}
	return err
}

func (t tcx) try(*ebpf.Program) error {
	_, err := t.list(loopback, ingress)
	return err
}

// filters are programs as filters of traffic control, behind those of others: what Linux has since 4.5.
type filters struct{}

func (filters) list(index uint32, s side) (all []placed, err error) {
	err = withSocket(func(c *rtnetlink.Conn) error {
		return c.DumpPrograms(index, bool(s), func(f rtnetlink.Filter) {
			all = append(all, placed{ebpf.ProgramID(f.Program), f})
		})
	})
	switch {
	case rtnetlink.ErrnoIs(err, unix.ENODEV, unix.EINVAL, unix.ENOENT):
		return nil, nil
	case rtnetlink.ErrnoIs(err, unix.EOPNOTSUPP):
		return nil, unsupported(fmt.Errorf("list the filters of link %d: %w", index, err))
	case err != nil:
		return nil, fmt.Errorf("list the filters of link %d: %w", index, err)
	}
	return all, nil
}

// put makes the queue that filters are at where there is none. The filter tells that, so that the queue goes with it.
func (filters) put(index uint32, s side, prog *ebpf.Program, instead *placed) error {
	return withSocket(func(c *rtnetlink.Conn) error {
		if instead != nil {
			_, err := c.Batch([]rtnetlink.Request{rtnetlink.ReplaceProgram(index, instead.filter, prog.FD())})
			return err
		}
		_, err := c.Batch(rtnetlink.NewProgram(index, prog.FD(), bool(s), false))
		if rtnetlink.ErrnoIs(err, unix.EINVAL) {
			_, err = c.Batch(rtnetlink.NewProgram(index, prog.FD(), bool(s), true))
		}
		return err
	})
}

// take removes the queue too where it was made for the filter, and has no other.
func (filters) take(index uint32, _ side, p placed) error {
	return withSocket(func(c *rtnetlink.Conn) error {
		if _, err := c.Batch([]rtnetlink.Request{rtnetlink.DelProgram(index, p.filter)}); err != nil {
			return err
		}
		if !p.filter.MadeQueue() {
			return nil
		}
		has, err := c.HasFilters(index)
		if rtnetlink.ErrnoIs(err, unix.ENODEV, unix.EINVAL, unix.ENOENT) || err == nil && has {
			return nil
		}
		if err == nil {
			_, err = c.Batch([]rtnetlink.Request{rtnetlink.DelIngress(index)})
		}
		return err
	})
}

// try has the program at a link of a network namespace of its own.
func (f filters) try(prog *ebpf.Program) error {
	return netns.OnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace to try a filter in: %w", err)
		}
		if err := f.put(loopback, ingress, prog, nil); err != nil {
			return unsupported(fmt.Errorf("a program as a filter: want CONFIG_NET_SCH_INGRESS, CONFIG_NET_CLS_BPF and "+
				"CONFIG_NET_CLS_ACT (modprobe -a sch_ingress cls_bpf): %w", err))
		}
		return nil
	})
}

// withSocket has f talk to the kernel about the links of the calling thread's namespace.
func withSocket(f func(*rtnetlink.Conn) error) error {
	c, err := rtnetlink.Dial(0)
	if err != nil {
		return err
	}
	return errors.Join(f(c), c.Close())
}

// gone reports whether an error says that there is no such link, or nothing at it.
func gone(err error) bool { return errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT) }

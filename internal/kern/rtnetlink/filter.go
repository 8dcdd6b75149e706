package rtnetlink

import (
	"github.com/vethloom/vethloom/internal/kern/attr"
	"github.com/vethloom/vethloom/plan"
	"golang.org/x/sys/unix"
)

// What linux/pkt_cls.h has of filters that are programs.
const (
	tcaBpfFD       = 6
	tcaBpfName     = 7
	tcaBpfFlags    = 8
	tcaBpfFlagsGen = 9
	tcaBpfID       = 11

	bpfDirect = 1 // the program's verdict is the filter's
	skipHW    = 1 // no card is asked to run it

	filterEgress = 0xfffffff3 // parent of filters of what goes out
)

// programPriority is that of our programs: behind all others, whose numbers the kernel gives from 0xc000 downwards.
const programPriority = 0xff00 + plan.Protocol

// Names of our filters that are programs. The longer one tells that the queue they are at was made for them.
const (
	programName      = "vethloom"
	programQueueName = "vethloom+clsact"
)

// Filter is an observed filter that is a program.
type Filter struct {
	parent       uint32 // of what comes in by the link, or of what goes out
	info, handle uint32
	name         string
	Program      uint32 // its ID
}

// MadeQueue reports whether the queue that it is at was made for the filter.
func (f Filter) MadeQueue() bool { return f.name == programQueueName }

// NewProgram is a filter for a program at a link which has no such filter of ours. It is refused with EINVAL where the
// link has no queue for filters: then the queue is to be made with it. Out has it judge what goes out.
func NewProgram(index uint32, fd int, out, queue bool) []Request {
	f := Filter{parent: filterParent(out), info: filterInfo(programPriority), handle: plan.Protocol, name: programName}
	var all []Request
	if queue {
		f.name = programQueueName
		all = append(all, newIngress(index))
	}
	r := f.request(index, fd)
	r.flags = createFlags
	return append(all, r)
}

// filterParent is that of filters of what comes in or goes out.
func filterParent(out bool) uint32 {
	if out {
		return filterEgress
	}
	return filterIngress
}

// ReplaceProgram has another program in a filter's place, in one step.
func ReplaceProgram(index uint32, f Filter, fd int) Request {
	r := f.request(index, fd)
	r.flags = createOrReplaceFlag
	return r
}

func (f Filter) request(index uint32, fd int) Request {
	a := tcMsg(index, f.handle, f.parent, f.info)
	a.Str(tcaKind, "bpf")
	a.Nest(tcaOptions, func(a *attr.Builder) {
		a.U32(tcaBpfFD, uint32(fd))
		a.Str(tcaBpfName, f.name)
		a.U32(tcaBpfFlags, bpfDirect)
		a.U32(tcaBpfFlagsGen, skipHW)
	})
	return Request{Kind: unix.RTM_NEWTFILTER, Data: a.B}
}

// newIngress makes the queue that filters are at, of what comes in and of what goes out.
func newIngress(index uint32) Request {
	a := tcMsg(index, handleIngress, parentIngress, 0)
	a.Str(tcaKind, "clsact")
	return Request{Kind: unix.RTM_NEWQDISC, flags: createFlags, Data: a.B, Settled: []unix.Errno{unix.EEXIST}}
}

// DelProgram removes a filter from a link.
func DelProgram(index uint32, f Filter) Request {
	a := tcMsg(index, f.handle, f.parent, f.info)
	a.Str(tcaKind, "bpf")
	return Request{Kind: unix.RTM_DELTFILTER, Data: a.B, Settled: []unix.Errno{unix.ENOENT, unix.EINVAL, unix.ENODEV}}
}

// DelIngress removes a link's queue for what comes in, with all filters.
func DelIngress(index uint32) Request {
	return Request{Kind: unix.RTM_DELQDISC, Data: tcMsg(index, handleIngress, parentIngress, 0).B,
		Settled: []unix.Errno{unix.ENOENT, unix.EINVAL, unix.ENODEV}}
}

// DumpPrograms reads the filters of what comes in by a link, or goes out, that are programs, in the order in which they
// are asked.
func (c *Conn) DumpPrograms(index uint32, out bool, each func(Filter)) error {
	return c.dumpFilters(index, filterParent(out), func(b []byte) error {
		f := Filter{parent: filterParent(out), handle: attr.U32(b[8:]), info: attr.U32(b[16:])}
		err := attr.Each(b[sizeofTcMsg:], func(kind uint16, v []byte) error {
			if kind != tcaOptions {
				return nil
			}
			return attr.Each(v, func(kind uint16, v []byte) error {
				switch kind {
				case tcaBpfID:
					f.Program = attr.U32(v)
				case tcaBpfName:
					f.name = attr.Text(v)
				}
				return nil
			})
		})
		if err == nil && f.Program != 0 && isKind(b, "bpf") {
			each(f)
		}
		return err
	})
}

// HasFilters reports whether a link has any filter, of what comes in or goes out.
func (c *Conn) HasFilters(index uint32) (has bool, err error) {
	for _, parent := range []uint32{filterIngress, filterEgress} {
		err := c.dumpFilters(index, parent, func([]byte) error {
			has = true
			return nil
		})
		if err != nil {
			return false, err
		}
	}
	return has, nil
}

func isKind(b []byte, want string) (is bool) {
	_ = attr.Each(b[sizeofTcMsg:], func(kind uint16, v []byte) error {
		is = is || kind == tcaKind && attr.Text(v) == want
		return nil
	})
	return is
}

func (c *Conn) dumpFilters(index, parent uint32, each func([]byte) error) error {
	return c.Dump(unix.RTM_GETTFILTER, tcMsg(index, 0, parent, 0).B, func(b []byte) error {
		if len(b) < sizeofTcMsg {
			return ErrShort
		}
		return each(b)
	})
}

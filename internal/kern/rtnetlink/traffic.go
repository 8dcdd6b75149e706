package rtnetlink

import (
	"encoding/binary"
	"math"

	"github.com/vethloom/vethloom/internal/kern/attr"
	"github.com/vethloom/vethloom/plan"
	"golang.org/x/sys/unix"
)

// What linux/pkt_sched.h, linux/pkt_cls.h and linux/tc_act/tc_mirred.h have and no library names.
const (
	sizeofTcMsg  = 20 // struct tcmsg
	sizeofTbfOpt = 36 // struct tc_tbf_qopt

	tcaKind    = 1
	tcaOptions = 2

	tcaTbfParms  = 1
	tcaTbfRate64 = 4
	tcaTbfBurst  = 6

	tcaU32Sel = 5
	tcaU32Act = 7

	tcaActKind     = 1
	tcaActOptions  = 2
	tcaMirredParms = 2

	linkLayerEthernet = 1
	actStolen         = 4
	egressRedirect    = 1
	u32Terminal       = 1

	parentRoot    = 0xffffffff
	parentIngress = 0xfffffff1 // of the queue for what comes in
	filterIngress = 0xfffffff2 // of its filters
	handleIngress = 0xffff0000

	// ticks are what the kernel counts time in: 64 ns each (PSCHED_SHIFT).
	tickShift = 6
)

// ShaperHandle is the handle of our queues, and filterPriority that of our filters: nobody picks them by chance.
const (
	ShaperHandle   = plan.Protocol << 16
	filterPriority = 0x7600 + plan.Protocol
)

func tcMsg(index, handle, parent, info uint32) *attr.Builder {
	a := attr.After(sizeofTcMsg)
	binary.NativeEndian.PutUint32(a.B[4:], index)
	binary.NativeEndian.PutUint32(a.B[8:], handle)
	binary.NativeEndian.PutUint32(a.B[12:], parent)
	binary.NativeEndian.PutUint32(a.B[16:], info)
	return a
}

// NewShaper gives a link a token bucket in place of whatever queue it has.
func NewShaper(s plan.Shaper, index uint32) Request {
	a := tcMsg(index, ShaperHandle, parentRoot, 0)
	a.Str(tcaKind, "tbf")
	a.Nest(tcaOptions, func(a *attr.Builder) {
		opt := make([]byte, sizeofTbfOpt)
		opt[1] = linkLayerEthernet
		binary.NativeEndian.PutUint32(opt[8:], uint32(min(s.Rate, math.MaxUint32)))
		binary.NativeEndian.PutUint32(opt[24:], queueLimit(s))
		a.Bytes(tcaTbfParms, opt)
		if s.Rate > math.MaxUint32 {
			a.Bytes(tcaTbfRate64, binary.NativeEndian.AppendUint64(nil, s.Rate))
		}
		a.U32(tcaTbfBurst, s.Burst)
	})
	return Request{Kind: unix.RTM_NEWQDISC, flags: createOrReplaceFlag, Data: a.B}
}

// queueLimit is how many bytes wait for their turn: as many as leave in a tenth of a second, and some more frames on a
// slow link. What is more is dropped, by which TCP finds the rate.
func queueLimit(s plan.Shaper) uint32 {
	return uint32(min(s.Rate/10+uint64(s.Burst)+64<<10, math.MaxInt32))
}

// DelShaper removes our queue from a link. One that is another's has other handles and stays.
func DelShaper(index uint32) Request {
	return Request{Kind: unix.RTM_DELQDISC, Data: tcMsg(index, ShaperHandle, parentRoot, 0).B,
		Settled: []unix.Errno{unix.ENOENT, unix.EINVAL, unix.ENODEV}}
}

// NewRedirect leads what comes in by one link out by another. A queue for what comes in may be there already, with the
// filters of others.
func NewRedirect(index, to uint32) []Request {
	a := tcMsg(index, 0, filterIngress, filterInfo(filterPriority))
	a.Str(tcaKind, "u32")
	a.Nest(tcaOptions, func(a *attr.Builder) {
		sel := make([]byte, 16+16) // struct tc_u32_sel with one key, which every packet matches
		sel[0], sel[2] = u32Terminal, 1
		a.Bytes(tcaU32Sel, sel)
		a.Nest(tcaU32Act, func(a *attr.Builder) {
			a.Nest(1, func(a *attr.Builder) { mirred(a, to) })
		})
	})
	return []Request{
		newIngress(index),
		DelRedirect(index),
		{Kind: unix.RTM_NEWTFILTER, flags: createFlags, Data: a.B},
	}
}

func mirred(a *attr.Builder, to uint32) {
	a.Str(tcaActKind, "mirred")
	a.Nest(tcaActOptions, func(a *attr.Builder) {
		p := make([]byte, 28) // struct tc_mirred
		binary.NativeEndian.PutUint32(p[8:], actStolen)
		binary.NativeEndian.PutUint32(p[20:], egressRedirect)
		binary.NativeEndian.PutUint32(p[24:], to)
		a.Bytes(tcaMirredParms, p)
	})
}

// filterInfo is the priority of a filter of ours and the protocol of what it sees: all.
func filterInfo(priority uint32) uint32 {
	all := binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL})
	return priority<<16 | uint32(all)
}

// DelRedirect removes our filter from a link. The queue stays: it does nothing, and may be others' too.
func DelRedirect(index uint32) Request {
	return Request{Kind: unix.RTM_DELTFILTER, Data: tcMsg(index, 0, filterIngress, filterInfo(filterPriority)).B,
		Settled: []unix.Errno{unix.ENOENT, unix.EINVAL, unix.ENODEV}}
}

// Queue is an observed queue of a link: of ours what it does, or that there is one for what comes in.
type Queue struct {
	Index   uint32
	Shaper  plan.Shaper // without the link; the zero value for others
	Ingress bool
}

// DumpQueues reads our queues, and those for what comes in.
func (c *Conn) DumpQueues(each func(Queue)) error {
	return c.Dump(unix.RTM_GETQDISC, make([]byte, sizeofTcMsg), func(b []byte) error {
		q, ok, err := ParseQueue(b)
		if ok && err == nil {
			each(q)
		}
		return err
	})
}

// ParseQueue reads a queue; ok is false for one that is none of ours and for what goes out.
func ParseQueue(b []byte) (q Queue, ok bool, err error) {
	if len(b) < sizeofTcMsg {
		return q, false, ErrShort
	}
	handle, parent := attr.U32(b[8:]), attr.U32(b[12:])
	q.Index, q.Ingress = attr.U32(b[4:]), parent == parentIngress
	if q.Ingress || handle != ShaperHandle || parent != parentRoot {
		return q, q.Ingress, nil
	}
	var options []byte
	kind := ""
	err = attr.Each(b[sizeofTcMsg:], func(k uint16, v []byte) error {
		switch k {
		case tcaKind:
			kind = attr.Text(v)
		case tcaOptions:
			options = v
		}
		return nil
	})
	if err == nil && kind == "tbf" {
		err = q.parseShaper(options)
	}
	return q, true, err
}

func (q *Queue) parseShaper(b []byte) error {
	var ticks uint64
	err := attr.Each(b, func(k uint16, v []byte) error {
		switch {
		case k == tcaTbfParms && len(v) >= sizeofTbfOpt:
			q.Shaper.Rate, ticks = max(q.Shaper.Rate, uint64(attr.U32(v[8:]))), uint64(attr.U32(v[28:]))
		case k == tcaTbfRate64 && len(v) == 8:
			q.Shaper.Rate = binary.NativeEndian.Uint64(v)
		}
		return nil
	})
	// In parts, as the product of a rate and a time in nanoseconds may not fit.
	ns := float64(ticks << tickShift)
	q.Shaper.Burst = uint32(min(ns*float64(q.Shaper.Rate)/1e9, math.MaxUint32))
	return err
}

// DumpRedirects reads where our filters of a link lead: the index of the other link, 0 when that has gone.
func (c *Conn) DumpRedirects(index uint32, each func(to uint32)) error {
	return c.Dump(unix.RTM_GETTFILTER, tcMsg(index, 0, filterIngress, 0).B, func(b []byte) error {
		if len(b) < sizeofTcMsg {
			return ErrShort
		}
		if attr.U32(b[16:]) != filterInfo(filterPriority) {
			return nil
		}
		var act []byte
		err := within(b[sizeofTcMsg:], &act, tcaOptions, tcaU32Act, 1, tcaActOptions, tcaMirredParms)
		if err == nil && len(act) >= 28 {
			each(attr.U32(act[24:]))
		}
		return err
	})
}

// within finds an attribute in others that are in each other; nil when there is none.
func within(b []byte, found *[]byte, path ...uint16) error {
	return attr.Each(b, func(k uint16, v []byte) error {
		switch {
		case k&attr.Mask != path[0]:
			return nil
		case len(path) == 1:
			*found = v
			return nil
		}
		return within(v, found, path[1:]...)
	})
}

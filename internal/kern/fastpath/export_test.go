package fastpath

import (
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Attachment is the name of a way to have programs at links.
type Attachment string

// Attachments are those of every kernel: the one of new ones, and that of others.
func Attachments() []Attachment { return []Attachment{"tcx", "filters"} }

// OpenAs is [Open] on a kernel that has one attachment alone, and has the programs as change makes them.
func OpenAs(at Attachment, enter func(func() error) error, links []uint32, change func(*ebpf.CollectionSpec)) (*Path,
	error) {
	spec := func() (*ebpf.CollectionSpec, error) {
		s, err := loadKernel()
		if err == nil && change != nil {
			change(s)
		}
		return s, err
	}
	way := attachment(tcx{})
	if at == "filters" {
		way = filters{}
	}
	return open(enter, links, spec, []attachment{without{}, way})
}

// without is an attachment that the kernel has not.
type without struct{ attachment }

func (without) list(uint32, side) ([]placed, error) { return nil, unsupported(unix.EINVAL) }

// skb is what a trial says of a frame: struct __sk_buff of linux/bpf.h.
type skb struct {
	Len, PktType, Mark, QueueMapping, Protocol, VLANPresent, VLANTCI, VLANProto, Priority, IngressIfindex,
	Ifindex uint32
	_       [7]uint32  // tc_index, cb, hash
	_       [4]uint32  // tc_classid, data, data_end, napi_id
	_       [13]uint32 // of sockets
	_       uint32     // data_meta
	_       uint64     // flow_keys
	_       uint64     // tstamp
	_       uint32     // wire_len
	GSOSegs uint32
	_       uint64 // sk
	GSOSize uint32
	_       [3]uint32
}

// Place is where a program judges.
type Place string

// The places.
const (
	AtLeave   Place = "leave"
	AtEnter   Place = "enter"
	AtResolve Place = "resolve"
	AtLand    Place = "land"
)

// Judge has a program judge a frame that is on no link: one of those at the link with that index. It returns the
// frame and the verdict of tc. Segments are of gso bytes; 0 leaves the frame whole.
func (p *Path) Judge(at Place, index uint32, frame []byte, gso int) (out []byte, code uint32, err error) {
	o, err := p.objects()
	if err != nil {
		return nil, 0, err
	}
	prog := map[Place]*ebpf.Program{AtLeave: o.VethloomLeave, AtEnter: o.VethloomEnter,
		AtResolve: o.VethloomResolve, AtLand: o.VethloomLand}[at]
	ctx := skb{Ifindex: index, GSOSize: uint32(gso)}
	if gso > 0 {
		ctx.GSOSegs = 2
	}
	run := &ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+256), Context: ctx}
	err = p.enter(func() error {
		code, err = prog.Run(run)
		return err
	})
	if err != nil {
		return nil, 0, fmt.Errorf("try the program: %w", err)
	}
	return run.DataOut, code, nil
}

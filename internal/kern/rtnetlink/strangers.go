package rtnetlink

import (
	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/internal/kern/attr"
)

// Strangers tells which links, by their indexes, have traffic control of others: queues for what goes out, which no
// link that needs none has by itself, and filters.
func (c *Conn) Strangers() (queues, filters map[uint32]bool, err error) {
	queues, filters = map[uint32]bool{}, map[uint32]bool{}
	places := map[uint32]bool{} // for filters
	err = c.Dump(unix.RTM_GETQDISC, make([]byte, sizeofTcMsg), func(b []byte) error {
		if len(b) < sizeofTcMsg {
			return ErrShort
		}
		index, handle, parent := attr.U32(b[4:]), attr.U32(b[8:]), attr.U32(b[12:])
		switch {
		case parent == parentIngress:
			places[index] = true
		case parent == parentRoot && handle != ShaperHandle && !isKind(b, "noqueue"):
			queues[index] = true
		}
		return nil
	})
	for index := range places {
		for _, parent := range []uint32{filterIngress, filterEgress} {
			if err != nil {
				break
			}
			err = c.dumpFilters(index, parent, func(b []byte) error {
				priority := attr.U32(b[16:]) >> 16
				ours := priority == programPriority && isKind(b, "bpf") || priority == filterPriority
				filters[index] = filters[index] || !ours
				return nil
			})
			if ErrnoIs(err, unix.ENODEV, unix.EINVAL, unix.ENOENT) {
				err = nil // it has gone
			}
		}
	}
	return queues, filters, err
}

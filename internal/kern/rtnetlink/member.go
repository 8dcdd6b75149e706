package rtnetlink

import (
	"github.com/vethloom/vethloom/internal/kern/attr"
	"golang.org/x/sys/unix"
)

// memberCost is the path cost of a port that we have made of somebody else's link: the mark by which we know it again.
// It goes with the port. Nobody picks it by chance, and without the spanning tree protocol it means nothing.
const memberCost = 0x766c

// Member reports whether the link is somebody else's that we have made a port.
func (l *Link) Member() bool {
	_, _, ours := l.Owner()
	return l.member && !ours && l.MasterIndex != 0
}

// Join makes a link a port of a bridge, 0 for none, and marks it as such.
func Join(index, bridge uint32) []Request {
	join := LinkMsg(index, 0, 0)
	join.U32(unix.IFLA_MASTER, bridge)
	out := []Request{{Kind: unix.RTM_NEWLINK, Data: join.B}}
	if bridge == 0 {
		return out
	}
	mark := LinkMsg(index, 0, 0)
	mark.Nest(unix.IFLA_LINKINFO, func(a *attr.Builder) {
		a.Str(unix.IFLA_INFO_SLAVE_KIND, "bridge")
		a.Nest(unix.IFLA_INFO_SLAVE_DATA, func(a *attr.Builder) { a.U32(brportCost, memberCost) })
	})
	return append(out, Request{Kind: unix.RTM_NEWLINK, Data: mark.B})
}

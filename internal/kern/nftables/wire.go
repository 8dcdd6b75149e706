package nftables

import (
	"encoding/binary"
	"fmt"

	"github.com/vethloom/vethloom/internal/kern/attr"
	"golang.org/x/sys/unix"
)

const (
	nlHeaderLen = unix.SizeofNlMsghdr
	nfHeaderLen = 4 // struct nfgenmsg
)

// wire builds netlink messages one after the other in one buffer.
type wire struct{ attr.Builder }

// message starts a message and returns its place for [wire.endMessage].
func (w *wire) message(typ, flags uint16, seq uint32, family byte, resID uint16) int {
	at := len(w.B)
	w.B = append(w.B, 0, 0, 0, 0)
	w.B = binary.NativeEndian.AppendUint16(w.B, typ)
	w.B = binary.NativeEndian.AppendUint16(w.B, flags|unix.NLM_F_REQUEST)
	w.B = binary.NativeEndian.AppendUint32(w.B, seq)
	w.B = append(w.B, 0, 0, 0, 0)
	w.B = append(w.B, family, unix.NFNETLINK_V0)
	w.B = binary.BigEndian.AppendUint16(w.B, resID)
	return at
}

func (w *wire) endMessage(at int) {
	binary.NativeEndian.PutUint32(w.B[at:], uint32(len(w.B)-at))
}

// message is one message of a reply.
type message struct {
	typ   uint16
	flags uint16
	seq   uint32
	body  []byte
}

// messages splits a datagram.
func messages(b []byte) ([]message, error) {
	var out []message
	for len(b) >= nlHeaderLen {
		n := int(binary.NativeEndian.Uint32(b))
		if n < nlHeaderLen || n > len(b) {
			return nil, fmt.Errorf("netlink message of %d bytes in %d", n, len(b))
		}
		out = append(out, message{
			typ:   binary.NativeEndian.Uint16(b[4:]),
			flags: binary.NativeEndian.Uint16(b[6:]),
			seq:   binary.NativeEndian.Uint32(b[8:]),
			body:  b[nlHeaderLen:n],
		})
		b = b[min(len(b), (n+attr.Align-1)&^(attr.Align-1)):]
	}
	return out, nil
}

// payload is the part of an nf_tables message after its header.
func (m message) payload() []byte {
	if len(m.body) < nfHeaderLen {
		return nil
	}
	return m.body[nfHeaderLen:]
}

// family is the address family of an nf_tables message.
func (m message) family() byte {
	if len(m.body) < nfHeaderLen {
		return 0
	}
	return m.body[0]
}

// ack reads an NLMSG_ERROR message: the error (0 is success), the offset of the
// attribute that the kernel complains of (0: unknown) and its words, see
// netlink(7) and linux/netlink.h "struct nlmsgerr".
func (m message) ack() (errno unix.Errno, offset int, text string) {
	if len(m.body) < 4+nlHeaderLen {
		return unix.EPROTO, 0, "short acknowledgement"
	}
	errno = unix.Errno(-int32(binary.NativeEndian.Uint32(m.body)))
	if m.flags&unix.NLM_F_ACK_TLVS == 0 {
		return errno, 0, ""
	}
	skip := 4 + nlHeaderLen
	if m.flags&unix.NLM_F_CAPPED == 0 {
		skip = 4 + int(binary.NativeEndian.Uint32(m.body[4:]))
		skip = (skip + attr.Align - 1) &^ (attr.Align - 1)
	}
	for typ, data := range attr.All(m.body[min(max(skip, 0), len(m.body)):]) {
		switch {
		case typ == unix.NLMSGERR_ATTR_MSG:
			text = attr.Text(data)
		case typ == unix.NLMSGERR_ATTR_OFFS && len(data) == 4:
			offset = int(binary.NativeEndian.Uint32(data))
		}
	}
	return errno, offset, text
}

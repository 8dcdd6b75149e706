package kern

import (
	"encoding/binary"
	"fmt"
	"iter"

	"golang.org/x/sys/unix"
)

// Netlink attributes and headers are aligned to four bytes (netlink(7)).
const (
	nlAlign      = 4
	nlHeaderLen  = unix.SizeofNlMsghdr
	nfHeaderLen  = 4 // struct nfgenmsg
	nlAttrHeader = 4
	nlAttrMask   = 0x3fff // without NLA_F_NESTED and NLA_F_NET_BYTEORDER
)

// wire builds netlink messages one after the other in one buffer.
type wire struct {
	b []byte
}

// message starts a message and returns its place for [wire.endMessage].
func (w *wire) message(typ, flags uint16, seq uint32, family byte, resID uint16) int {
	at := len(w.b)
	w.b = append(w.b, 0, 0, 0, 0)
	w.b = binary.NativeEndian.AppendUint16(w.b, typ)
	w.b = binary.NativeEndian.AppendUint16(w.b, flags|unix.NLM_F_REQUEST)
	w.b = binary.NativeEndian.AppendUint32(w.b, seq)
	w.b = append(w.b, 0, 0, 0, 0)
	w.b = append(w.b, family, unix.NFNETLINK_V0)
	w.b = binary.BigEndian.AppendUint16(w.b, resID)
	return at
}

func (w *wire) endMessage(at int) {
	binary.NativeEndian.PutUint32(w.b[at:], uint32(len(w.b)-at))
}

// attr appends an attribute, padded.
func (w *wire) attr(typ uint16, data []byte) {
	w.b = binary.NativeEndian.AppendUint16(w.b, uint16(nlAttrHeader+len(data)))
	w.b = binary.NativeEndian.AppendUint16(w.b, typ)
	w.b = append(w.b, data...)
	w.pad()
}

func (w *wire) pad() {
	for len(w.b)%nlAlign != 0 {
		w.b = append(w.b, 0)
	}
}

// str appends a string attribute, with the terminator nf_tables wants.
func (w *wire) str(typ uint16, s string) {
	w.b = binary.NativeEndian.AppendUint16(w.b, uint16(nlAttrHeader+len(s)+1))
	w.b = binary.NativeEndian.AppendUint16(w.b, typ)
	w.b = append(w.b, s...)
	w.b = append(w.b, 0)
	w.pad()
}

// u32 appends a number in network byte order, as nf_tables has all of its numbers.
func (w *wire) u32(typ uint16, v uint32) {
	w.b = binary.NativeEndian.AppendUint16(w.b, nlAttrHeader+4)
	w.b = binary.NativeEndian.AppendUint16(w.b, typ)
	w.b = binary.BigEndian.AppendUint32(w.b, v)
}

// nest starts a nested attribute and returns its place for [wire.endNest].
func (w *wire) nest(typ uint16) int {
	at := len(w.b)
	w.b = append(w.b, 0, 0)
	w.b = binary.NativeEndian.AppendUint16(w.b, typ|unix.NLA_F_NESTED)
	return at
}

func (w *wire) endNest(at int) {
	binary.NativeEndian.PutUint16(w.b[at:], uint16(len(w.b)-at))
}

// nftAttrs walks the attributes in b: type and content. It stops at the first
// that is malformed.
func nftAttrs(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for typ, data := range nftFlagged(b) {
			if !yield(typ&nlAttrMask, data) {
				return
			}
		}
	}
}

// nftFlagged is nftAttrs with the flags in the types.
func nftFlagged(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= nlAttrHeader {
			n := int(binary.NativeEndian.Uint16(b))
			if n < nlAttrHeader || n > len(b) {
				return
			}
			typ := binary.NativeEndian.Uint16(b[2:])
			if !yield(typ, b[nlAttrHeader:n]) {
				return
			}
			b = b[min(len(b), (n+nlAlign-1)&^(nlAlign-1)):]
		}
	}
}

// attrString is the text of a string attribute.
func attrString(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}

// attrU32 is a number in network byte order; 0 when it is not one.
func attrU32(b []byte) uint32 {
	if len(b) != 4 {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}

// nlMessage is one message of a reply.
type nlMessage struct {
	typ   uint16
	flags uint16
	seq   uint32
	body  []byte
}

// messages splits a datagram.
func messages(b []byte) ([]nlMessage, error) {
	var out []nlMessage
	for len(b) >= nlHeaderLen {
		n := int(binary.NativeEndian.Uint32(b))
		if n < nlHeaderLen || n > len(b) {
			return nil, fmt.Errorf("netlink message of %d bytes in %d", n, len(b))
		}
		out = append(out, nlMessage{
			typ:   binary.NativeEndian.Uint16(b[4:]),
			flags: binary.NativeEndian.Uint16(b[6:]),
			seq:   binary.NativeEndian.Uint32(b[8:]),
			body:  b[nlHeaderLen:n],
		})
		b = b[min(len(b), (n+nlAlign-1)&^(nlAlign-1)):]
	}
	return out, nil
}

// payload is the part of an nf_tables message after its header.
func (m nlMessage) payload() []byte {
	if len(m.body) < nfHeaderLen {
		return nil
	}
	return m.body[nfHeaderLen:]
}

// family is the address family of an nf_tables message.
func (m nlMessage) family() byte {
	if len(m.body) < nfHeaderLen {
		return 0
	}
	return m.body[0]
}

// ack reads an NLMSG_ERROR message: the error (0 is success), the offset of the
// attribute that the kernel complains of (0: unknown) and its words, see
// netlink(7) and linux/netlink.h "struct nlmsgerr".
func (m nlMessage) ack() (errno unix.Errno, offset int, text string) {
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
		skip = (skip + nlAlign - 1) &^ (nlAlign - 1)
	}
	for typ, data := range nftAttrs(m.body[min(max(skip, 0), len(m.body)):]) {
		switch {
		case typ == unix.NLMSGERR_ATTR_MSG:
			text = attrString(data)
		case typ == unix.NLMSGERR_ATTR_OFFS && len(data) == 4:
			offset = int(binary.NativeEndian.Uint32(data))
		}
	}
	return errno, offset, text
}

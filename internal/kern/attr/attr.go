package attr

import (
	"encoding/binary"
	"errors"
	"iter"

	"golang.org/x/sys/unix"
)

const (
	// Align is what attributes and headers are padded to, in bytes.
	Align = 4
	// HeaderLen is the length of an attribute's length and type.
	HeaderLen = 4
	// Mask takes the flags from a type: NLA_F_NESTED and NLA_F_NET_BYTEORDER.
	Mask = 0x3fff
)

// Builder writes attributes one after the other into B.
type Builder struct{ B []byte }

// After makes a builder for the attributes after a fixed header of n bytes, which are zero.
func After(n int) *Builder { return &Builder{B: make([]byte, n, n+256)} }

func (a *Builder) start(kind uint16, n int) {
	a.B = binary.NativeEndian.AppendUint16(a.B, uint16(HeaderLen+n))
	a.B = binary.NativeEndian.AppendUint16(a.B, kind)
}

func (a *Builder) pad() {
	for len(a.B)%Align != 0 {
		a.B = append(a.B, 0)
	}
}

// Bytes adds a value as it is.
func (a *Builder) Bytes(kind uint16, v []byte) {
	a.start(kind, len(v))
	a.B = append(a.B, v...)
	a.pad()
}

// Str adds a text with a zero byte at its end.
func (a *Builder) Str(kind uint16, v string) {
	a.start(kind, len(v)+1)
	a.B = append(a.B, v...)
	a.B = append(a.B, 0)
	a.pad()
}

// U8 adds a byte.
func (a *Builder) U8(kind uint16, v uint8) {
	a.start(kind, 1)
	a.B = append(a.B, v)
	a.pad()
}

// U32 adds a number in the byte order of the host.
func (a *Builder) U32(kind uint16, v uint32) {
	a.start(kind, 4)
	a.B = binary.NativeEndian.AppendUint32(a.B, v)
}

// BE32 adds a number in the byte order of the network.
func (a *Builder) BE32(kind uint16, v uint32) {
	a.start(kind, 4)
	a.B = binary.BigEndian.AppendUint32(a.B, v)
}

// Nest adds an attribute that is a list of those that f adds.
func (a *Builder) Nest(kind uint16, f func(*Builder)) {
	at := a.Open(kind)
	f(a)
	a.Close(at)
}

// Open begins an attribute that is a list of those that follow until [Builder.Close] of what it returns.
func (a *Builder) Open(kind uint16) int {
	at := len(a.B)
	a.start(kind|unix.NLA_F_NESTED, 0)
	return at
}

// Close ends what [Builder.Open] began.
func (a *Builder) Close(at int) {
	binary.NativeEndian.PutUint16(a.B[at:], uint16(len(a.B)-at))
}

// ErrLength is an attribute whose length is that of no attribute, or goes beyond the end.
var ErrLength = errors.New("netlink attribute with a wrong length")

// Each calls f for every attribute in b, with its type without flags, until f fails. A malformed one is an error.
func Each(b []byte, f func(kind uint16, v []byte) error) error {
	for len(b) >= HeaderLen {
		kind, v, rest, ok := next(b)
		if !ok {
			return ErrLength
		}
		if err := f(kind&Mask, v); err != nil {
			return err
		}
		b = rest
	}
	return nil
}

// All walks the attributes in b: type without flags, and value. It ends at the first that is malformed.
func All(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for kind, v := range Flagged(b) {
			if !yield(kind&Mask, v) {
				return
			}
		}
	}
}

// Flagged is [All] with the flags in the types.
func Flagged(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= HeaderLen {
			kind, v, rest, ok := next(b)
			if !ok || !yield(kind, v) {
				return
			}
			b = rest
		}
	}
}

func next(b []byte) (kind uint16, v, rest []byte, ok bool) {
	n := int(binary.NativeEndian.Uint16(b))
	if n < HeaderLen || n > len(b) {
		return 0, nil, nil, false
	}
	return binary.NativeEndian.Uint16(b[2:]), b[HeaderLen:n], b[min(len(b), (n+Align-1)&^(Align-1)):], true
}

// U32 is a number in the byte order of the host; 0 when it is too short for one.
func U32(v []byte) uint32 {
	if len(v) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(v)
}

// BE32 is a number in the byte order of the network; 0 when it is none.
func BE32(v []byte) uint32 {
	if len(v) != 4 {
		return 0
	}
	return binary.BigEndian.Uint32(v)
}

// U8 is a byte; 0 when there is none.
func U8(v []byte) uint8 {
	if len(v) < 1 {
		return 0
	}
	return v[0]
}

// Text is a string without the zero byte at its end.
func Text(v []byte) string {
	for i, c := range v {
		if c == 0 {
			return string(v[:i])
		}
	}
	return string(v)
}

package stdio

import (
	"fmt"
	"sync"

	"google.golang.org/grpc/encoding"
	protocodec "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// MaxPiece is how many bytes of a stream one message carries at most: as many as a pipe holds.
const MaxPiece = 64 << 10

// headerSize is more than the field's number and its length take.
const headerSize = 16

// Out is a message of which one field is set, which holds bytes: of AttachRequest, ExecRequest or AttachResponse. Data
// may be changed once it is sent.
type Out struct {
	Field protowire.Number
	Data  []byte // at most MaxPiece
}

// In receives a message. If that holds nothing but bytes in one of Fields, they are in Data, and Field is its number.
// Any other message is in Other.
type In struct {
	Fields []protowire.Number
	Other  proto.Message

	Field protowire.Number // 0: see Other
	Data  []byte           // until the next message is received
}

// Codec encodes and decodes Out and In, and all other messages as gRPC does.
type Codec struct {
	encoding.CodecV2
	pool *pool
}

// NewCodec returns a codec for a server or a client.
func NewCodec() Codec { return Codec{encoding.GetCodecV2(protocodec.Name), &pool{}} }

// Marshal implements [encoding.CodecV2].
func (c Codec) Marshal(v any) (mem.BufferSlice, error) {
	m, ok := v.(*Out)
	if !ok {
		return c.CodecV2.Marshal(v)
	}
	if len(m.Data) > MaxPiece {
		return nil, fmt.Errorf("%d bytes in one message, at most %d", len(m.Data), MaxPiece)
	}
	buf := c.pool.Get(0)
	*buf = protowire.AppendTag(*buf, m.Field, protowire.BytesType)
	*buf = protowire.AppendBytes(*buf, m.Data)
	return mem.BufferSlice{mem.NewBuffer(buf, c.pool)}, nil
}

// Unmarshal implements [encoding.CodecV2].
func (c Codec) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(*In)
	if !ok {
		return c.CodecV2.Unmarshal(data, v)
	}
	size := data.Len()
	if m.Field = 0; size <= MaxPiece+headerSize {
		buf := m.Data[:0]
		if cap(buf) < MaxPiece {
			buf = make([]byte, 0, MaxPiece)
		}
		m.Data = buf
		if field, skip := head(data, size); m.takes(field) && size-skip <= MaxPiece {
			m.Field = field
			for _, b := range data {
				piece := b.ReadOnlyData()
				n := min(skip, len(piece))
				m.Data = append(m.Data, piece[n:]...)
				skip -= n
			}
			return nil
		}
	}
	return c.CodecV2.Unmarshal(data, m.Other)
}

func (m *In) takes(field protowire.Number) bool {
	for _, f := range m.Fields {
		if f == field {
			return true
		}
	}
	return false
}

// head returns the number of a message's only field, if it holds bytes, and where they begin.
func head(data mem.BufferSlice, size int) (field protowire.Number, begin int) {
	var first [headerSize]byte
	b := first[:0]
	for _, part := range data {
		piece := part.ReadOnlyData()
		b = append(b, piece[:min(len(piece), headerSize-len(b))]...)
	}
	field, kind, n := protowire.ConsumeTag(b)
	if n < 0 || kind != protowire.BytesType {
		return 0, 0
	}
	length, k := protowire.ConsumeVarint(b[n:])
	if k < 0 || uint64(size-n-k) != length {
		return 0, 0
	}
	return field, n + k
}

// pool has buffers for one message each. gRPC's own are of 32 KiB or of 1 MiB, and cleared each time.
type pool struct{ p sync.Pool }

func (p *pool) Get(int) *[]byte {
	if b, ok := p.p.Get().(*[]byte); ok {
		*b = (*b)[:0]
		return b
	}
	b := make([]byte, 0, MaxPiece+headerSize)
	return &b
}

func (p *pool) Put(b *[]byte) { p.p.Put(b) }

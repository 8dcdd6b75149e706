package stdio

import (
	"bytes"
	"testing"

	apiv1 "github.com/vethloom/vethloom/api/v1"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"
)

// cut makes a message as it may come from a connection.
func cut(t *rapid.T, b []byte) mem.BufferSlice {
	var out mem.BufferSlice
	for len(b) > 0 {
		n := rapid.IntRange(1, len(b)).Draw(t, "bytes of a buffer")
		out = append(out, mem.SliceBuffer(b[:n]))
		b = b[n:]
	}
	return out
}

// What is sent the fast way is an ordinary message, and an ordinary message is received the fast way.
func TestTheWireIsTheSame(t *testing.T) {
	c := NewCodec()
	in := &In{Fields: []protowire.Number{2, 3}, Other: &apiv1.AttachResponse{}}
	rapid.Check(t, func(t *rapid.T) {
		data := bytes.Repeat([]byte{rapid.Byte().Draw(t, "byte")}, rapid.IntRange(0, MaxPiece).Draw(t, "size"))
		field := rapid.SampledFrom([]protowire.Number{2, 3}).Draw(t, "field")
		fast, err := c.Marshal(&Out{Field: field, Data: data})
		if err != nil {
			t.Fatal(err)
		}
		defer fast.Free()
		want := &apiv1.AttachResponse{Message: &apiv1.AttachResponse_Stdout{Stdout: data}}
		if field == 3 {
			want.Message = &apiv1.AttachResponse_Stderr{Stderr: data}
		}
		var got apiv1.AttachResponse
		if err := proto.Unmarshal(fast.Materialize(), &got); err != nil || !proto.Equal(&got, want) {
			t.Fatalf("%d bytes arrive as %v, %v", len(data), &got, err)
		}
		text, err := proto.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Unmarshal(cut(t, text), in); err != nil || in.Field != field || !bytes.Equal(in.Data, data) {
			t.Fatalf("%d bytes in field %d are received as %d in %d, %v", len(data), field, len(in.Data), in.Field, err)
		}
	})
}

// Other messages are decoded as ever, also after one that was not, and when they come from a later version.
func TestOtherMessages(t *testing.T) {
	c := NewCodec()
	in := &In{Fields: []protowire.Number{2, 3}, Other: &apiv1.AttachResponse{}}
	big := bytes.Repeat([]byte("x"), MaxPiece+1)
	unknown := []byte{0xfa, 0x01, 0x02, 'h', 'i'} // field 31
	for name, m := range map[string]*apiv1.AttachResponse{
		"started":  {Message: &apiv1.AttachResponse_Started{Started: &apiv1.Started{Id: "c", Pid: 7}}},
		"exit":     {Message: &apiv1.AttachResponse_Exit{Exit: &apiv1.ExitStatus{Code: 3}}},
		"nothing":  {},
		"too long": {Message: &apiv1.AttachResponse_Stdout{Stdout: big}},
	} {
		text, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		err = c.Unmarshal(mem.BufferSlice{mem.SliceBuffer(text)}, in)
		if err != nil || in.Field != 0 || !proto.Equal(in.Other, m) {
			t.Errorf("%s: field %d, %v", name, in.Field, err)
		}
	}
	text := append([]byte{0x12, 1, 'a'}, unknown...)
	err := c.Unmarshal(mem.BufferSlice{mem.SliceBuffer(text)}, in)
	if got := in.Other.(*apiv1.AttachResponse); err != nil || in.Field != 0 || string(got.GetStdout()) != "a" {
		t.Errorf("with a field of a later version: field %d, %v, %v", in.Field, got, err)
	}
	for _, text := range [][]byte{{0x12}, {0x12, 0xff}, {0x12, 5, 'a'}, {0xff}} {
		if err := c.Unmarshal(mem.BufferSlice{mem.SliceBuffer(text)}, in); err == nil {
			t.Errorf("%v is a message", text)
		}
	}
	if _, err := c.Marshal(&Out{Field: 2, Data: big}); err == nil {
		t.Error("a piece that is too large is sent")
	}
}

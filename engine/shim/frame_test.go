package shim

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestFramesComeBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var wire []byte
		var want []Frame
		for range rapid.IntRange(0, 10).Draw(t, "frames") {
			f := Frame{
				Kind:    Kind(rapid.IntRange(int(KindRequest), int(KindExit)).Draw(t, "kind")),
				Payload: rapid.SliceOfN(rapid.Byte(), 0, 5000).Draw(t, "payload"),
			}
			want = append(want, f)
			wire = AppendFrame(wire, f)
		}
		r := bytes.NewReader(wire)
		var buf []byte
		for _, w := range want {
			var got Frame
			var err error
			if got, buf, err = ReadFrame(r, buf); err != nil || got.Kind != w.Kind ||
				!bytes.Equal(got.Payload, w.Payload) {
				t.Fatalf("got %v, %v, want %v", got, err, w)
			}
		}
		if _, _, err := ReadFrame(r, buf); !errors.Is(err, io.EOF) {
			t.Fatalf("at the end: %v", err)
		}
	})
}

func TestBadFrames(t *testing.T) {
	tests := []struct {
		name, wire string
		want       error
	}{
		{"another version", "\x02\x01\x00\x00\x00\x00", ErrVersion},
		{"no kind", "\x01\x00\x00\x00\x00\x00", ErrFrame},
		{"unknown kind", "\x01\x63\x00\x00\x00\x00", ErrFrame},
		{"too long", "\x01\x01\xff\xff\xff\xff", ErrFrame},
		{"short header", "\x01\x01\x00", ErrFrame},
		{"short payload", "\x01\x01\x00\x00\x00\x05abc", ErrFrame},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, _, err := ReadFrame(strings.NewReader(tt.wire), nil); !errors.Is(err, tt.want) ||
				errors.Is(err, io.EOF) && err == io.EOF {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}

func FuzzReadFrame(f *testing.F) {
	f.Add(AppendFrame(nil, Frame{Kind: KindStdin, Payload: []byte("x")}))
	f.Add([]byte("\x01\x01\x00\x10\x00\x00"))
	f.Fuzz(func(t *testing.T, wire []byte) {
		frame, _, err := ReadFrame(bytes.NewReader(wire), nil)
		if err != nil {
			return
		}
		if again := AppendFrame(nil, frame); !bytes.HasPrefix(wire, again) {
			t.Errorf("%q was read as %q", wire, again)
		}
		if frame.Kind == KindRequest {
			var r Request
			if json.Unmarshal(frame.Payload, &r) == nil {
				if _, err := json.Marshal(r); err != nil {
					t.Errorf("a request that was read cannot be written: %v", err)
				}
			}
		}
	})
}

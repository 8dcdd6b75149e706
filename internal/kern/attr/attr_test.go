package attr_test

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/vethloom/vethloom/internal/kern/attr"
)

// What is written is read back, whatever the lengths.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type pair struct {
			Kind  uint16
			Value []byte
		}
		var want, got []pair
		b := attr.After(rapid.IntRange(0, 3).Draw(t, "words of the header") * 4)
		head := len(b.B)
		for range rapid.IntRange(0, 6).Draw(t, "attributes") {
			p := pair{rapid.Uint16Range(0, attr.Mask).Draw(t, "kind"), rapid.SliceOfN(rapid.Byte(), 0, 9).Draw(t,
				"value")}
			want = append(want, p)
			b.Bytes(p.Kind, p.Value)
		}
		err := attr.Each(b.B[head:], func(kind uint16, v []byte) error {
			got = append(got, pair{kind, bytes.Clone(v)})
			return nil
		})
		if err != nil || len(b.B)%attr.Align != 0 || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("%v became %v, %v; %d bytes", want, got, err, len(b.B))
		}
	})
}

func TestValues(t *testing.T) {
	var b attr.Builder
	b.U8(1, 7)
	b.U32(2, 0x01020304)
	b.BE32(3, 0x01020304)
	b.Str(4, "lo")
	b.Nest(5, func(b *attr.Builder) { b.U8(6, 8) })
	got := ""
	for kind, v := range attr.All(b.B) {
		switch kind {
		case 1:
			got += fmt.Sprint(attr.U8(v), " ")
		case 2:
			got += fmt.Sprintf("%#x ", attr.U32(v))
		case 3:
			got += fmt.Sprintf("%#x %v ", attr.BE32(v), v)
		case 4:
			got += fmt.Sprint(attr.Text(v), len(v), " ")
		case 5:
			for kind, v := range attr.All(v) {
				got += fmt.Sprint(kind, attr.U8(v))
			}
		}
	}
	if want := "7 0x1020304 0x1020304 [1 2 3 4] lo3 6 8"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if attr.U8(nil) != 0 || attr.U32([]byte{1}) != 0 || attr.BE32([]byte{1, 2, 3, 4, 5}) != 0 {
		t.Error("a value that is too short is no number")
	}
}

func TestMalformed(t *testing.T) {
	for name, b := range map[string][]byte{
		"shorter than its header": {3, 0, 1, 0},
		"beyond the end":          {9, 0, 1, 0, 0, 0, 0, 0},
	} {
		if err := attr.Each(b, func(uint16, []byte) error { return nil }); !errors.Is(err, attr.ErrLength) {
			t.Errorf("%s: %v", name, err)
		}
		for kind := range attr.All(b) {
			t.Errorf("%s: attribute %d", name, kind)
		}
	}
	stop := errors.New("stop")
	var two attr.Builder
	two.U8(1, 0)
	two.U8(2, 0)
	calls := 0
	if err := attr.Each(two.B, func(uint16, []byte) error { calls++; return stop }); !errors.Is(err, stop) ||
		calls != 1 {
		t.Errorf("%d calls, %v", calls, err)
	}
}

package flatjson_test

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vethloom/vethloom/internal/flatjson"
)

type record struct {
	S string          `json:"s"`
	B bool            `json:"b"`
	N uint32          `json:"n"`
	A netip.Addr      `json:"a"`
	M [3]byte         `json:"m"`
	L []string        `json:"l"`
	R json.RawMessage `json:"r"`
}

func plain(text []byte) (record, bool) {
	var r record
	ok := flatjson.Object(text, func(name string, v []byte) bool {
		switch name {
		case "s":
			return flatjson.String(v, &r.S)
		case "b":
			return flatjson.Bool(v, &r.B)
		case "n":
			n, ok := flatjson.Uint(v, 32)
			r.N = uint32(n)
			return ok
		case "a":
			return flatjson.Addr(v, &r.A)
		case "m":
			return flatjson.Bytes(v, r.M[:])
		case "l":
			r.L = []string{}
			return flatjson.Array(v, func(v []byte) bool {
				r.L = append(r.L, "")
				return flatjson.String(v, &r.L[len(r.L)-1])
			})
		case "r":
			return flatjson.Raw(v, &r.R)
		}
		return false
	})
	return r, ok
}

var addrs = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

func TestPlainRecordsAreRead(t *testing.T) {
	for _, r := range []record{
		{L: []string{}, R: json.RawMessage("null")},
		{S: "a b", B: true, N: 1<<32 - 1, A: netip.MustParseAddr("fe80::1"), M: [3]byte{1, 255, 0}, L: []string{"x", ""}, R: json.RawMessage(`{"a":[1,"}]",{}]}`)},
	} {
		text, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		got, ok := plain(text)
		if !ok {
			t.Errorf("%s is not read", text)
		}
		if diff := cmp.Diff(r, got, addrs); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", text, diff)
		}
	}
}

func TestWhatIsNotPlainIsLeftToOthers(t *testing.T) {
	for _, text := range []string{
		``, `{`, `[]`, `{} `, ` {}`, `{"s": "a"}`, `{"s":"a",}`, `{"s":"a"`, `{"s":"a"}}`, `{"S":"a"}`, `{"x":1}`, `{"s":null}`, `{"s":"\n"}`, `{"s":"ä"}`, `{"s":"`,
		`{"n":-1}`, `{"n":1.5}`, `{"n":1e3}`, `{"n":01}`, `{"n":4294967296}`, `{"b":1}`, `{"a":"10.0.0"}`, `{"m":[1,2]}`, `{"m":[1,2,3,4]}`, `{"m":[1,2,256]}`, `{"l":["a",]}`, `{"l":[`, `{"r":{"a"}}`, `{"r":nul}`,
	} {
		if r, ok := plain([]byte(text)); ok {
			t.Errorf("%q is read as %+v", text, r)
		}
	}
}

// Whatever is read is what encoding/json reads.
func FuzzObject(f *testing.F) {
	f.Add([]byte(`{"s":"a","b":true,"n":7,"a":"10.0.0.1","m":[1,2,3],"l":["x"],"r":{"a":[1]}}`))
	f.Add([]byte(`{"s":"a","s":"b","r":null,"l":[],"a":""}`))
	f.Add([]byte(`{"r":[[],{}],"b":false}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		kept := bytes.Clone(text)
		got, ok := plain(text)
		if !bytes.Equal(text, kept) {
			t.Fatal("the text was changed")
		}
		if !ok {
			return
		}
		var want record
		if err := json.Unmarshal(text, &want); err != nil {
			t.Fatalf("%q is read, and encoding/json says: %v", text, err)
		}
		if diff := cmp.Diff(want, got, addrs); diff != "" {
			t.Errorf("%q: (-want +got)\n%s", text, diff)
		}
	})
}

package nftables

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/vethloom/vethloom/plan"
)

// ifNames draws names of links.
var ifNames = rapid.StringMatching(`vl[bext]-[a-z0-9.-]{1,11}`)

func drawAddr(t *rapid.T, size int, label string) netip.Addr {
	raw := rapid.SliceOfN(rapid.SampledFrom([]byte{0, 1, 10, 127, 128, 255}), size, size).Draw(t, label)
	a, _ := netip.AddrFromSlice(raw)
	return a
}

// drawPart draws one part of a key, of any spelling that the type allows.
func drawPart(t *rapid.T, typ plan.DataType, interval bool) string {
	kind := 0
	if interval {
		kind = rapid.IntRange(0, 2).Draw(t, "kind")
	}
	switch typ {
	case plan.TypeIfName:
		return ifNames.Draw(t, "name")
	case plan.TypeIPv4, plan.TypeIPv6:
		size := 4
		if typ == plan.TypeIPv6 {
			size = 16
		}
		a := drawAddr(t, size, "addr")
		switch kind {
		case 1:
			return netip.PrefixFrom(a, rapid.IntRange(0, 8*size).Draw(t, "bits")).String()
		case 2:
			b := drawAddr(t, size, "addr")
			if b.Less(a) {
				a, b = b, a
			}
			return a.String() + "-" + b.String()
		}
		return a.String()
	case plan.TypeEther:
		return plan.MAC(rapid.SliceOfN(rapid.Byte(), 6, 6).Filter(
			func(b []byte) bool { return !bytes.Equal(b, make([]byte, 6)) }).Draw(t, "mac")).String()
	case plan.TypeInetProto:
		return rapid.SampledFrom([]string{"tcp", "udp", "sctp", "ipv6-icmp", "0", "255"}).Draw(t, "proto")
	case plan.TypePort:
		a := rapid.IntRange(0, 65535).Draw(t, "port")
		if kind == 0 {
			return fmt.Sprint(a)
		}
		return fmt.Sprintf("%d-%d", a, rapid.IntRange(a, 65535).Draw(t, "to"))
	}
	return rapid.SampledFrom([]string{"accept", "drop", "return", "continue", "jump target", "goto target"}).Draw(t,
		"verdict")
}

func drawTypes(t *rapid.T, most int, label string) []plan.DataType {
	all := []plan.DataType{plan.TypeIfName, plan.TypeIPv4, plan.TypeIPv6, plan.TypeEther, plan.TypeInetProto,
		plan.TypePort}
	return rapid.SliceOfN(rapid.SampledFrom(all), 1, most).Draw(t, label)
}

func drawSet(t *rapid.T, name string) plan.Set {
	s := plan.Set{Family: rapid.SampledFrom([]plan.Family{plan.Inet, plan.BridgeTable}).Draw(t, "family"), Name: name}
	s.KeyTypes = drawTypes(t, 3, "key")
	s.Interval = rapid.Bool().Draw(t, "interval")
	if len(s.KeyTypes) == 1 && (s.KeyTypes[0] == plan.TypeIfName || s.KeyTypes[0] == plan.TypeEther ||
		s.KeyTypes[0] == plan.TypeInetProto) {
		s.Interval = false // nothing of these types is an interval
	}
	switch rapid.IntRange(0, 2).Draw(t, "map") {
	case 1:
		s.Data = drawTypes(t, 2, "data")
	case 2:
		s.Data = []plan.DataType{plan.TypeVerdict}
	}
	return s
}

// overlap reports whether two keys of a set have a value in common.
func overlap(s plan.Set, a, b plan.Element) bool {
	for i, typ := range s.KeyTypes {
		x, err := encodePart(typ, a.Keys[i])
		if err != nil {
			panic(err)
		}
		y, err := encodePart(typ, b.Keys[i])
		if err != nil {
			panic(err)
		}
		if bytes.Compare(x.to, y.from) < 0 || bytes.Compare(y.to, x.from) < 0 {
			return false
		}
	}
	return true
}

func drawElements(t *rapid.T, s plan.Set) []plan.Element {
	var out []plan.Element
	for range rapid.IntRange(0, 8).Draw(t, "elements") {
		e := plan.Element{Family: s.Family, Set: s.Name,
			Owner: plan.Owner(rapid.StringMatching(`(endpoint/[a-f0-9]{1,8})?`).Draw(t, "scope"))}
		for _, typ := range s.KeyTypes {
			e.Keys = append(e.Keys, drawPart(t, typ, s.Interval))
		}
		for _, typ := range s.Data {
			e.Data = append(e.Data, drawPart(t, typ, false))
		}
		if !slices.ContainsFunc(out, func(o plan.Element) bool { return overlap(s, o, e) }) {
			out = append(out, e)
		}
	}
	return out
}

func drawRuleset(t *rapid.T) plan.Ruleset {
	rs := plan.Ruleset{Chains: []plan.Chain{{Family: plan.Inet, Name: "target"},
		{Family: plan.BridgeTable, Name: "target"}}}
	for i := range rapid.IntRange(0, 3).Draw(t, "sets") {
		s := drawSet(t, fmt.Sprintf("s%d", i))
		rs.Sets = append(rs.Sets, s)
		rs.Elements = append(rs.Elements, drawElements(t, s)...)
	}
	return rs
}

// TestElementsConverge goes from one random state to another: what is observed
// afterwards is what was wanted, however it was spelt.
func TestElementsConverge(t *testing.T) {
	r, _ := openTestRules(t)
	rapid.Check(t, func(rt *rapid.T) {
		want := drawRuleset(rt)
		have, err := r.Observe(t.Context())
		if err != nil {
			rt.Fatal(err)
		}
		ops := plan.Diff(plan.State{Rules: want}, plan.State{Rules: have})
		if err := r.Apply(t.Context(), ops); err != nil {
			rt.Fatalf("%v\n%v", err, ops)
		}
		have, err = r.Observe(t.Context())
		if err != nil {
			rt.Fatal(err)
		}
		if a, b := lines(want), lines(have); !slices.Equal(a, b) {
			rt.Fatalf("applied:\n%s\nobserved:\n%s", strings.Join(a, "\n"), strings.Join(b, "\n"))
		}
		if left := plan.Diff(plan.State{Rules: want}, plan.State{Rules: have}); len(left) > 0 {
			rt.Fatalf("still to do: %v", left)
		}
	})
}

// FuzzDecodeElements feeds the decoder bytes that no kernel sends; whatever it makes of
// them as a text must not change by being encoded and decoded again.
func FuzzDecodeElements(f *testing.F) {
	var w wire
	sets := firewallSets()
	for _, e := range firewallElements() {
		for _, s := range sets {
			if s.Name == e.Set && s.Family == e.Family {
				w.B = w.B[:0]
				if err := encodeElement(&w, s, e, true); err != nil {
					f.Fatal(err)
				}
				f.Add(slices.Clone(w.B))
			}
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		entries := decodeEntries(data, nil)
		for _, s := range sets {
			for _, e := range decodeElements(s, entries) {
				if len(e.Keys) == 0 {
					t.Fatalf("%s: an element without a key", s.Name)
				}
				var again wire
				if encodeElement(&again, s, e, true) != nil {
					continue // no text of a plan: to be deleted by what made it
				}
				back := decodeElements(s, decodeEntries(again.B, nil))
				if len(back) != 1 || back[0].Key() != e.Key() {
					t.Fatalf("%s came back as %v", e, back)
				}
			}
		}
	})
}

// FuzzReplies feeds bytes to everything that reads what the socket received.
func FuzzReplies(f *testing.F) {
	var w wire
	at := w.message(0xa06, 0, 1, 1, 0)
	w.Str(1, plan.Table)
	w.Bytes(7, []byte{ruleTag, 7, 'a', 'c', 'c', 'e', 'p', 't', 0})
	w.endMessage(at)
	f.Add(slices.Clone(w.B))
	f.Add(binary.NativeEndian.AppendUint32(nil, 1<<31))
	f.Fuzz(func(t *testing.T, data []byte) {
		msgs, err := messages(data)
		if err != nil {
			return
		}
		for _, m := range msgs {
			m.ack()
			decodeSet(plan.Inet, m.payload())
			decodeChain(plan.Inet, m.payload())
			r, _ := decodeRule(m.payload())
			if got := recognise(plan.Inet, r, nil); got.Verdict != plan.Unknown && got.String() != r.text {
				t.Fatalf("%q recognised as %q", r.text, got)
			}
		}
	})
}

package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/cnm"
)

// Open returns an empty store that is closed with the test.
type Open func(t *testing.T) cnm.Store

// Run runs the suite against the stores that open returns.
func Run(t *testing.T, open Open) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, cnm.Store)
	}{
		{"get", testGet},
		{"create, change, delete", testCompareAndSwap},
		{"conflicts", testConflicts},
		{"revisions never come back", testRevisions},
		{"all or nothing", testAtomic},
		{"empty commit", testEmptyCommit},
		{"invalid commits", testInvalid},
		{"list order", testListOrder},
		{"find by the start", testFind},
		{"keys with odd bytes", testOddKeys},
		{"kinds are apart", testKinds},
		{"values", testValues},
		{"values are copied", testCopies},
		{"cancelled context", testCancelled},
		{"watch", testWatch},
		{"watch coalesces", testWatchCoalesces},
		{"watch closes", testWatchCloses},
		{"concurrent committers", testConcurrent},
		{"transfers between records", testTransfers},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, open(t)) })
	}
}

func key(id string) cnm.Key { return cnm.Key{Kind: cnm.KindEndpoint, ID: id} }

// create commits a new record and returns it.
func create(t *testing.T, s cnm.Store, k cnm.Key, value string) cnm.Record {
	t.Helper()
	if err := s.Commit(t.Context(), cnm.Write{Key: k, Value: []byte(value)}); err != nil {
		t.Fatalf("create %v: %v", k, err)
	}
	return get(t, s, k)
}

func get(t *testing.T, s cnm.Store, k cnm.Key) cnm.Record {
	t.Helper()
	r, err := s.Get(t.Context(), k)
	if err != nil {
		t.Fatalf("get %v: %v", k, err)
	}
	return r
}

func absent(t *testing.T, s cnm.Store, k cnm.Key) {
	t.Helper()
	if r, err := s.Get(t.Context(), k); !errors.Is(err, cnm.ErrNotFound) {
		t.Errorf("get %v: %+v, %v; want ErrNotFound", k, r, err)
	}
}

func list(t *testing.T, s cnm.Store, kind cnm.Kind) []cnm.Record {
	t.Helper()
	rs, err := s.List(t.Context(), kind)
	if err != nil {
		t.Fatalf("list %s: %v", kind, err)
	}
	return rs
}

func conflict(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, cnm.ErrConflict) {
		t.Errorf("error %v, want ErrConflict", err)
	}
}

func testGet(t *testing.T, s cnm.Store) {
	absent(t, s, key("a"))
	r := create(t, s, key("a"), "one")
	if r.Key != key("a") || string(r.Value) != "one" || r.Revision == 0 {
		t.Errorf("got %+v", r)
	}
	absent(t, s, key("b"))
	absent(t, s, key("aa"))
	absent(t, s, cnm.Key{Kind: cnm.KindSandbox, ID: "a"})
}

func testCompareAndSwap(t *testing.T, s cnm.Store) {
	r := create(t, s, key("a"), "one")
	if err := s.Commit(t.Context(), cnm.Write{Key: r.Key, Value: []byte("two"), Revision: r.Revision}); err != nil {
		t.Fatal(err)
	}
	next := get(t, s, key("a"))
	if string(next.Value) != "two" || next.Revision == r.Revision {
		t.Errorf("after the change: %+v, before: %+v", next, r)
	}
	if err := s.Commit(t.Context(), cnm.Write{Key: r.Key, Revision: next.Revision}); err != nil {
		t.Fatal(err)
	}
	absent(t, s, key("a"))
	if rs := list(t, s, cnm.KindEndpoint); len(rs) != 0 {
		t.Errorf("a deleted record is listed: %+v", rs)
	}
	if err := s.Commit(t.Context(), cnm.Write{Key: key("a")}); err != nil {
		t.Errorf("delete of a record that is expected not to exist: %v", err)
	}
}

func testConflicts(t *testing.T, s cnm.Store) {
	ctx := t.Context()
	r := create(t, s, key("a"), "one")
	conflict(t, s.Commit(ctx, cnm.Write{Key: key("a"), Value: []byte("again")}))
	conflict(t, s.Commit(ctx, cnm.Write{Key: key("a"), Value: []byte("x"), Revision: r.Revision + 1}))
	conflict(t, s.Commit(ctx, cnm.Write{Key: key("a")}))
	conflict(t, s.Commit(ctx, cnm.Write{Key: key("a"), Revision: r.Revision + 7}))
	conflict(t, s.Commit(ctx, cnm.Write{Key: key("b"), Value: []byte("x"), Revision: r.Revision}))
	conflict(t, s.Commit(ctx, cnm.Write{Key: key("b"), Revision: 1}))
	if after := get(t, s, key("a")); string(after.Value) != "one" || after.Revision != r.Revision {
		t.Errorf("conflicts have changed the record: %+v", after)
	}
	err := s.Commit(ctx, cnm.Write{Key: key("a"), Value: []byte("x"), Revision: 99})
	if err == nil || !strings.Contains(err.Error(), `"a"`) {
		t.Errorf("the conflict does not name the record: %v", err)
	}
}

func testRevisions(t *testing.T, s cnm.Store) {
	seen := map[uint64]bool{}
	for range 5 {
		r := create(t, s, key("a"), "one")
		if seen[r.Revision] {
			t.Fatalf("revision %d was used before the record was made anew", r.Revision)
		}
		seen[r.Revision] = true
		if err := s.Commit(t.Context(), cnm.Write{Key: r.Key, Revision: r.Revision}); err != nil {
			t.Fatal(err)
		}
		conflict(t, s.Commit(t.Context(), cnm.Write{Key: r.Key, Value: []byte("x"), Revision: r.Revision}))
	}
}

func testAtomic(t *testing.T, s cnm.Store) {
	ctx := t.Context()
	a := create(t, s, key("a"), "one")
	conflict(t, s.Commit(ctx,
		cnm.Write{Key: key("new"), Value: []byte("x")},
		cnm.Write{Key: key("a"), Revision: a.Revision},
		cnm.Write{Key: cnm.Key{Kind: cnm.KindAddress, ID: "z"}, Value: []byte("x"), Revision: 12345},
	))
	absent(t, s, key("new"))
	if got := get(t, s, key("a")); got.Revision != a.Revision {
		t.Errorf("half of a refused commit was done: %+v", got)
	}
	if err := s.Commit(ctx,
		cnm.Write{Key: key("new"), Value: []byte("x")},
		cnm.Write{Key: key("a"), Revision: a.Revision},
		cnm.Write{Key: cnm.Key{Kind: cnm.KindAddress, ID: "z"}, Value: []byte("y")},
	); err != nil {
		t.Fatal(err)
	}
	absent(t, s, key("a"))
	if z := get(t, s, cnm.Key{Kind: cnm.KindAddress, ID: "z"}); string(z.Value) != "y" ||
		get(t, s, key("new")).Revision != z.Revision {
		t.Errorf("the parts of one commit have different revisions: %+v", z)
	}
}

func testEmptyCommit(t *testing.T, s cnm.Store) {
	if err := s.Commit(t.Context()); err != nil {
		t.Error(err)
	}
}

func testInvalid(t *testing.T, s cnm.Store) {
	long := strings.Repeat("x", 1<<20)
	for name, writes := range map[string][]cnm.Write{
		"no kind":         {{Key: cnm.Key{ID: "a"}, Value: []byte("x")}},
		"no ID":           {{Key: key(""), Value: []byte("x")}},
		"NUL in the ID":   {{Key: key("a\x00b"), Value: []byte("x")}},
		"NUL in the kind": {{Key: cnm.Key{Kind: "a\x00b", ID: "a"}, Value: []byte("x")}},
		"too long":        {{Key: key(long), Value: []byte("x")}},
		"twice":           {{Key: key("a"), Value: []byte("x")}, {Key: key("a"), Value: []byte("y")}},
		"durable and runtime": {{Key: key("a"), Value: []byte("x")}, {Key: cnm.Key{Kind: cnm.KindNetwork, ID: "a"},
			Value: []byte("x")}},
	} {
		err := s.Commit(t.Context(), writes...)
		if !errors.Is(err, cnm.ErrInvalid) {
			t.Errorf("%s: error %v, want ErrInvalid", name, err)
		}
		if err != nil && len(err.Error()) > 500 {
			t.Errorf("%s: the error has %d bytes", name, len(err.Error()))
		}
	}
	if rs := list(t, s, cnm.KindEndpoint); len(rs) != 0 {
		t.Errorf("invalid commits have left %+v", rs)
	}
}

func testListOrder(t *testing.T, s cnm.Store) {
	if rs, err := s.List(t.Context(), cnm.KindEndpoint); err != nil || len(rs) != 0 {
		t.Fatalf("list of an empty store: %v, %v", rs, err)
	}
	ids := []string{"b", "a", "ab", "B", "é", "10", "9", "a/b", "a-b", "~", "\xff", "\x01"}
	for _, id := range ids {
		create(t, s, key(id), "value of "+id)
	}
	slices.Sort(ids)
	var got []string
	for _, r := range list(t, s, cnm.KindEndpoint) {
		got = append(got, r.Key.ID)
		if string(r.Value) != "value of "+r.Key.ID || r.Revision != get(t, s, r.Key).Revision ||
			r.Key.Kind != cnm.KindEndpoint {
			t.Errorf("listed %+v, got %+v", r, get(t, s, r.Key))
		}
	}
	if !slices.Equal(got, ids) {
		t.Errorf("listed %q, want %q", got, ids)
	}
}

func testFind(t *testing.T, s cnm.Store) {
	for _, id := range []string{"a", "ab", "abc", "abd", "ac", "b", "ab\xff", "\xff", "\xff\xff"} {
		create(t, s, key(id), "value of "+id)
	}
	create(t, s, cnm.Key{Kind: cnm.KindSandbox, ID: "abx"}, "another kind")
	for prefix, want := range map[string][]string{
		"":     {"a", "ab", "abc", "abd", "ab\xff", "ac", "b", "\xff", "\xff\xff"},
		"ab":   {"ab", "abc", "abd", "ab\xff"},
		"abc":  {"abc"},
		"abcd": nil,
		"\xff": {"\xff", "\xff\xff"},
		"z":    nil,
	} {
		rs, err := s.Find(t.Context(), cnm.KindEndpoint, prefix)
		if err != nil {
			t.Fatalf("find %q: %v", prefix, err)
		}
		var got []string
		for _, r := range rs {
			got = append(got, r.Key.ID)
			if string(r.Value) != "value of "+r.Key.ID || r.Revision == 0 {
				t.Errorf("find %q: %+v", prefix, r)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("find %q: %q, want %q", prefix, got, want)
		}
	}
}

func testOddKeys(t *testing.T, s cnm.Store) {
	var ids []string
	for b := 1; b < 256; b++ {
		ids = append(ids, string([]byte{byte(b)}), string([]byte{'x', byte(b), 'y'}))
	}
	ids = append(ids, strings.Repeat("long", 2048), "../../etc/passwd", "a b\n", "\xff\xff\xff")
	slices.Sort(ids)
	ids = slices.Compact(ids)
	for _, id := range ids {
		create(t, s, key(id), "v"+id)
	}
	for _, id := range ids {
		if r := get(t, s, key(id)); string(r.Value) != "v"+id {
			t.Errorf("%q holds %q", id, r.Value)
		}
	}
	if rs := list(t, s, cnm.KindEndpoint); len(rs) != len(ids) {
		t.Errorf("%d listed, want %d", len(rs), len(ids))
	}
}

func testKinds(t *testing.T, s cnm.Store) {
	kinds := []cnm.Kind{
		cnm.KindNetwork, cnm.KindSandbox, cnm.KindEndpoint, cnm.KindAddress, cnm.KindContainer, cnm.KindImage,
		cnm.KindVolume,
		cnm.KindPeer, cnm.KindMember,
		"net", "networks", "\xff",
	}
	for _, k := range kinds {
		create(t, s, cnm.Key{Kind: k, ID: "same"}, string(k))
	}
	for _, k := range kinds {
		rs := list(t, s, k)
		if len(rs) != 1 || string(rs[0].Value) != string(k) || rs[0].Key.Kind != k {
			t.Errorf("list %q: %+v", k, rs)
		}
	}
}

func testValues(t *testing.T, s cnm.Store) {
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // 1 MiB
	for id, v := range map[string][]byte{"empty": {}, "zero": {0}, "binary": {0, 1, 255, 254, 0}, "big": big} {
		if err := s.Commit(t.Context(), cnm.Write{Key: key(id), Value: v}); err != nil {
			t.Fatalf("%s: %v", id, err)
		}
		r := get(t, s, key(id))
		if r.Value == nil || !bytes.Equal(r.Value, v) {
			t.Errorf("%s: %d bytes stored, %d read", id, len(v), len(r.Value))
		}
	}
	r := get(t, s, key("big"))
	if err := s.Commit(t.Context(), cnm.Write{Key: r.Key, Value: []byte("small"), Revision: r.Revision}); err != nil {
		t.Fatal(err)
	}
	if r := get(t, s, key("big")); string(r.Value) != "small" {
		t.Errorf("the big value was replaced by %q", r.Value)
	}
}

func testCopies(t *testing.T, s cnm.Store) {
	v := []byte("one")
	if err := s.Commit(t.Context(), cnm.Write{Key: key("a"), Value: v}); err != nil {
		t.Fatal(err)
	}
	v[0] = 'X'
	r := get(t, s, key("a"))
	r.Value[1] = 'X'
	l := list(t, s, cnm.KindEndpoint)
	l[0].Value[2] = 'X'
	if got := get(t, s, key("a")); string(got.Value) != "one" {
		t.Errorf("callers share memory with the store: %q", got.Value)
	}
}

func testCancelled(t *testing.T, s cnm.Store) {
	create(t, s, key("a"), "one")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Commit(ctx, cnm.Write{Key: key("b"), Value: []byte("x")}); !errors.Is(err, context.Canceled) {
		t.Errorf("commit: %v", err)
	}
	if _, err := s.Get(ctx, key("a")); !errors.Is(err, context.Canceled) {
		t.Errorf("get: %v", err)
	}
	if _, err := s.List(ctx, cnm.KindEndpoint); !errors.Is(err, context.Canceled) {
		t.Errorf("list: %v", err)
	}
	absent(t, s, key("b"))
}

// ids names n records.
func ids(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("r%04d", i)
	}
	return out
}

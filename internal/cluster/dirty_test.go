package cluster

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/etcd"
)

// What is taken and given back is dirty as it was, with what became dirty in between: nothing is forgotten.
func TestNothingDirtyIsForgotten(t *testing.T) {
	text := func(d dirty) string {
		keys := func(m map[string]bool) []string { return slices.Sorted(maps.Keys(m)) }
		return fmt.Sprint(d.self, d.all, keys(d.networks), keys(d.peers), keys(d.read))
	}
	rapid.Check(t, func(t *rapid.T) {
		d, want := newDirty(), newDirty()
		mark := func(label string) {
			id := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, label)
			for _, x := range []*dirty{&d, &want} {
				switch len(label) % 5 {
				case 0:
					x.self = true
				case 1:
					x.networks[id] = true
				case 2:
					x.peers[id] = true
				case 3:
					x.read[id] = true
				default:
					x.everything()
				}
			}
		}
		for i := range rapid.IntRange(0, 6).Draw(t, "before") {
			mark(fmt.Sprint("before", i))
		}
		taken := d.take()
		if got := text(d); got != "false false [] [] []" {
			t.Fatalf("after it was taken: %s", got)
		}
		for i := range rapid.IntRange(0, 6).Draw(t, "meanwhile") {
			mark(fmt.Sprint("mean", i))
		}
		d.give(taken)
		if got, want := text(d), text(want); got != want {
			t.Fatalf("got %s, want %s", got, want)
		}
	})
}

// A conflict is waited out, as the watch brings what is there now; everything else is told.
func TestOnlyConflictsAreWaitedOut(t *testing.T) {
	if err := quietly(fmt.Errorf("write: %w", cnm.ErrConflict)); !errors.Is(err, errNotYet) {
		t.Errorf("a conflict: %v", err)
	}
	other := errors.New("no space")
	if err := quietly(other); !errors.Is(err, other) || errors.Is(err, errNotYet) {
		t.Errorf("another error: %v", err)
	}
	if err := quietly(nil); err != nil {
		t.Errorf("none: %v", err)
	}
}

// What this node has on a network is told again once the watch has brought the network's record: an endpoint may have
// come before it.
func TestANetworkThatComesHasThisNodeTellItsOwn(t *testing.T) {
	m := newCore(Config{Prefix: "/v"})
	m.dirty.take()
	id := strings.Repeat("a", 64)
	item := &etcd.Item{Key: "/v/network/" + id, Value: []byte(`{"id":"` + id + `","cluster":{}}`), Create: 1, Mod: 1}
	for i, want := range []bool{true, false} {
		if err := m.follower.update(etcd.Update{Revision: item.Mod, Changes: []etcd.Change{{New: item}}}); err != nil {
			t.Fatal(err)
		}
		if d := m.dirty.take(); d.self != want || !d.networks[id] {
			t.Errorf("change %d: %+v", i, d)
		}
		again := *item
		again.Mod = 2
		item = &again
	}
}

package store_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/store"
)

// A record that is written twice is found among few writes and among many, wherever the two are.
func TestCheckFindsARecordThatIsWrittenTwice(t *testing.T) {
	for n := 1; n <= 40; n++ {
		writes := make([]cnm.Write, 0, n+1)
		for i := range n {
			writes = append(writes, cnm.Write{Key: cnm.Key{Kind: cnm.KindPeer, ID: fmt.Sprint(i)}, Value: []byte("x")})
		}
		if err := store.Check(writes); err != nil {
			t.Errorf("%d writes: %v", n, err)
		}
		for i := range n {
			if err := store.Check(append(writes[:n:n], writes[i])); !errors.Is(err, cnm.ErrInvalid) {
				t.Errorf("%d writes and number %d again: %v", n, i, err)
			}
		}
		other := cnm.Write{Key: cnm.Key{Kind: cnm.KindMember, ID: "0"}}
		if err := store.Check(append(writes[:n:n], other)); err != nil &&
			other.Key.Kind.Durable() == writes[0].Key.Kind.Durable() {
			t.Errorf("an ID of two kinds is refused: %v", err)
		}
	}
}

func BenchmarkCheck(b *testing.B) {
	writes := make([]cnm.Write, 0, 500)
	for i := range 500 {
		writes = append(writes, cnm.Write{Key: cnm.Key{Kind: cnm.KindPeer, ID: fmt.Sprint(i)}})
	}
	for b.Loop() {
		if err := store.Check(writes); err != nil {
			b.Fatal(err)
		}
	}
}

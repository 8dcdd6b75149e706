package replay

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"
)

// Whatever is added: the end can be had again, what cannot is counted, and memory is bounded.
func TestBuffer(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := Buffer{Size: rapid.IntRange(1, 20).Draw(t, "size")}
		var all []byte
		var gone int // nobody has what comes before
		for range rapid.IntRange(0, 20).Draw(t, "pieces") {
			p := rapid.SliceOfN(rapid.Byte(), 0, 50).Draw(t, "piece")
			if rapid.IntRange(0, 9).Draw(t, "skip") == 0 {
				b.Miss(len(p))
				all, gone = append(all, p...), len(all)+len(p)
			} else {
				b.Add(p)
				all = append(all, p...)
			}
		}
		seen := rapid.IntRange(-1, len(all)+1).Draw(t, "seen")
		from := min(max(seen, 0), len(all))
		rest, lost := b.Since(int64(seen))
		if int(lost)+len(rest) != len(all)-from || !bytes.HasSuffix(all, rest) {
			t.Fatalf("%d bytes and %d lost after %d of %d", len(rest), lost, seen, len(all))
		}
		if lost > 0 && from >= gone && len(rest) < b.Size {
			t.Fatalf("%d are lost and only %d kept, of %d", lost, len(rest), b.Size)
		}
		if cap(b.kept) > 4*b.Size+64 {
			t.Fatalf("it holds %d bytes", cap(b.kept))
		}
	})
}

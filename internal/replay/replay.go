package replay

// Buffer remembers the end of a stream: the last Size bytes, or some more.
type Buffer struct {
	Size  int
	total int64
	kept  []byte
}

// Add appends to the stream.
func (b *Buffer) Add(p []byte) {
	b.total += int64(len(p))
	switch {
	case len(p) >= b.Size:
		p, b.kept = p[len(p)-b.Size:], b.kept[:0]
	case len(b.kept)+len(p) > 2*b.Size:
		b.kept = append(b.kept[:0], b.kept[len(b.kept)-b.Size:]...)
	}
	b.kept = append(b.kept, p...)
}

// Miss appends n bytes that nobody has.
func (b *Buffer) Miss(n int) {
	b.total += int64(n)
	b.kept = nil
}

// Since returns what comes after the first bytes of the stream, and how many bytes of that are not kept. It is valid
// until the buffer changes.
func (b *Buffer) Since(seen int64) (rest []byte, lost int64) {
	first := b.total - int64(len(b.kept))
	seen = min(max(seen, 0), b.total)
	return b.kept[max(0, seen-first):], max(0, first-seen)
}

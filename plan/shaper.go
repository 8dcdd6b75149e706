package plan

import "fmt"

// Shaper holds what leaves the host by a link to a rate, with a token bucket (tc-tbf(8)) as the link's queue.
type Shaper struct {
	Link  string // in the fabric's namespace
	Rate  uint64 // bytes a second
	Burst uint32 // bytes that may leave at once, at least the largest frame
}

// Key is the link: it has one such queue.
func (s Shaper) Key() string { return s.Link }

func (s Shaper) String() string {
	return fmt.Sprintf("shaper dev %s rate %dbit burst %d", s.Link, 8*s.Rate, s.Burst)
}

func (s Shaper) about() about { return about{kind: "shaper", link: s.Link} }

func shaperKind() kind {
	return plain("shaper", func(s *State) *[]Shaper { return &s.Shapers }, func(a, b Shaper) bool {
		// The kernel counts the burst in ticks of its own clock.
		apart := max(a.Burst, b.Burst) - min(a.Burst, b.Burst)
		return a.Rate == b.Rate && apart <= a.Burst/16
	})
}

package etcd

import (
	"testing"
	"time"
)

// When a watch rests depends on how much happens, for how many, and on what the rest before was good for.
func TestBurst(t *testing.T) {
	type update struct {
		after     time.Duration
		revisions int
		rest      bool
	}
	ms := time.Millisecond
	for _, c := range []struct {
		name     string
		audience int // 0: unknown
		updates  []update
	}{
		{"a node alone is told at once", 0, []update{{ms, 1, false}, {ms, 5000, false}}},
		{"so are few nodes", 5, []update{{ms, 1000, false}, {ms, 2000, false}}},
		{"many nodes rest", 1000, []update{{ms, 10, false}, {ms, 10, true}}},
		{"a large crowd still is told of a few at once", 1_000_000,
			[]update{{ms, 19, false}, {time.Second, 19, false}}},
		{"what is long ago does not count", 1000, []update{{900 * ms, 15, false}, {200 * ms, 15, false},
			{ms, 5, true}}},
		{"a rest that gathered enough is followed by another", 1000, []update{{ms, 20, true}, {500 * ms, 6, true},
			{500 * ms, 4, false}, {500 * ms, 6, false}}},
		{"a full piece is followed by the next", 1000, []update{{ms, 20, true}, {500 * ms, 1000, false},
			{ms, 1000, false}, {ms, 100, true}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var b burst
			if c.audience > 0 {
				b.audience = func() int { return c.audience }
			}
			now := time.Unix(0, 0)
			b.begin(now)
			for i, u := range c.updates {
				now = now.Add(u.after)
				if got := b.is(now, u.revisions); got != u.rest {
					t.Fatalf("update %d: rest is %v, want %v", i, got, u.rest)
				} else if !got {
					continue
				}
				if p := b.pause(); p < minRest/2 || p > 3*maxRest/2 {
					t.Errorf("update %d: a pause of %v", i, p)
				}
				b.begin(now)
			}
		})
	}
}

// The more time a step takes, the longer is the rest, with a limit.
func TestRestGrowsWithTheWork(t *testing.T) {
	b := burst{audience: func() int { return 1000 }}
	now := time.Unix(0, 0)
	for _, c := range []struct{ work, want time.Duration }{{time.Millisecond, minRest},
		{50 * time.Millisecond, minRest}, {400 * time.Millisecond, 800 * time.Millisecond},
		{5 * time.Second, maxRest}} {
		b.begin(now)
		now = now.Add(c.work)
		if !b.is(now, fullPiece-1) || b.rest != c.want {
			t.Errorf("after %v of work: a rest of %v, want %v", c.work, b.rest, c.want)
		}
	}
}

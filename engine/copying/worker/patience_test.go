package worker

import (
	"bytes"
	"io"
	"testing"
	"testing/synctest"
	"time"
)

// slow takes its time for each read.
type slow struct {
	io.Reader
	time.Duration
}

func (s slow) Read(b []byte) (int, error) {
	time.Sleep(s.Duration)
	return s.Reader.Read(b)
}

func TestPatience(t *testing.T) {
	const most = time.Minute
	for name, c := range map[string]struct {
		guard          func(*watch, io.Reader) io.Reader
		read, between  time.Duration
		reads, tooLong int
	}{
		"files that are slow":          {(*watch).whileRead, most - 1, 0, 5, 0},
		"files that block":             {(*watch).whileRead, most + 1, 0, 1, 1},
		"a client that takes its time": {(*watch).whileRead, 0, time.Hour, 2, 0},
		"files that take it slowly":    {(*watch).betweenReads, 0, most - 1, 5, 0},
		"files that do not take it":    {(*watch).betweenReads, 0, most + 1, 1, 1},
		"a client that gives slowly":   {(*watch).betweenReads, time.Hour, 0, 2, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				told := 0
				w := newWatch(most, func() { told++ })
				r := c.guard(w, slow{bytes.NewReader(make([]byte, 100)), c.read})
				for range c.reads {
					if _, err := r.Read(make([]byte, 1)); err != nil {
						t.Fatal(err)
					}
					time.Sleep(c.between)
					synctest.Wait()
				}
				w.end()
				if told != c.tooLong {
					t.Errorf("told %d times, want %d", told, c.tooLong)
				}
			})
		})
	}
}

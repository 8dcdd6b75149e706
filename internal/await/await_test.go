package await

import (
	"errors"
	"testing"
	"time"
)

func TestWaitsEndWhenTheConditionHolds(t *testing.T) {
	n := 0
	count := func() int { n++; return n }
	True(t, "three looks", func() bool { return count() == 3 })
	Value(t, "five looks", 5, count)
	Done(t, "seven looks", func() error {
		if count() < 7 {
			return errors.New("not yet")
		}
		return nil
	})
	c := make(chan string, 1)
	c <- "x"
	if got := From(t, "what was sent", c); got != "x" || n != 7 {
		t.Errorf("got %q after %d looks", got, n)
	}
}

func TestAWaitLooksAfterItsEnd(t *testing.T) {
	n := 0
	if look(-time.Second, func() bool { n++; return false }) || n != 1 {
		t.Errorf("%d looks", n)
	}
	if !look(-time.Second, func() bool { return true }) {
		t.Error("what holds is not seen after the end")
	}
}

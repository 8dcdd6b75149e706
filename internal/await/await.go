package await

import (
	"testing"
	"time"
)

// Patience bounds each wait, and whatever else in a test could hang.
const Patience = time.Minute

// Pause is the time between two looks.
const Pause = 5 * time.Millisecond

// True waits until ok reports true.
func True(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	if !Holds(ok) {
		tb.Fatalf("still not after %s: %s", Patience, what)
	}
}

// Done waits until try returns no error. When it never does, the last error is the test's.
func Done(tb testing.TB, what string, try func() error) {
	tb.Helper()
	var last error
	if !Holds(func() bool { last = try(); return last == nil }) {
		tb.Fatalf("still not after %s: %s: %v", Patience, what, last)
	}
}

// Value waits until get returns want. When it never does, the test says what it returned last.
func Value[T comparable](tb testing.TB, what string, want T, get func() T) {
	tb.Helper()
	var last T
	if !Holds(func() bool { last = get(); return last == want }) {
		tb.Fatalf("still not after %s: %s:\n got  %v\n want %v", Patience, what, last, want)
	}
}

// From waits for a value from a channel, or for its end, and returns it.
func From[T any](tb testing.TB, what string, c <-chan T) T {
	tb.Helper()
	timer := time.NewTimer(Patience)
	defer timer.Stop()
	select {
	case v := <-c:
		return v
	case <-timer.C:
		tb.Fatalf("still not after %s: %s", Patience, what)
		panic("unreachable")
	}
}

// Holds waits until ok reports true and reports whether it did, for those who fail a test in another way.
func Holds(ok func() bool) bool { return look(Patience, ok) }

// look looks again and again, once more after the time is over: this process may have been kept from running.
func look(most time.Duration, ok func() bool) bool {
	for end := time.Now().Add(most); ; time.Sleep(Pause) {
		late := time.Now().After(end)
		if ok() {
			return true
		}
		if late {
			return false
		}
	}
}

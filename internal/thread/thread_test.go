package thread_test

import (
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/internal/thread"
)

// TestTheFirstThreadStaysAsItIs gives threads up in a namespace of their own while all are busy, the first one too: it
// is on none of them.
func TestTheFirstThreadStaysAsItIs(t *testing.T) {
	before, err := os.Readlink("/proc/self/ns/uts")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 200 {
		all.Go(func() {
			var err error
			thread.Run(func() bool {
				if unix.Gettid() == unix.Getpid() {
					t.Error("it runs on the first thread")
				}
				err = unix.Unshare(unix.CLONE_NEWUTS)
				return false
			})
			if err != nil {
				t.Errorf("make a namespace: %v", err)
			}
		})
	}
	all.Wait()
	if now, err := os.Readlink("/proc/self/ns/uts"); err != nil || now != before {
		t.Errorf("the process is in %s, %v; it was in %s", now, err, before)
	}
}

// A thread that can be used again is.
func TestAThreadIsUsedAgain(t *testing.T) {
	seen := map[int]bool{}
	for range 1000 {
		thread.Run(func() bool { seen[unix.Gettid()] = true; return true })
	}
	if len(seen) > 100 {
		t.Errorf("%d threads for 1000 turns", len(seen))
	}
}

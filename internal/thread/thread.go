// Package thread runs functions on threads of their own, which may change what a thread has apart: namespaces, filters.
package thread

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// Run runs f on a thread that nothing else runs on, and returns when f does. The thread is used for other things again
// when f reports true, and else ends. It is never the process's first thread: /proc/self is what that one sees, and Go
// does not end it.
func Run(f func() (again bool)) {
	done := make(chan struct{})
	go func() {
		defer close(done) // also when f ends the goroutine
		runtime.LockOSThread()
		first := unix.Gettid() == unix.Getpid()
		if first { // it waits, so that it is not the next one either
			Run(f)
		}
		if first || f() {
			runtime.UnlockOSThread()
		}
	}()
	<-done
}

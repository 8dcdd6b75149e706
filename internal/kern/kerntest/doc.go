// Package kerntest gives a test a network namespace of its own, and checks
// at the test's end that nothing has leaked out of it.
//
//	func TestAttach(t *testing.T) {
//		env := kerntest.New(t)
//		k, err := kern.Open(kern.Config{RunDir: env.RunDir})
//		…
//		defer k.Close()
//	}
//
// The test's goroutine is locked to a thread in the fresh namespace, so
// kern.Open binds to it, and so do sockets the test opens on its own goroutine.
// Other goroutines, those of subtests among them, are elsewhere: they go through
// [Env.Do], as [Env.Run] and [Env.Sh] do. Tests that use this package need root and must not call
// t.Parallel, since descriptors are counted for the whole process.
package kerntest

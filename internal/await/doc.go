// Package await has tests wait for what somebody else brings about: the kernel, another process, another goroutine.
//
// A wait ends as soon as its condition holds, so its bound costs a test that passes nothing. The bound only keeps a
// hang from lasting for ever, and is therefore generous: a busy machine may take many times as long as a quiet one.
// What has to happen within a certain time is not for this package; such a test measures the time itself.
package await

// Package reconcile keeps the kernel equal to the records, one owner at a time.
//
// A wake-up carries nothing but the names of owners. A pass renders what those
// owners want, compares it with what they were last given, and applies the
// difference. What they were last given is unknown at the start, after an error and when
// somebody else changed the kernel; then the pass looks at everything the
// fabric owns instead. There is no other path: start, attach, repair and
// recovery from a crash are all passes.
package reconcile

// Package handover keeps open files over the end of the process that uses them, for the next one.
//
// A [Holder] is a process that has the same open files as netd from the moment these are opened, with a note about
// each. It never reads them: what comes waits in the kernel's queues. A netd that stops, is killed or is replaced
// leaves it behind. The next one's [Keeper] takes over what it has, and has a holder of its own then.
package handover

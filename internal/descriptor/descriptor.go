// Package descriptor holds open files that this process keeps and never reads.
//
// An [os.File] of a socket that does not block is watched by Go's runtime: every packet that comes to the socket, which
// another process reads, would wake this one.
package descriptor

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Descriptor is an open file. The zero value is none.
type Descriptor struct{ n int } // one more than the number

// Of takes a descriptor over.
func Of(fd int) Descriptor { return Descriptor{fd + 1} }

// FD is its number, -1 for none.
func (d Descriptor) FD() int { return d.n - 1 }

// Close closes it; none is no error.
func (d Descriptor) Close() error {
	if d.n == 0 {
		return nil
	}
	return unix.Close(d.FD())
}

// Duplicate makes another descriptor of the same open file.
func (d Descriptor) Duplicate() (Descriptor, error) {
	fd, err := unix.FcntlInt(uintptr(d.FD()), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return Descriptor{}, fmt.Errorf("duplicate a descriptor: %w", err)
	}
	return Of(fd), nil
}

// File hands it to Go's runtime: it is the file's from now on.
func (d Descriptor) File(name string) *os.File { return os.NewFile(uintptr(d.FD()), name) }

// Close closes all of them.
func Close(all []Descriptor) {
	for _, d := range all {
		d.Close()
	}
}

package dns

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// connectRaw connects to an address that package unix has no type for.
func connectRaw(fd uintptr, sa *unix.RawSockaddr) error {
	_, _, errno := unix.Syscall(unix.SYS_CONNECT, fd, uintptr(unsafe.Pointer(sa)), unsafe.Sizeof(*sa))
	if errno != 0 {
		return errno
	}
	return nil
}

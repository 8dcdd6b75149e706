package rootfile

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// NoLinks are the flags of openat2(2) for a path that stays below its start and in which no symbolic link may be.
const NoLinks = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS

// OpenDirAt opens a directory below another as a path only (O_PATH), the path being of any length: the kernel takes
// [unix.PathMax] bytes at once, the end included. No mount is crossed (EXDEV). resolve are flags of openat2(2); behind
// the first PathMax bytes they are NoLinks.
func OpenDirAt(root int, p string, resolve uint64) (int, error) {
	at := root
	for {
		head, rest := splitPath(p)
		fd, err := openDirAt(at, head, resolve)
		if at != root {
			unix.Close(at)
		}
		if err != nil || rest == "" {
			return fd, err
		}
		// Where a link in the rest led would be looked for below this directory, not below the root.
		at, p, resolve = fd, rest, NoLinks
	}
}

// splitPath splits a path behind as many components as one system call takes.
func splitPath(p string) (head, rest string) {
	if len(p) < unix.PathMax {
		return p, ""
	}
	i := strings.LastIndexByte(p[:unix.PathMax], '/')
	if i <= 0 {
		return p, "" // a component that no filesystem takes
	}
	return p[:i], p[i+1:]
}

func openDirAt(at int, p string, resolve uint64) (int, error) {
	how := unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: resolve | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	}
	for {
		fd, err := unix.Openat2(at, p, &how)
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR): // a rename somewhere on the host, see openat2(2)
			continue
		case errors.Is(err, unix.ENOSYS):
			return -1, fmt.Errorf("openat2 needs Linux 5.6 or newer: %w", err)
		}
		return fd, err
	}
}

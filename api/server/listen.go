package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// Group owns the socket, where the host has such a group.
const Group = "vethloom"

// socketMode lets root and the group in, and nobody else.
const socketMode = 0o660

// maxSocketPath is the size of sun_path less its NUL, see unix(7).
const maxSocketPath = 107

// ErrServed is the error of a socket behind which a daemon already answers.
var ErrServed = errors.New("another daemon serves this socket")

// Listen listens on a unix socket that only root and the group "vethloom" may
// connect to. A socket file that a dead daemon left behind is replaced; one
// that still accepts connections is [ErrServed].
func Listen(ctx context.Context, path string) (net.Listener, error) {
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("listen on %s: the path has %d bytes and the kernel takes %d: choose a shorter "+
			"--run or --host", path, len(path), maxSocketPath)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("listen on %s: make its directory: %w", path, err)
	}
	if err := clearStale(ctx, path); err != nil {
		return nil, err
	}
	// The mode a socket has before bind(2) is the one its file gets, so there is
	// no moment at which others could connect.
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var chmod error
		err := c.Control(func(fd uintptr) { chmod = syscall.Fchmod(int(fd), socketMode) })
		return errors.Join(err, chmod)
	}}
	l, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	if err := admitGroup(path); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// clearStale removes a socket file nobody listens on.
func clearStale(ctx context.Context, path string) error {
	st, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at socket %s: %w", path, err)
	}
	if st.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("listen on %s: it exists and is no socket: move it away, or choose another --host", path)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", path)
	switch {
	case err == nil:
		return errors.Join(fmt.Errorf("listen on %s: %w: stop it, or give this one its own --run and --root", path,
			ErrServed), c.Close())
	case errors.Is(err, syscall.ECONNREFUSED):
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove stale socket %s: %w", path, err)
		}
		return nil
	default: // a full backlog: somebody listens, and hangs
		return fmt.Errorf("listen on %s: %w, and does not accept (%w): stop it first", path, ErrServed, err)
	}
}

// admitGroup sets the owner and the mode, which bind(2) narrowed by the umask.
func admitGroup(path string) error {
	gid := -1
	if g, err := user.LookupGroup(Group); err == nil {
		if gid, err = strconv.Atoi(g.Gid); err != nil {
			return fmt.Errorf("group %s has the ID %q, which is no number", Group, g.Gid)
		}
	} else if unknown := user.UnknownGroupError(""); !errors.As(err, &unknown) {
		return fmt.Errorf("look up group %s: %w", Group, err)
	}
	if err := os.Chown(path, -1, gid); err != nil {
		return fmt.Errorf("give socket %s to group %s: %w", path, Group, err)
	}
	if err := os.Chmod(path, socketMode); err != nil {
		return fmt.Errorf("set the mode of socket %s: %w", path, err)
	}
	return nil
}

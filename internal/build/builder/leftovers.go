package builder

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// lock takes a file that one builder at a time has, and waits for it. buildkitd has the file open, too: it is free
// when all that was started is gone.
func lock(ctx context.Context, path string, say io.Writer) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make the builder's directory: %w", err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the builder's directory: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		return f, nil
	}
	if !errors.Is(err, unix.EWOULDBLOCK) {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
	}
	fmt.Fprintf(say, "waiting for another build that uses %s\n", filepath.Dir(path))
	taken := make(chan error, 1)
	go func() {
		for {
			err := unix.Flock(int(f.Fd()), unix.LOCK_EX)
			if !errors.Is(err, unix.EINTR) {
				taken <- err
				return
			}
		}
	}()
	select {
	case err := <-taken:
		if err != nil {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
		}
		return f, nil
	case <-ctx.Done(): // this process is about to end, and its wait with it
		return nil, ctx.Err()
	}
}

// removeCgroups removes what runtimes were killed over: the kernel removes no cgroups by itself. Of version 1 there is
// a hierarchy for each controller.
func removeCgroups(name string) error {
	const top = "/sys/fs/cgroup"
	roots := []string{filepath.Join(top, name)}
	entries, err := os.ReadDir(top)
	if err != nil {
		return fmt.Errorf("look for cgroups: %w", err)
	}
	for _, e := range entries {
		if e.IsDir() {
			roots = append(roots, filepath.Join(top, e.Name(), name))
		}
	}
	for _, root := range roots {
		var all []string
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err == nil && d.IsDir() {
				all = append(all, path)
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("look for cgroups: %w", err)
		}
		for _, path := range slices.Backward(all) { // the inner ones first
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("remove a cgroup of an earlier build: %w", err)
			}
		}
	}
	return nil
}

// tail is the end of what a process has said.
type tail struct {
	mu   sync.Mutex
	text []byte
}

// maxTail bounds what is kept of it, in bytes.
const maxTail = 8 << 10

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, b...)
	if n := len(t.text) - maxTail; n > 0 {
		t.text = slices.Delete(t.text, 0, n)
	}
	return len(b), nil
}

// last is its last line.
func (t *tail) last() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := strings.Split(string(bytes.TrimSpace(t.text)), "\n")
	return lines[len(lines)-1]
}

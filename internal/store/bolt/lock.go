package bolt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// lockDir takes the lock that keeps a second process from a file. bbolt's own lock
// would come too late: a file is checked, and perhaps replaced, before bbolt opens it.
func lockDir(ctx context.Context, path string, timeout time.Duration) (*os.File, error) {
	lock, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	deadline := time.NewTimer(timeout)
	defer deadline.Stop()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return lock, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", lock.Name(), err), lock.Close())
		}
		select {
		case <-again.C:
		case <-deadline.C:
			return nil, errors.Join(fmt.Errorf("another netd is using %s: waited %s for %s; stop it, or choose "+
				"other --root and --run directories",
				filepath.Dir(path), timeout, lock.Name()), lock.Close())
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("wait for %s: %w", lock.Name(), ctx.Err()), lock.Close())
		}
	}
}

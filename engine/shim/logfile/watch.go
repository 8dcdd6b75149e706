package logfile

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// watch wakes when something changes in a log's directory (inotify(7)).
type watch struct {
	wake chan struct{}
	f    *os.File
	done chan struct{}
}

func newWatch(path string) (*watch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch the log: %w", os.NewSyscallError("inotify_init1", err))
	}
	f := os.NewFile(uintptr(fd), "inotify")
	if _, err := unix.InotifyAddWatch(fd, filepath.Dir(path),
		unix.IN_MODIFY|unix.IN_CREATE|unix.IN_MOVED_TO); err != nil {
		f.Close()
		return nil, fmt.Errorf("watch the log: %w", &os.PathError{Op: "inotify_add_watch", Path: filepath.Dir(path),
			Err: err})
	}
	w := &watch{wake: make(chan struct{}, 1), f: f, done: make(chan struct{})}
	go w.run()
	return w, nil
}

// run turns events, whatever they say, into wake-ups that coalesce.
func (w *watch) run() {
	defer close(w.done)
	buf := make([]byte, 4096)
	for {
		if _, err := w.f.Read(buf); err != nil {
			return
		}
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

func (w *watch) close() {
	w.f.Close()
	<-w.done
}

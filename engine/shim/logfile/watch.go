package logfile

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// pollTime is between two looks at a log that the kernel does not watch for us.
const pollTime = 250 * time.Millisecond

// Watcher tells those who follow logs when something changes there. However many they are, it has one inotify
// instance (inotify(7)), and none while nobody follows: root has 128 on a host, and its containers need some too. Where
// the kernel gives none, or no further watch, a follower looks every 250 ms instead.
//
// The zero value is ready to use.
type Watcher struct {
	Log *slog.Logger // nil: nothing is logged

	mu  sync.Mutex
	in  *instance // nil while nobody has a watch of the kernel's
	ill bool      // the log knows that there is no watch to be had
}

// instance is an inotify instance. Its watches are guarded by the Watcher's mu.
type instance struct {
	f       *os.File
	watches map[int32]map[*watch]struct{} // by watch descriptor, which a directory has once for all
	done    chan struct{}                 // closed when nobody reads f any more
}

// watch is one follower's view of a directory.
type watch struct {
	wake  chan struct{}    // after a change, or many
	look  <-chan time.Time // instead of wake; nil: the kernel watches
	close func()
}

// watch wakes its caller when something changes in the directory of path.
func (w *Watcher) watch(path string) (*watch, error) {
	dir := filepath.Dir(path)
	w.mu.Lock()
	defer w.mu.Unlock()
	one := &watch{wake: make(chan struct{}, 1)}
	err := w.add(dir, one)
	switch {
	case err == nil:
		w.ill = false
		return one, nil
	// EMFILE and ENFILE: no instance; ENOSPC: no watch; ENOMEM: neither; ENOSYS: a kernel without.
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE), errors.Is(err, unix.ENOSPC),
		errors.Is(err, unix.ENOMEM), errors.Is(err, unix.ENOSYS):
		if !w.ill && w.Log != nil {
			w.Log.Warn("logs are followed by looking at them again and again, because the kernel does not watch "+
				"them: see the sysctls fs.inotify.max_user_instances and fs.inotify.max_user_watches",
				"interval", pollTime, "error", err)
		}
		w.ill = true
		ticker := time.NewTicker(pollTime)
		one.look, one.close = ticker.C, ticker.Stop
		return one, nil
	}
	return nil, fmt.Errorf("watch the log: %w", err)
}

func (w *Watcher) add(dir string, one *watch) error {
	in := w.in
	if in == nil {
		fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
		if err != nil {
			return os.NewSyscallError("inotify_init1", err)
		}
		in = &instance{f: os.NewFile(uintptr(fd), "inotify"), watches: map[int32]map[*watch]struct{}{},
			done: make(chan struct{})}
	}
	wd := -1
	err := in.control(func(fd int) (err error) {
		wd, err = unix.InotifyAddWatch(fd, dir, unix.IN_MODIFY|unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_ONLYDIR)
		return err
	})
	if err != nil {
		if w.in == nil {
			in.f.Close()
		}
		return &os.PathError{Op: "inotify_add_watch", Path: dir, Err: err}
	}
	if in.watches[int32(wd)] == nil {
		in.watches[int32(wd)] = map[*watch]struct{}{}
	}
	in.watches[int32(wd)][one] = struct{}{}
	one.close = func() { w.remove(in, int32(wd), one) }
	if w.in == nil {
		w.in = in
		go w.run(in)
	}
	return nil
}

// remove takes the directory's watch away with its last follower, and the instance with the last directory.
func (w *Watcher) remove(in *instance, wd int32, one *watch) {
	w.mu.Lock()
	all, ok := in.watches[wd]
	if _, here := all[one]; !ok || !here { // the directory is gone, and another may have the number
		wd = -1
	}
	delete(all, one)
	if wd >= 0 && len(all) == 0 {
		delete(in.watches, wd)
		// EINVAL: the directory is gone, and its watch with it.
		_ = in.control(func(fd int) error { _, err := unix.InotifyRmWatch(fd, uint32(wd)); return err })
	}
	last := w.in == in && len(in.watches) == 0
	if last {
		w.in = nil
		in.f.Close()
	}
	w.mu.Unlock()
	if last {
		<-in.done
	}
}

// control uses the descriptor without taking it from the runtime's poller.
func (in *instance) control(use func(fd int) error) error {
	raw, err := in.f.SyscallConn()
	if err != nil {
		return err
	}
	if controlErr := raw.Control(func(fd uintptr) { err = use(int(fd)) }); controlErr != nil {
		return controlErr
	}
	return err
}

func (w *Watcher) run(in *instance) {
	defer close(in.done)
	buf := make([]byte, 16<<10)
	for {
		n, err := in.f.Read(buf)
		if err != nil {
			return // closed: nobody follows
		}
		w.mu.Lock()
		in.tell(buf[:n])
		w.mu.Unlock()
	}
}

// tell turns events, whatever they say, into wake-ups that coalesce.
func (in *instance) tell(events []byte) {
	for len(events) >= unix.SizeofInotifyEvent {
		wd := int32(binary.NativeEndian.Uint32(events))
		mask := binary.NativeEndian.Uint32(events[4:])
		name := int(binary.NativeEndian.Uint32(events[12:]))
		events = events[min(unix.SizeofInotifyEvent+name, len(events)):]
		if mask&unix.IN_Q_OVERFLOW != 0 { // whose events were lost is not said
			for _, all := range in.watches {
				wakeAll(all)
			}
			continue
		}
		wakeAll(in.watches[wd])
		if mask&unix.IN_IGNORED != 0 { // the directory is gone
			delete(in.watches, wd)
		}
	}
}

func wakeAll(all map[*watch]struct{}) {
	for one := range all {
		select {
		case one.wake <- struct{}{}:
		default:
		}
	}
}

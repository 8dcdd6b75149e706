package snapshot

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/internal/thread"
)

// Merged is what overlayfs shows of directories, read-only, in a mount that no path leads to.
type Merged struct {
	*os.File // the root, as a path only (O_PATH)
	empty    string
}

// OpenMerged merges layers, bottom first. It needs CAP_SYS_ADMIN. More layers than fit the options of mount(2), about
// a hundred, need Linux 6.8. They are not to change while this is open; what a running container's upper directory
// shows here is undefined.
func OpenMerged(layers []string) (*Merged, error) {
	if len(layers) == 0 {
		return nil, errors.New("merge layers: there are none")
	}
	m := &Merged{}
	if len(layers) == 1 { // overlayfs wants two where nothing can be written
		empty, err := os.MkdirTemp("", "vethloom-empty-")
		if err != nil {
			return nil, fmt.Errorf("merge layers: %w", err)
		}
		m.empty, layers = empty, []string{empty, layers[0]}
	}
	fd, err := merge(layers)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("merge %d layers: %w", len(layers), err), m.Close())
	}
	m.File = os.NewFile(uintptr(fd), "merged layers")
	return m, nil
}

// Close lets go of the mount.
func (m *Merged) Close() error {
	if m == nil {
		return nil
	}
	var err error
	if m.File != nil {
		err = m.File.Close()
	}
	if m.empty != "" {
		err = errors.Join(err, os.Remove(m.empty))
	}
	return err
}

func merge(layers []string) (int, error) {
	fd, err := mergeDetached(layers)
	if !errors.Is(err, errNoLayers) {
		return fd, err
	}
	return mergeAside(layers)
}

// mergeDetached names each layer by a descriptor: paths may be longer than one option.
func mergeDetached(layers []string) (int, error) {
	settings := []setting{{"source", "overlay"}}
	for i := len(layers) - 1; i >= 0; i-- {
		fd, err := unix.Open(layers[i], unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return -1, fmt.Errorf("open layer %s: %w", layers[i], err)
		}
		defer unix.Close(fd)
		settings = append(settings, setting{addLayer, fmt.Sprintf("/proc/self/fd/%d", fd)})
	}
	for _, o := range fixedOptions {
		key, value, _ := strings.Cut(o, "=")
		settings = append(settings, setting{key, value})
	}
	return newOverlay(append(settings, setting{key: "ro"}), unix.MOUNT_ATTR_RDONLY)
}

// mergeAside mounts with mount(2), in a mount namespace of its own that ends at once: the descriptor keeps the mount.
func mergeAside(layers []string) (fd int, err error) {
	thread.Run(func() bool { fd, err = mergeHere(layers); return false })
	return fd, err
}

func mergeHere(layers []string) (int, error) {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return -1, fmt.Errorf("make a mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return -1, fmt.Errorf("make a mount namespace private: %w", err)
	}
	// Relative to descriptors: what overlayfs splits options at may be in the paths.
	var paths []string
	for i := len(layers) - 1; i >= 0; i-- {
		fd, err := unix.Open(layers[i], unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return -1, fmt.Errorf("open layer %s: %w", layers[i], err)
		}
		defer unix.Close(fd)
		paths = append(paths, fmt.Sprintf("/proc/self/fd/%d", fd))
	}
	target := layers[len(layers)-1]
	m := Mount{Type: "overlay", Source: "overlay", Target: target,
		Options: append([]string{"ro", "lowerdir=" + strings.Join(paths, ":")}, fixedOptions...)}
	if err := m.Do(); err != nil {
		return -1, err
	}
	fd, err := unix.Open(target, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open an overlay: %w", err)
	}
	if err := unix.Unmount(target, unix.MNT_DETACH); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("detach an overlay: %w", err)
	}
	return fd, nil
}

package snapshot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// baseName is the layer below those of every image; no ID starts with a dot.
const baseName = ".base"

// base makes the layer that all containers share, lowest: it has what programs expect of a running
// system and images leave out, /etc/mtab (see getmntent(3)), and what every container has something mounted on. So an
// image that has the file, or is without it on purpose, keeps its own, and nothing is written into a container's tree,
// where it would look like a change that the container made.
func (s *Snapshots) base() error {
	root := filepath.Join(s.root, baseName)
	for _, dir := range []string{"", "etc", "dev", "proc", "sys"} {
		dir = filepath.Join(root, dir)
		err := os.Mkdir(dir, 0o755)
		if err == nil {
			err = os.Chmod(dir, 0o755) // whatever the umask
		}
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make the lowest layer: %w", diskError(s.root, err))
		}
	}
	for _, name := range []string{"hostname", "hosts", "resolv.conf"} {
		f, err := os.OpenFile(filepath.Join(root, "etc", name), os.O_CREATE|os.O_EXCL, 0o644)
		if err == nil {
			err = errors.Join(f.Chmod(0o644), f.Close())
		}
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make the lowest layer: %w", diskError(s.root, err))
		}
	}
	mtab := filepath.Join(root, "etc", "mtab")
	if err := os.Symlink("/proc/mounts", mtab); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make the lowest layer: %w", diskError(s.root, err))
	}
	return nil
}

// Below is what is below a container's writable layer, bottom first: the lowest layer of all, and those of an image.
func (s *Snapshots) Below(lower []string) []string {
	return append([]string{filepath.Join(s.root, baseName)}, lower...)
}

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
// system and images leave out, /etc/mtab (see getmntent(3)). So an image that has the file, or is
// without it on purpose, keeps its own, and nothing is written into a container's tree.
func (s *Snapshots) base() error {
	etc := filepath.Join(s.root, baseName, "etc")
	for _, dir := range []string{filepath.Dir(etc), etc} {
		err := os.Mkdir(dir, 0o755)
		if err == nil {
			err = os.Chmod(dir, 0o755) // whatever the umask
		}
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make the lowest layer: %w", diskError(s.root, err))
		}
	}
	if err := os.Symlink("/proc/mounts", filepath.Join(etc, "mtab")); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make the lowest layer: %w", diskError(s.root, err))
	}
	return nil
}

// Below is what is below a container's writable layer, bottom first: the lowest layer of all, and those of an image.
func (s *Snapshots) Below(lower []string) []string {
	return append([]string{filepath.Join(s.root, baseName)}, lower...)
}

package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// stateDir makes a directory of netd's state and returns its path without symbolic links, which a root filesystem may
// not have. A directory in which users other than root can put files is refused: what netd reads there, and runs,
// would be theirs. So is one below such a directory, unless that is sticky, as /tmp is.
func stateDir(dir string) (string, error) {
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return "", fmt.Errorf("make the state directory: %w", err)
	}
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return "", fmt.Errorf("find the state directory: %w", err)
	}
	if real, err = filepath.Abs(real); err != nil {
		return "", fmt.Errorf("find the state directory: %w", err)
	}
	for at := real; ; at = filepath.Dir(at) {
		info, err := os.Stat(at)
		if err != nil {
			return "", fmt.Errorf("look at the state directory: %w", err)
		}
		if err := private(at, info, at == real); err != nil {
			return "", fmt.Errorf("state directory %s: %w", dir, err)
		}
		if at == filepath.Dir(at) {
			return real, nil
		}
	}
}

// private reports why others than root can change what is in a directory.
func private(path string, info os.FileInfo, last bool) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("the owner of %s is not known", path)
	}
	if st.Uid != 0 && st.Uid != uint32(os.Geteuid()) {
		return fmt.Errorf("%s belongs to user %d, who could change what is in it: chown root %s, or choose another "+
			"directory", path, st.Uid, path)
	}
	sticky := info.Mode()&os.ModeSticky != 0 && !last
	if others := info.Mode().Perm()&0o022 != 0; others && !sticky {
		return fmt.Errorf("others than root can write in %s (mode %04o): chmod go-w %s, or choose another directory",
			path, info.Mode().Perm(), path)
	}
	return nil
}

// makeDirs makes what netd keeps its state in.
func (c *Config) makeDirs() (err error) {
	for _, dir := range []*string{&c.Root, &c.Run} {
		if *dir, err = stateDir(*dir); err != nil {
			return err
		}
	}
	return nil
}

package attach

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// A detach that netd could not be asked for is left in a folder beside its socket, one file each, for netd to find.
// After a reboot the folder is gone, and so is what was to be detached.

// LaterDir is the folder of a socket.
func LaterDir(socket string) string { return filepath.Join(filepath.Dir(socket), "detach") }

// Later leaves a detach for netd.
func Later(socket string, k Key) error {
	dir := LaterDir(socket)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("leave the detach for netd: %w", err)
	}
	text, err := json.Marshal(k)
	if err != nil {
		return fmt.Errorf("encode the detach: %w", err)
	}
	path := laterFile(dir, k)
	part := fmt.Sprintf("%s.%d", path, os.Getpid()) // netd passes over names with a dot
	if err := os.WriteFile(part, text, 0o600); err != nil {
		return fmt.Errorf("leave the detach for netd: %w", err)
	}
	if err := os.Rename(part, path); err != nil {
		return fmt.Errorf("leave the detach for netd: %w", err)
	}
	return nil
}

func laterFile(dir string, k Key) string {
	return filepath.Join(dir, SandboxID(k.Engine, k.Container+"\x00"+k.Interface))
}

// Done ends a detach that was left, if it was.
func Done(dir string, k Key) error {
	if err := os.Remove(laterFile(dir, k)); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("end a detach that was left: %w", err)
	}
	return nil
}

// IsLeft reports whether the detach of an attachment was left.
func IsLeft(dir string, k Key) bool {
	_, ok := readLeft(laterFile(dir, k))
	return ok
}

// Left are the detaches that are in the folder. What is in it otherwise is passed over.
func Left(dir string) ([]Key, error) {
	entries, err := os.ReadDir(dir)
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for detaches that were left: %w", err)
	}
	var keys []Key
	for _, e := range entries {
		if k, ok := readLeft(filepath.Join(dir, e.Name())); ok {
			keys = append(keys, k)
		}
	}
	return keys, nil
}

// maxLeft is more than a key needs, in bytes.
const maxLeft = 4096

func readLeft(path string) (k Key, ok bool) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return k, false
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() || st.Size() > maxLeft {
		return k, false
	}
	if json.NewDecoder(f).Decode(&k) != nil {
		return k, false
	}
	return k, path == laterFile(filepath.Dir(path), k)
}

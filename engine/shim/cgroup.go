package shim

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const cgroupMount = "/sys/fs/cgroup"

// DelegatedCgroup is the cgroup, absolute in the hierarchy, below which this
// process may make others: the subtree systemd delegated to its unit, or the top.
func DelegatedCgroup() string {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "/"
	}
	for line := range strings.Lines(string(text)) {
		own, ok := strings.CutPrefix(strings.TrimSpace(line), "0::")
		if !ok {
			continue
		}
		// The unit's own cgroup may hold no processes once it has children with
		// controllers (cgroups(7), "no internal processes"): with DelegateSubgroup=
		// netd is one level down, and the delegated one is its parent.
		if parent := filepath.Dir(own); delegated(parent) {
			return parent
		}
	}
	return "/"
}

// delegated reports whether systemd marked a cgroup as delegated (Delegate=).
func delegated(path string) bool {
	b := make([]byte, 1)
	n, err := unix.Getxattr(filepath.Join(cgroupMount, path), "trusted.delegate", b)
	return err == nil && n == 1 && b[0] == '1'
}

// cgroupDirs lists where a cgroup exists: one directory with the unified
// hierarchy, one a controller with the older ones, where the unified one may be
// mounted besides (hybrid).
func cgroupDirs(path string) ([]string, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(cgroupMount, &st); err != nil {
		return nil, fmt.Errorf("look at %s: %w", cgroupMount, err)
	}
	if st.Type == unix.CGROUP2_SUPER_MAGIC {
		return existing([]string{filepath.Join(cgroupMount, path)}), nil
	}
	entries, err := os.ReadDir(cgroupMount)
	if err != nil {
		return nil, fmt.Errorf("list the cgroup hierarchies: %w", err)
	}
	var dirs []string
	for _, e := range entries {
		if e.IsDir() { // links are other names of the same
			dirs = append(dirs, filepath.Join(cgroupMount, e.Name(), path))
		}
	}
	return existing(dirs), nil
}

func existing(dirs []string) []string {
	return slices.DeleteFunc(dirs, func(d string) bool {
		_, err := os.Stat(d)
		return err != nil
	})
}

// KillCgroup kills every process in a cgroup and below, removes the cgroup, and
// returns once both are done. It is for what a supervisor left that died; one
// that does not exist is no error.
func KillCgroup(path string) error {
	// Processes that are being born while we look are killed in the next round.
	for wait := time.Millisecond; ; wait *= 2 {
		dirs, err := cgroupDirs(path)
		if err != nil || len(dirs) == 0 {
			return err
		}
		for _, d := range dirs {
			if err := killIn(d); err != nil {
				return err
			}
		}
		err = removeDirs(dirs)
		if err == nil {
			return nil
		}
		if wait > time.Second {
			return fmt.Errorf("empty the cgroup %s: %w%s", path, err, survivors(dirs))
		}
		time.Sleep(wait) // the kernel tells nothing when a v1 cgroup gets empty
	}
}

// survivors names a process that was killed and did not end.
func survivors(dirs []string) string {
	for _, d := range dirs {
		text, err := os.ReadFile(filepath.Join(d, "cgroup.procs"))
		if err != nil {
			continue
		}
		for field := range strings.FieldsSeq(string(text)) {
			if pid, err := strconv.Atoi(field); err == nil {
				return fmt.Sprintf(": process %d was killed and is in state %s, and waits for a disk perhaps", pid,
					ProcessState(pid))
			}
		}
	}
	return ""
}

func killIn(dir string) error {
	// A frozen process does not die (v1). Only one hierarchy has the file.
	if f, err := os.OpenFile(filepath.Join(dir, "freezer.state"), os.O_WRONLY, 0); err == nil {
		_, err = f.WriteString("THAWED")
		if err = errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("thaw %s: %w", dir, err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0); err == nil {
		return nil // v2, from Linux 5.14: all at once
	}
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) || err == nil && d.Name() != "cgroup.procs" {
			return nil
		}
		if err != nil {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return nil // removed meanwhile, or a threaded cgroup, whose parent lists its processes
		}
		for field := range strings.FieldsSeq(string(text)) {
			if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
				if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
					return fmt.Errorf("kill process %d: %w", pid, err)
				}
			}
		}
		return nil
	})
}

// RemoveCgroup removes a cgroup without processes in every hierarchy, and the
// empty ones below it. One that does not exist is no error.
func RemoveCgroup(path string) error {
	dirs, err := cgroupDirs(path)
	if err != nil {
		return err
	}
	return removeDirs(dirs)
}

func removeDirs(dirs []string) error {
	var errs []error
	for _, d := range dirs {
		errs = append(errs, removeTree(d))
	}
	return errors.Join(errs...)
}

// removeTree removes a cgroup's directories, deepest first. The files in them
// are the kernel's and go with them.
func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
		return &os.PathError{Op: "rmdir", Path: dir, Err: err}
	}
	return nil
}

// CgroupFile reports whether some hierarchy has a file at the path of a cgroup.
func CgroupFile(path string) bool {
	dirs, err := cgroupDirs(path)
	return err == nil && slices.ContainsFunc(dirs, func(d string) bool {
		info, err := os.Stat(d)
		return err == nil && !info.IsDir()
	})
}

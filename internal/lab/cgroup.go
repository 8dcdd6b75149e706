package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const cgroupRoot = "/sys/fs/cgroup"

// cgroups are the lab's, in every hierarchy: v1, v2, or both side by side.
func (l *processes) cgroups() ([]string, error) {
	name := l.cgroup()
	tops := []string{filepath.Join(cgroupRoot, name)}
	deeper, err := filepath.Glob(filepath.Join(cgroupRoot, "*", name))
	if err != nil {
		return nil, fmt.Errorf("find cgroups: %w", err)
	}
	var out []string
	for _, top := range append(tops, deeper...) {
		err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				out = append(out, path)
			}
			return gone(err)
		})
		if err != nil {
			return nil, fmt.Errorf("find cgroups: %w", err)
		}
	}
	return out, nil
}

// gone turns the error about what is gone in the meantime into none.
func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

func cgroupMembers(dirs []string) ([]int, error) {
	var pids []int
	for _, dir := range dirs {
		b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if gone(err) != nil {
			return nil, fmt.Errorf("members of %s: %w", dir, err)
		}
		for f := range strings.FieldsSeq(string(b)) {
			if pid, err := strconv.Atoi(f); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids, nil
}

// removeCgroups removes what is left of the lab's cgroups. The kernel needs a moment to notice that
// one is empty.
func (l *processes) removeCgroups(ctx context.Context) error {
	return until(ctx, "cgroups are empty", func() (bool, error) {
		dirs, err := l.cgroups()
		if err != nil {
			return false, err
		}
		slices.Reverse(dirs) // those below first
		for _, dir := range dirs {
			if err := gone(os.Remove(dir)); err != nil {
				return false, busy(err)
			}
		}
		return true, nil
	})
}

func busy(err error) error {
	if errors.Is(err, unix.EBUSY) {
		return nil
	}
	return err
}

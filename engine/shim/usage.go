package shim

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/opencontainers/cgroups"
	v1 "github.com/opencontainers/cgroups/fs"
	v2 "github.com/opencontainers/cgroups/fs2"
	"golang.org/x/sys/unix"
)

// CgroupProcesses are the processes in a cgroup and below it; none of one that does not exist.
func CgroupProcesses(path string) ([]int, error) {
	dirs, err := cgroupDirs(path)
	if err != nil || len(dirs) == 0 {
		return nil, err
	}
	pids, err := cgroups.GetAllPids(dirs[0]) // they are the same in every hierarchy
	if err != nil && !left(err) {
		return nil, fmt.Errorf("list the processes of the cgroup %s: %w", path, err)
	}
	return pids, nil
}

// Usage is what the processes of a cgroup use.
type Usage struct {
	*cgroups.Stats
	OOMKills uint64
}

// usageControllers are the hierarchies, as they were before there was one of all, that tell what is used.
func usageControllers() []string { return []string{"cpu", "cpuacct", "memory", "pids", "blkio"} }

// meter reads what a cgroup uses.
type meter interface {
	Stats(*cgroups.StatsOptions) (*cgroups.Stats, error)
	OOMKillCount() (uint64, error)
}

// newMeter is that of a cgroup, and the directories that it reads; none where the cgroup does not exist.
func newMeter(path string) (m meter, dirs []string, err error) {
	config := &cgroups.Cgroup{Resources: &cgroups.Resources{}}
	if cgroups.IsCgroup2UnifiedMode() {
		dir := filepath.Join(cgroupMount, path)
		m, err = v2.NewManager(config, dir)
		return m, existing([]string{dir}), err
	}
	paths := map[string]string{}
	for _, name := range usageControllers() {
		dir := filepath.Join(cgroupMount, name, path)
		if len(existing([]string{dir})) > 0 {
			paths[name], dirs = dir, append(dirs, dir)
		}
	}
	m, err = v1.NewManager(config, paths)
	return m, dirs, err
}

// CgroupUsage reads what the processes of a cgroup use: nothing where it does not exist.
func CgroupUsage(path string) (Usage, error) {
	u := Usage{Stats: cgroups.NewStats()}
	m, dirs, err := newMeter(path)
	if err == nil && len(dirs) == 0 {
		return u, nil
	}
	if err == nil {
		u.Stats, err = m.Stats(&cgroups.StatsOptions{
			Controllers: cgroups.CPU | cgroups.Memory | cgroups.Pids | cgroups.IO})
	}
	if err == nil && len(u.MemoryStats.Stats) > 0 { // else no controller of memory counts it
		u.OOMKills, err = m.OOMKillCount()
	}
	if err == nil {
		return u, nil
	}
	if n := len(dirs); len(existing(dirs)) < n { // it ended meanwhile
		return Usage{Stats: cgroups.NewStats()}, nil
	}
	return Usage{}, fmt.Errorf("read what the cgroup %s uses: %w", path, err)
}

// left reports whether a file could not be read since its cgroup was removed meanwhile.
func left(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) }

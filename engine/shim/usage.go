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

// CgroupUsage reads what the processes of a cgroup use: nothing where it does not exist.
func CgroupUsage(path string) (Usage, error) {
	var m interface {
		Stats(*cgroups.StatsOptions) (*cgroups.Stats, error)
		OOMKillCount() (uint64, error)
	}
	config := &cgroups.Cgroup{Resources: &cgroups.Resources{}}
	dir := filepath.Join(cgroupMount, path)
	var err error
	if cgroups.IsCgroup2UnifiedMode() {
		if len(existing([]string{dir})) == 0 {
			return Usage{Stats: cgroups.NewStats()}, nil
		}
		m, err = v2.NewManager(config, dir)
	} else {
		paths := map[string]string{}
		for _, name := range usageControllers() {
			dir := filepath.Join(cgroupMount, name, path)
			if len(existing([]string{dir})) > 0 {
				paths[name] = dir
			}
		}
		m, err = v1.NewManager(config, paths)
	}
	if err != nil {
		return Usage{}, fmt.Errorf("read what the cgroup %s uses: %w", path, err)
	}
	u := Usage{}
	u.Stats, err = m.Stats(&cgroups.StatsOptions{
		Controllers: cgroups.CPU | cgroups.Memory | cgroups.Pids | cgroups.IO})
	if err == nil && len(u.MemoryStats.Stats) > 0 { // else no controller of memory counts it
		u.OOMKills, err = m.OOMKillCount()
	}
	if left(err) {
		if u.Stats == nil {
			u.Stats = cgroups.NewStats()
		}
		return u, nil
	}
	if err != nil {
		return Usage{}, fmt.Errorf("read what the cgroup %s uses: %w", path, err)
	}
	return u, nil
}

// left reports whether a file could not be read since its cgroup was removed meanwhile.
func left(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) }

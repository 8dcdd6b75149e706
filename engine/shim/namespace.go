package shim

import (
	"fmt"
	"os"
)

// startField is the place of the start time in what stat returns: field 22 of proc_pid_stat(5).
const startField = 22 - 3

// OpenNamespaces opens namespaces of a container's first process, by their names in /proc. The descriptors are of that
// process and of no later one with its number: it is in the container's cgroup, and has started at the same time before
// and after.
func OpenNamespaces(pid int, cgroup string, kinds ...string) ([]*os.File, error) {
	began, err := startTime(pid)
	if err == nil {
		err = inCgroup(pid, cgroup)
	}
	if err != nil {
		return nil, fmt.Errorf("find the container's first process: %w", err)
	}
	var out []*os.File
	for _, kind := range kinds {
		f, openErr := os.Open(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
		if openErr != nil {
			err = openErr
			break
		}
		out = append(out, f)
	}
	if again, statErr := startTime(pid); err == nil && (statErr != nil || again != began) {
		err = fmt.Errorf("process %d has just ended", pid)
	}
	if err != nil {
		for _, f := range out {
			f.Close()
		}
		return nil, fmt.Errorf("open the container's namespaces: %w", err)
	}
	return out, nil
}

func startTime(pid int) (string, error) {
	fields, err := stat(pid)
	if err != nil {
		return "", err
	}
	if len(fields) <= startField {
		return "", fmt.Errorf("/proc/%d/stat has no start time", pid)
	}
	return string(fields[startField]), nil
}

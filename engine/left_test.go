package engine_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/vethloom/vethloom/internal/await"
)

func cgroupsOf(path string) []string {
	a, _ := filepath.Glob("/sys/fs/cgroup" + path)
	b, _ := filepath.Glob("/sys/fs/cgroup/*" + path)
	return append(a, b...)
}

// shimsOf lists supervisors that have a file open below dir.
// It gives one that is about to end a moment.
func shimsOf(dir string) []string {
	var left []string
	await.Holds(func() bool {
		left = openedBelow(dir)
		return len(left) == 0
	})
	return left
}

func openedBelow(dir string) []string {
	var out []string
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, l := range links {
		if strings.HasPrefix(l, fmt.Sprintf("/proc/%d/", os.Getpid())) {
			continue
		}
		if target, err := os.Readlink(l); err == nil && strings.HasPrefix(target, dir) {
			out = append(out, l+" → "+target)
		}
	}
	return out
}

package box

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
)

// OOM reports whether the kernel killed a process of the container for lack of
// memory. Both hierarchies count such kills in a "key value" file.
func (b *Box) OOM() bool {
	state, err := b.c.State()
	if err != nil {
		return false
	}
	if dir, ok := state.CgroupPaths["memory"]; ok { // v1
		return counter(filepath.Join(dir, "memory.oom_control"), "oom_kill") > 0
	}
	return counter(filepath.Join(state.CgroupPaths[""], "memory.events"), "oom_kill") > 0
}

func counter(path, key string) int {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	for line := range bytes.Lines(text) {
		if name, value, _ := bytes.Cut(bytes.TrimSpace(line), []byte(" ")); string(name) == key {
			n, err := strconv.Atoi(string(value))
			if err == nil {
				return n
			}
		}
	}
	return 0
}

package shim

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// OOMScoreAdj is this process's own; see proc_pid_oom_score_adj(5).
func OOMScoreAdj() (int, error) {
	text, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return 0, fmt.Errorf("learn how likely this process is killed for memory: %w", err)
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

package kerntest

import "os"

// FastPath is what netd is told with --fastpath in tests: auto, unless the variable VETHLOOM_FASTPATH says otherwise.
// The tests of what reaches whom run with both.
func FastPath() string {
	if p := os.Getenv("VETHLOOM_FASTPATH"); p != "" {
		return p
	}
	return "auto"
}

package engine

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// parseSignal reads a signal's name, with or without SIG in any case, or its number.
func parseSignal(s string) (int, error) {
	if n, err := strconv.Atoi(s); err == nil && n >= 1 && n <= 64 {
		return n, nil
	}
	name := "SIG" + strings.TrimPrefix(strings.ToUpper(s), "SIG")
	if n := unix.SignalNum(name); n != 0 {
		return int(n), nil
	}
	if base, offset, ok := strings.Cut(name, "+"); ok && base == "SIGRTMIN" {
		const first = 34 // SIGRTMIN as libc counts: the two below are its own
		if n, err := strconv.Atoi(offset); err == nil && n >= 0 && first+n <= 64 {
			return first + n, nil
		}
	}
	return 0, invalid("signal", s, "no such signal", "give a name such as TERM, or a number from 1 to 64")
}

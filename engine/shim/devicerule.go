package shim

import (
	"fmt"
	"strconv"
	"strings"
)

// DeviceRule says which devices of a kind a container may use. -1 stands for every number.
type DeviceRule struct {
	Type         rune // c, b, or a for both
	Major, Minor int64
	Permissions  string // of r, w, m
}

// ParseDeviceRule reads "c 10:200 rwm", as cgroups v1 have it.
func ParseDeviceRule(text string) (DeviceRule, error) {
	bad := fmt.Errorf("%q is not KIND MAJOR:MINOR PERMISSIONS, as 'c 10:200 rwm' or 'b *:* r'", text)
	fields := strings.Fields(text)
	if len(fields) != 3 || len(fields[0]) != 1 || !strings.Contains("abc", fields[0]) || !DevicePermissions(fields[2]) {
		return DeviceRule{}, bad
	}
	major, minor, ok := strings.Cut(fields[1], ":")
	r := DeviceRule{Type: rune(fields[0][0]), Permissions: fields[2]}
	if !ok || !deviceNumber(major, &r.Major) || !deviceNumber(minor, &r.Minor) {
		return DeviceRule{}, bad
	}
	return r, nil
}

func deviceNumber(text string, to *int64) bool {
	if text == "*" {
		*to = -1
		return true
	}
	n, err := strconv.ParseUint(text, 10, 32)
	*to = int64(n)
	return err == nil
}

// DevicePermissions reports whether a text is some of r, w and m, each once at the most.
func DevicePermissions(text string) bool {
	for _, p := range text {
		if !strings.ContainsRune("rwm", p) || strings.Count(text, string(p)) > 1 {
			return false
		}
	}
	return text != ""
}

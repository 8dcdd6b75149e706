package docker

import (
	"bufio"
	"bytes"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// host is what there is to say about this one, and does not change while netd runs.
type host struct {
	name, machine   string
	system, release string // of its distribution
	cgroups         string // the version of them that it has
	memory          int64  // bytes
}

// readHost leaves empty what cannot be found out.
func readHost() host {
	h := host{system: "Linux", cgroups: "1"}
	h.name, _ = os.Hostname()
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		h.machine = unix.ByteSliceToString(u.Machine[:])
	}
	var s unix.Sysinfo_t
	if unix.Sysinfo(&s) == nil {
		h.memory = int64(s.Totalram) * int64(s.Unit)
	}
	var fs unix.Statfs_t
	if unix.Statfs("/sys/fs/cgroup", &fs) == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC {
		h.cgroups = "2"
	}
	text, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return h
	}
	for in := bufio.NewScanner(bytes.NewReader(text)); in.Scan(); {
		key, value, _ := strings.Cut(in.Text(), "=")
		if plain, err := strconv.Unquote(value); err == nil {
			value = plain
		}
		switch key {
		case "PRETTY_NAME":
			h.system = value
		case "VERSION_ID":
			h.release = value
		}
	}
	return h
}

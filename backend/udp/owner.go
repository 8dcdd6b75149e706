package udp

import (
	"bufio"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrPortTaken is wrapped by the error of an Open whose UDP port another socket holds.
var ErrPortTaken = errors.New("the UDP port is taken")

func bindError(local netip.AddrPort, errno error) error {
	switch {
	case errors.Is(errno, unix.EADDRINUSE):
		who := "another process"
		if name := portOwner(local.Port()); name != "" {
			who = name
		}
		return fmt.Errorf("bind %s: %w: UDP port %d is held by %s: stop it, or give the network another port", local, ErrPortTaken, local.Port(), who)
	case errors.Is(errno, unix.EADDRNOTAVAIL):
		return fmt.Errorf("bind %s: %w: %s is no address of this host", local, errno, local.Addr())
	}
	return fmt.Errorf("bind %s: %w", local, errno)
}

// portOwner names a process of this network namespace that holds a UDP port, or returns "".
func portOwner(port uint16) string {
	for _, table := range []string{"udp", "udp6"} {
		inodes := portInodes("/proc/thread-self/net/"+table, port)
		if len(inodes) == 0 {
			continue
		}
		if name := inodeOwner(inodes); name != "" {
			return name
		}
	}
	return ""
}

// portInodes reads proc_net_udp(5) and returns the sockets of a port as /proc/*/fd names them.
func portInodes(path string, port uint16) map[string]bool {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	suffix := fmt.Sprintf(":%04X", port)
	inodes := make(map[string]bool)
	for lines := bufio.NewScanner(f); lines.Scan(); {
		cols := strings.Fields(lines.Text())
		if len(cols) > 9 && strings.HasSuffix(cols[1], suffix) {
			inodes["socket:["+cols[9]+"]"] = true
		}
	}
	return inodes
}

func inodeOwner(inodes map[string]bool) string {
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return ""
	}
	for _, p := range procs {
		if _, err := strconv.Atoi(p.Name()); err != nil {
			continue
		}
		fds, err := os.ReadDir(filepath.Join("/proc", p.Name(), "fd"))
		if err != nil {
			continue // gone, or not ours to read
		}
		for _, fd := range fds {
			to, err := os.Readlink(filepath.Join("/proc", p.Name(), "fd", fd.Name()))
			if err != nil || !inodes[to] {
				continue
			}
			name, err := os.ReadFile(filepath.Join("/proc", p.Name(), "comm"))
			if err != nil {
				return ""
			}
			return fmt.Sprintf("%s (process %s)", strings.TrimSpace(string(name)), p.Name())
		}
	}
	return ""
}

package dns

import (
	"bufio"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// resolvFile knows the host's servers, as resolv.conf(5) names them.
type resolvFile struct {
	paths []string
	mu    sync.Mutex
	next  time.Time // of the next look
	seen  []stamp
	found []netip.AddrPort
}

// stamp tells one state of a file from another, also where it is a link that leads elsewhere now.
type stamp struct {
	dev, ino uint64
	size     int64
	changed  time.Time
}

// resolvLook is how often the files are looked at, at most: when somebody asks.
const resolvLook = time.Second

// maxServers bounds how many servers are asked one after the other.
const maxServers = 8

func newResolvFile(paths []string) *resolvFile { return &resolvFile{paths: paths} }

// servers are those that the first file names that names any.
func (r *resolvFile) servers() []netip.AddrPort {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if now.Before(r.next) {
		return r.found
	}
	r.next = now.Add(resolvLook)
	seen := make([]stamp, len(r.paths))
	for i, path := range r.paths {
		seen[i] = stampOf(path)
	}
	if r.seen != nil && slices.Equal(seen, r.seen) {
		return r.found
	}
	r.seen, r.found = seen, nil
	for _, path := range r.paths {
		if r.found = readServers(path); len(r.found) > 0 {
			break
		}
	}
	return r.found
}

func stampOf(path string) stamp {
	st, err := os.Stat(path)
	if err != nil {
		return stamp{}
	}
	s := stamp{size: st.Size(), changed: st.ModTime()}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		s.dev, s.ino = uint64(sys.Dev), sys.Ino
	}
	return s
}

// readServers reads the servers of a file. A zone tells a link-local address's link.
func readServers(path string) []netip.AddrPort {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	var out []netip.AddrPort
	lines := bufio.NewScanner(f)
	for lines.Scan() && len(out) < maxServers {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(fields[1]); err == nil {
			if p := netip.AddrPortFrom(a.Unmap(), dnsPort); !slices.Contains(out, p) {
				out = append(out, p)
			}
		}
	}
	return out
}

// health knows which servers have not answered lately: they are asked last.
type health struct {
	mu  sync.Mutex
	bad map[netip.AddrPort]illness
}

type illness struct {
	times int
	until time.Time
}

// How long a server that did not answer comes last: longer with each time.
const (
	firstBad = time.Second
	longBad  = 30 * time.Second
	maxBad   = 1024
)

func newHealth() *health { return &health{bad: map[netip.AddrPort]illness{}} }

// order puts those that answer first, and keeps the order of the list otherwise.
func (h *health) order(servers []netip.AddrPort) []netip.AddrPort {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	var good, bad []netip.AddrPort
	for _, s := range servers {
		if h.bad[s].until.After(now) {
			bad = append(bad, s)
		} else {
			good = append(good, s)
		}
	}
	return append(good, bad...)
}

func (h *health) note(s netip.AddrPort, answered bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if answered {
		delete(h.bad, s)
		return
	}
	if len(h.bad) >= maxBad {
		clear(h.bad)
	}
	b := h.bad[s]
	b.until = time.Now().Add(min(firstBad<<min(b.times, 8), longBad))
	b.times++
	h.bad[s] = b
}

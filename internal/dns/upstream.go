package dns

import (
	"bufio"
	"io"
	"net/netip"
	"os"
	"slices"
	"strconv"
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
	times int // that other servers were found

	changed func(old string) // is told the place of answers that are not asked for any more
}

// stamp tells one state of a file from another, also where it is a link that leads elsewhere now.
type stamp struct {
	dev, ino uint64
	size     int64
	changed  time.Time
}

// resolvLook is how often the files are looked at, at most: when somebody asks.
const resolvLook = time.Second

// maxResolv bounds how much of a file is read.
const maxResolv = 64 << 10

// maxServers bounds how many servers are asked one after the other.
const maxServers = 8

func newResolvFile(paths []string) *resolvFile { return &resolvFile{paths: paths} }

// servers are those that the first file names that names any, and the place of their answers: with other servers it is
// another one.
func (r *resolvFile) servers() ([]netip.AddrPort, string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := time.Now(); !now.Before(r.next) {
		r.next = now.Add(resolvLook)
		r.look()
	}
	return r.found, r.place()
}

func (r *resolvFile) place() string { return sharedPlace + strconv.Itoa(r.times) }

// look reads the files where one is another than before.
func (r *resolvFile) look() {
	seen := make([]stamp, len(r.paths))
	for i, path := range r.paths {
		seen[i] = stampOf(path)
	}
	if r.seen != nil && slices.Equal(seen, r.seen) {
		return
	}
	r.seen = seen
	var found []netip.AddrPort
	for _, path := range r.paths {
		if found = readServers(path); len(found) > 0 {
			break
		}
	}
	if slices.Equal(found, r.found) {
		return
	}
	if r.changed != nil {
		r.changed(r.place())
	}
	r.found = found
	r.times++
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
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a FIFO holds nobody up
	if err != nil {
		return nil
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return nil
	}
	var out []netip.AddrPort
	lines := bufio.NewScanner(io.LimitReader(f, maxResolv))
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

// health knows which servers have not answered lately: they are asked last. One that does not answer in one place may
// do so in another.
type health struct {
	mu  sync.Mutex
	bad map[patient]illness
}

type patient struct {
	where string
	at    netip.AddrPort
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

func newHealth() *health { return &health{bad: map[patient]illness{}} }

// order puts those that answer first, and keeps the order of the list otherwise.
func (h *health) order(where string, servers []netip.AddrPort) []netip.AddrPort {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	var good, bad []netip.AddrPort
	for _, s := range servers {
		if h.bad[patient{where, s}].until.After(now) {
			bad = append(bad, s)
		} else {
			good = append(good, s)
		}
	}
	return append(good, bad...)
}

func (h *health) note(s patient, answered bool) {
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

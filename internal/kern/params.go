package kern

import (
	"maps"
	"strings"
	"time"

	"github.com/vethloom/vethloom/plan"
)

// The kernel tells nobody of sysctls, so they are looked at: those of the host each time, and so many of links, chosen
// at random, that the time it takes does not grow with the number of networks.
const (
	sysctlInterval = time.Second
	sysctlSample   = 100
)

// deviates reports whether a sysctl of the fabric's namespace has got another value than what was applied, since it
// was last asked. One that cannot be set is reported once.
func (w *watcher) deviates() bool {
	if !w.all {
		return false
	}
	want := w.k.shadow.sample(sysctlSample)
	if len(want) == 0 {
		return false
	}
	have, err := w.k.readSysctls(want)
	if err != nil || w.k.shadow.busy() {
		return false // a full pass will say why
	}
	values := make(map[string]string, len(want))
	for _, s := range want {
		values[s.Path] = strings.TrimSpace(s.Value)
	}
	found := false
	for _, s := range have {
		if s.Value == values[s.Path] {
			delete(w.deviant, s.Path)
		} else if w.deviant[s.Path] != s.Value {
			w.deviant[s.Path] = s.Value
			found = true
		}
	}
	return found
}

// sample are the sysctls that were applied: all of the host's, and at most n of links'. None while more are applied.
func (s *shadow) sample(n int) []plan.Sysctl {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active > 0 {
		return nil
	}
	var out []plan.Sysctl
	for v := range maps.Values(s.sysctls) { // in random order
		if v.Link() == "" {
			out = append(out, v)
		} else if n > 0 {
			out = append(out, v)
			n--
		}
	}
	return out
}

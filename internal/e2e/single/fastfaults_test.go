package single

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/internal/kern/fastpath"
	"github.com/vethloom/vethloom/internal/kern/kerntest"
	"github.com/vethloom/vethloom/plan"
)

// fastState is what there is of the fast path.
func (n *node) fastState() string {
	n.t.Helper()
	var all []string
	n.FastPath(n.t, "", func(p *fastpath.Path, links map[uint32]string) error {
		programs, err := p.Programs(links)
		endpoints, err2 := p.Endpoints(links)
		ports, err3 := p.Ports()
		counters, err4 := p.Counters()
		for o := range (plan.State{Fast: plan.Fast{Programs: programs, Endpoints: endpoints, Ports: ports,
			Counters: counters}}).Objects() {
			all = append(all, fmt.Sprintf("%+v\n", o))
		}
		return errors.Join(err, err2, err3, err4)
	})
	slices.Sort(all)
	return strings.Join(all, "")
}

// TestStrangersChangeTheFastPath has somebody take programs off links, and delete, change and add entries. `net diff`
// tells, and has netd look at all; else it looks once a minute.
func TestStrangersChangeTheFastPath(t *testing.T) {
	n := withImage(t, "--fastpath", "auto")
	n.ok("network", "create", "--ipv6", "web")
	n.ok("run", "-d", "--name", "a", "--network", "web", "bb", "sleep", "1000")
	n.ok("run", "-d", "--name", "b", "--network", "web", "-p", "8080:80", "bb", "sleep", "1000")
	var before string
	n.eventually("two endpoints have the fast path", func() bool {
		before = n.fastState()
		return strings.Count(before, "fast-program") == 2 && n.net("diff").code == 0
	})
	type look struct {
		*fastpath.Path
		links     map[uint32]string
		endpoints []plan.FastEndpoint
	}
	resolve := func(l look) fastpath.Resolve {
		return func(name string) (uint32, error) {
			for i, n := range l.links {
				if n == name {
					return i, nil
				}
			}
			return 0, errors.New("no such link")
		}
	}
	for _, c := range []struct {
		name   string
		change func(look) error
	}{
		{"programs taken off", func(l look) (err error) {
			for i := range l.links {
				err = errors.Join(err, l.Detach(i))
			}
			return err
		}},
		{"endpoints deleted", func(l look) (err error) {
			for _, e := range l.endpoints {
				err = errors.Join(err, l.DeleteEndpoint(e))
			}
			return err
		}},
		{"an endpoint changed", func(l look) error {
			e := l.endpoints[0]
			e.MAC[5]++
			e.Publishes = !e.Publishes
			return l.PutEndpoint(e, resolve(l))
		}},
		{"an endpoint added", func(l look) error {
			e := l.endpoints[0]
			e.Addr = e.Addr.Next().Next().Next().Next()
			return l.PutEndpoint(e, resolve(l))
		}},
		{"ports and counters deleted", func(l look) error {
			ports, err := l.Ports()
			for _, p := range ports {
				err = errors.Join(err, l.DeletePort(p))
			}
			return errors.Join(err, l.DeleteCounter(plan.FastCounter{Network: l.endpoints[0].Network}))
		}},
	} {
		n.FastPath(t, "", func(p *fastpath.Path, links map[uint32]string) error {
			endpoints, err := p.Endpoints(links)
			return errors.Join(err, c.change(look{p, maps.Clone(links), endpoints}))
		})
		if r := n.net("diff"); r.code != 1 || !strings.Contains(r.out, "fast-") {
			t.Errorf("%s: net diff: exit code %d: %s", c.name, r.code, r.out)
		}
		n.eventually(c.name+" is repaired", func() bool { return n.fastState() == before })
		matches(t, c.name, n.ok("exec", "a", "ping", "-c", "2", "-i", "0.05", "b"), "2 packets received")
	}
}

// TestFullTablesAreNoFaultOfContainers has no room in the fast path's tables: networks and containers come up as ever,
// and take the fast path once there is room.
func TestFullTablesAreNoFaultOfContainers(t *testing.T) {
	n := withImageOn(t, func() error { return kerntest.DenyBPF(unix.E2BIG, unix.BPF_MAP_UPDATE_ELEM) }, "--fastpath",
		"auto")
	n.ok("network", "create", "--ipv6", "web")
	n.ok("run", "-d", "--name", "a", "--network", "web", "bb", "sleep", "1000")
	n.ok("run", "-d", "--name", "b", "--network", "web", "-p", "8080:80", "bb", "sh", "-c",
		"echo hello >/index.html && exec httpd -f -p 80")
	is(t, "on full tables", n.ok("exec", "a", "wget", "-qO-", "http://b/"), "hello")
	is(t, "published", strings.TrimSpace(n.Sh("curl -s http://127.0.0.1:8080/")), "hello")
	const full = `the fast path's table \w+ is full: what does not fit takes the slow path`
	matches(t, "the log", n.log.String(), `create fast-counter .*`+full)
	matches(t, "status", n.ok("status"), `fast/.*: .*`+full)
	is(t, "what there is", n.fastState(), "")
	n.kernel = nil
	n.restart()
	n.eventually("with room they have the fast path", func() bool {
		return strings.Count(n.fastState(), "fast-program") == 2 && n.net("diff").code == 0
	})
	n.ok("exec", "a", "ping", "-c", "2", "-i", "0.05", "b")
	matches(t, "status with room", n.ok("status"), `web: [1-9][0-9]* packets \(.*\) took the fast path`)
}

// TestAStrangerFillsATable as who may call bpf(2) can: what is nobody's goes for what is somebody's.
func TestAStrangerFillsATable(t *testing.T) {
	const counters = 1 << 12 // as bpf/fastpath.c has it
	n := withImage(t, "--fastpath", "auto")
	n.ok("network", "create", "web")
	n.ok("run", "-d", "--name", "a", "--network", "web", "bb", "sleep", "1000")
	n.eventually("a has the fast path", func() bool { return strings.Contains(n.fastState(), "fast-program") })
	full := false
	n.FastPath(t, "", func(p *fastpath.Path, _ map[uint32]string) (err error) {
		for i := 0; i < counters && err == nil; i++ {
			// The kernel takes them from a small stock, which it fills up beside.
			await.True(t, "the kernel has memory for another counter", func() bool {
				err = p.PutCounter(plan.FastCounter{Network: plan.FastNetwork(fmt.Sprintf("%016x", i+1))})
				return !errors.Is(err, unix.ENOMEM)
			})
		}
		if full = err != nil && strings.Contains(err.Error(), "table traffic is full"); full {
			return nil
		}
		return err
	})
	if !full {
		t.Error("the table has still room")
	}
	n.ok("network", "create", "two")
	n.ok("run", "-d", "--name", "b", "--network", "two", "bb", "sleep", "1000")
	n.ok("run", "-d", "--name", "c", "--network", "two", "bb", "sleep", "1000")
	n.eventually("all have the fast path", func() bool {
		s := n.fastState()
		return strings.Count(s, "fast-program") == 3 && strings.Count(s, "fast-counter") < 10
	})
	n.ok("exec", "b", "ping", "-c", "2", "-i", "0.05", "c")
	matches(t, "status", n.ok("status"), `two: [1-9][0-9]* packets \(.*\) took the fast path`)
}

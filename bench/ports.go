package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	apiv1 "github.com/vethloom/vethloom/api/v1"
)

const (
	portsHost    = 8080 // on the host
	portsInside  = 80   // in the container
	portsRound   = 4000 // connections
	portsClients = 8    // at a time
	// beside which one more comes and goes; each is held by two open files, of which many hosts give 20,000
	portsPublished = 9000
)

// published is a container whose port a host publishes.
type published struct {
	name      string
	host      string // path of the host's namespace
	addr      string // of the host
	client    string // path of the namespace of a client outside
	container string // path of the namespace of the container
}

// portsGroup compares connections by a published port, and says what it costs to publish one more.
func portsGroup(ctx context.Context, m *machine) ([]group, error) {
	var all []published
	f, err := m.startFabric(ctx)
	if err != nil {
		return nil, err
	}
	if f != nil {
		ours, err := f.publish(ctx, m)
		if err != nil {
			return nil, err
		}
		all = append(all, ours)
	}
	// With and without a process that copies bytes from the loopback address.
	for i, proxy := range []string{"--userland-proxy=true", "--userland-proxy=false"} {
		theirs, err := dockerPublishes(ctx, m, i+1, proxy)
		if err != nil {
			return nil, err
		}
		all = append(all, theirs...)
	}
	groups, err := connections(m, all)
	if err != nil || f == nil {
		return groups, err
	}
	changes, err := f.changes(ctx, m)
	return append(groups, changes), err
}

// publish runs a container with a port on the network of all.
func (f *fabric) publish(ctx context.Context, m *machine) (published, error) {
	p := published{name: "vethloom", host: "/proc/self/ns/net"}
	if _, err := f.cli(ctx, "run", "-d", "--name", "web", "--network", fabricNetwork, "-p",
		fmt.Sprintf("%d:%d", portsHost, portsInside), fabricImage, "sleep", "100000"); err != nil {
		return p, err
	}
	m.defers(func() {
		if _, err := f.cli(context.WithoutCancel(ctx), "rm", "-f", "web"); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
		}
	})
	pid, err := f.cli(ctx, "inspect", "-f", "{{.State.Pid}}", "web")
	if err != nil {
		return p, err
	}
	p.container = "/proc/" + strings.TrimSpace(string(pid)) + "/ns/net"
	return p, p.outside(ctx, 0)
}

// dockerPublishes runs the same with a dockerd of its own; none without one on this machine.
func dockerPublishes(ctx context.Context, m *machine, i int, proxy string) ([]published, error) {
	d, err := m.dockerd(ctx, fmt.Sprint("docker-", i), apart, proxy)
	if err != nil || d == nil {
		return nil, err
	}
	p := published{name: "docker " + proxy, host: fmt.Sprintf("/proc/%d/ns/net", d.pid)}
	if err := ips(ctx, p.host, "link set lo up"); err != nil {
		return nil, err
	}
	if _, err := d.cli(ctx, "run", "-d", "--name", "web", "-p", fmt.Sprintf("%d:%d", portsHost, portsInside),
		dockerImage, "sleep", "100000"); err != nil {
		return nil, err
	}
	m.defers(func() {
		if _, err := d.cli(context.WithoutCancel(ctx), "rm", "-f", "web"); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
		}
	})
	if p.container, err = d.cli(ctx, "inspect", "-f", "/proc/{{.State.Pid}}/ns/net", "web"); err != nil {
		return nil, err
	}
	return []published{p}, p.outside(ctx, i)
}

// outside makes a client that is a neighbour of the host.
func (p *published) outside(ctx context.Context, n int) error {
	name := fmt.Sprint("out", n)
	p.client, p.addr = filepath.Join("/run/netns", name), fmt.Sprintf("198.51.100.%d", 1+n*4)
	if err := os.MkdirAll("/run/netns", 0o755); err != nil {
		return err
	}
	if err := newNetns(p.client); err != nil {
		return err
	}
	client := fmt.Sprintf("198.51.100.%d", 2+n*4)
	return errors.Join(
		ips(ctx, p.host, fmt.Sprintf("link add %s up type veth peer name eth0 netns %s", name, p.client),
			fmt.Sprintf("addr add %s/30 dev %s", p.addr, name)),
		ips(ctx, p.client, "link set lo up", fmt.Sprintf("addr add %s/30 dev eth0", client), "link set eth0 up"))
}

// connections measures how many connections a second each host leads to its container.
func connections(m *machine, all []published) ([]group, error) {
	out := group{Title: "Connections by a published port, from outside", Unit: "1000/s", More: true, Notes: []string{
		fmt.Sprintf("%d at a time; each is made, answered with a byte and reset", portsClients)}}
	loop := group{Title: "The same, from the host by 127.0.0.1", Unit: "1000/s", More: true}
	type measure struct {
		s        *series
		from, to string
	}
	var each []measure
	for _, p := range all {
		stop, err := answer(p.container)
		if err != nil {
			return nil, err
		}
		m.defers(stop)
		each = append(each, measure{out.series(p.name), p.client, p.addr},
			measure{loop.series(p.name), p.host, "127.0.0.1"})
	}
	for i := 2; i < len(each) && !m.cfg.baselines; i++ {
		each[i].s.Ours = each[i%2].s
	}
	for round := range m.cfg.tcpRounds + 1 {
		for i := range each {
			e := each[(i+round)%len(each)]
			rate, err := connectAll(e.from, net.JoinHostPort(e.to, strconv.Itoa(portsHost)), portsRound)
			if err != nil {
				return nil, fmt.Errorf("%s, to %s: %w", e.s.Name, e.to, err)
			}
			if round > 0 { // the first warms up
				e.s.Samples = append(e.s.Samples, rate/1000)
			}
		}
	}
	return []group{out, loop}, nil
}

// answer accepts connections in a namespace until it is stopped. It sends each a byte, and waits for its end.
func answer(netns string) (stop func(), err error) {
	var l net.Listener
	done := make(chan error)
	go func() { // its thread ends with it
		err := enter(netns)
		if err == nil {
			l, err = net.Listen("tcp", fmt.Sprint(":", portsInside))
		}
		done <- err
	}()
	if err := <-done; err != nil {
		return nil, err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				if _, err := c.Write([]byte{1}); err == nil {
					_, _ = io.Copy(io.Discard, c) // who connected measures
				}
			}()
		}
	}()
	return func() { l.Close() }, nil
}

// connectAll makes connections from a namespace, and returns how many a second there were.
func connectAll(from, to string, count int64) (float64, error) {
	var next atomic.Int64
	var wg sync.WaitGroup
	errs := make(chan error, portsClients)
	began := time.Now()
	for range portsClients {
		wg.Go(func() {
			err := enter(from)
			for err == nil && next.Add(1) <= count {
				err = connectOnce(to)
			}
			errs <- err
		})
	}
	wg.Wait()
	took := time.Since(began)
	close(errs)
	var all error
	for err := range errs {
		all = errors.Join(all, err)
	}
	return float64(count) / took.Seconds(), all
}

func connectOnce(to string) error {
	c, err := net.DialTimeout("tcp", to, 10*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	var b [1]byte
	if _, err := c.Read(b[:]); err != nil {
		return err
	}
	// A reset leaves nothing behind: else ports run out.
	return c.(*net.TCPConn).SetLinger(0)
}

// changes measures one port more, and less, of a container that runs, with few and with many others.
func (f *fabric) changes(ctx context.Context, m *machine) (group, error) {
	g := group{Title: "A port of a running container", Unit: "ms", Notes: []string{"calls of the API"}}
	beside := []string{"", fmt.Sprintf(", beside %d others", portsPublished)}
	for i, others := range beside {
		if i > 0 {
			if err := f.many(ctx, m); err != nil {
				return g, err
			}
		}
		add, remove := g.series("published"+others), g.series("published no more"+others)
		one := []*apiv1.PortMapping{{Proto: "tcp", HostPort: 9000, ContainerPort: 90, Count: 1}}
		for range m.cfg.rounds {
			for _, c := range []struct {
				s *series
				r *apiv1.ChangePortsRequest
			}{{add, &apiv1.ChangePortsRequest{Container: "web", Add: one}},
				{remove, &apiv1.ChangePortsRequest{Container: "web", Remove: one}}} {
				took, err := timed(func() error { _, err := f.client.Containers.ChangePorts(ctx, c.r); return err })
				if err != nil {
					return g, err
				}
				c.s.add(took)
			}
		}
	}
	return g, nil
}

// many publishes many single ports of another container.
func (f *fabric) many(ctx context.Context, m *machine) error {
	span := fmt.Sprintf("20000-%d:30000-%d", 20000+portsPublished-1, 30000+portsPublished-1) // other numbers: no range
	if _, err := f.cli(ctx, "run", "-d", "--name", "many", "--network", fabricNetwork, "-p", span, fabricImage, "sleep",
		"100000"); err != nil {
		return err
	}
	m.defers(func() {
		if _, err := f.cli(context.WithoutCancel(ctx), "rm", "-f", "many"); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
		}
	})
	return nil
}

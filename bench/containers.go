package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	crowd  = 100 // containers that are started at once
	listed = 500 // containers that are listed
	// logSize is how much a container writes into its log, in MB.
	logSize = 200
)

// manager is a daemon that runs containers, and a command line that leads there.
type manager struct {
	name  string
	cli   []string
	image string
	pid   int
	shim  string // what its supervisors are called
}

func (c manager) do(ctx context.Context, args ...string) (string, error) {
	out, err := command(ctx, c.cli[0], append(c.cli[1:len(c.cli):len(c.cli)], args...)...)
	return strings.TrimSpace(string(out)), err
}

// managers are ours by either command line, and Docker.
func managers(ctx context.Context, m *machine) ([]manager, error) {
	f, err := m.startFabric(ctx)
	if err != nil {
		return nil, err
	}
	d, err := m.startDocker(ctx)
	if err != nil {
		return nil, err
	}
	var all []manager
	if f != nil {
		all = append(all, manager{"net", []string{f.net, "--host", f.host}, fabricImage, f.pid, "net-shim"})
	}
	if f != nil && d != nil {
		socket := "unix://" + filepath.Join(filepath.Dir(strings.TrimPrefix(f.host, "unix://")), "docker.sock")
		all = append(all, manager{"docker, by netd's socket", []string{"docker", "-H", socket}, fabricImage, f.pid,
			"net-shim"})
	}
	if d != nil {
		all = append(all, manager{"docker, by dockerd's", []string{"docker", "-H", d.host}, dockerImage, d.pid,
			"containerd-shim"})
	}
	return all, nil
}

// containersGroup compares what many containers cost, and the docker command at either daemon.
func containersGroup(ctx context.Context, m *machine) ([]group, error) {
	all, err := managers(ctx, m)
	if err != nil {
		return nil, err
	}
	run, err := runEach(ctx, m, all)
	if err != nil {
		return nil, err
	}
	many, held, err := manyAtOnce(ctx, all)
	if err != nil {
		return nil, err
	}
	ps, err := listMany(ctx, m, all)
	if err != nil {
		return nil, err
	}
	logs, err := writeLogs(ctx, all)
	return []group{run, many, held, ps, logs}, err
}

// compared has a series for each, which others are compared with the first.
func compared(g *group, all []manager) {
	for i, c := range all {
		s := g.series(c.name)
		if i > 0 {
			s.Ours = g.Series[0]
		}
	}
}

func runEach(ctx context.Context, m *machine, all []manager) (group, error) {
	g := group{Title: "run --rm IMAGE true, by each command line", Unit: "ms"}
	compared(&g, all)
	for round := range m.cfg.rounds + 1 {
		for i := range all {
			i = (i + round) % len(all)
			took, err := timed(func() error {
				_, err := all[i].do(ctx, "run", "--rm", all[i].image, "true")
				return err
			})
			if err != nil {
				return g, err
			}
			g.Series[i].add(took)
			if err := rest(ctx); err != nil {
				return g, err
			}
		}
	}
	return g, nil
}

// manyAtOnce starts many containers, and looks what they take of memory besides their own.
func manyAtOnce(ctx context.Context, all []manager) (many, held group, err error) {
	many = group{Title: fmt.Sprintf("run -d of %d containers at once", crowd), Unit: "ms"}
	held = group{Title: fmt.Sprintf("Resident memory beside %d containers", crowd), Unit: "MB", Cost: true}
	compared(&many, all)
	for i, c := range all {
		took, err := timed(func() error { return c.each(ctx, "run", "-d", "--name") })
		if err != nil {
			return many, held, err
		}
		many.Series[i].Samples = []float64{float64(took.Milliseconds())}
		mb, err := resident(c.pid)
		if err != nil {
			return many, held, err
		}
		held.series("the daemon: " + c.name).Samples = []float64{mb}
		supervisors := held.series("one supervisor: " + c.name)
		supervisors.Samples, err = residents(c.shim)
		if err := errors.Join(err, c.remove(ctx)); err != nil {
			return many, held, err
		}
	}
	return many, held, nil
}

// residents is the memory of every process of a name, in MB.
func residents(name string) (out []float64, err error) {
	all, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		return nil, err
	}
	for _, comm := range all {
		text, err := os.ReadFile(comm)
		if err != nil || !strings.HasPrefix(string(text), name) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(comm)))
		if err != nil {
			continue
		}
		if mb, err := resident(pid); err == nil {
			out = append(out, mb)
		}
	}
	return out, nil
}

// each calls a command with a name of its own for each container of the crowd, all at once.
func (c manager) each(ctx context.Context, command ...string) error {
	var g errgroup.Group
	for i := range crowd {
		g.Go(func() error {
			args := append(append([]string{}, command...), fmt.Sprintf("crowd-%d", i), c.image, "sleep", "1000")
			_, err := c.do(ctx, args...)
			return err
		})
	}
	return g.Wait()
}

// remove takes every container away.
func (c manager) remove(ctx context.Context) error {
	out, err := c.do(ctx, "ps", "-aq")
	if err != nil || out == "" {
		return err
	}
	_, err = c.do(ctx, append([]string{"rm", "-f"}, strings.Fields(out)...)...)
	return err
}

func listMany(ctx context.Context, m *machine, all []manager) (group, error) {
	g := group{Title: fmt.Sprintf("ps -a of %d containers", listed), Unit: "ms"}
	compared(&g, all)
	for i, c := range all {
		var makers errgroup.Group
		makers.SetLimit(8)
		for range listed {
			makers.Go(func() error { _, err := c.do(ctx, "create", c.image, "true"); return err })
		}
		if err := makers.Wait(); err != nil {
			return g, err
		}
		for range m.cfg.rounds + 1 {
			took, err := timed(func() error { _, err := c.do(ctx, "ps", "-a"); return err })
			if err != nil {
				return g, err
			}
			g.Series[i].add(took)
		}
		if err := c.remove(ctx); err != nil {
			return g, err
		}
	}
	return g, nil
}

// writeLogs has a container write as fast as it can while nobody is attached.
func writeLogs(ctx context.Context, all []manager) (group, error) {
	g := group{Title: fmt.Sprintf("%d MB into a container's log", logSize), Unit: "MB/s", More: true}
	compared(&g, all)
	const rounds = 3
	for range rounds {
		for i, c := range all {
			id, err := c.do(ctx, "run", "-d", c.image, "sh", "-c", sayText(logSize))
			if err != nil {
				return g, err
			}
			begin := time.Now()
			if _, err := c.do(ctx, "wait", id); err != nil {
				return g, err
			}
			g.Series[i].Samples = append(g.Series[i].Samples, logSize/time.Since(begin).Seconds())
			if err := c.remove(ctx); err != nil {
				return g, err
			}
		}
	}
	return g, nil
}

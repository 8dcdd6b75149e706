package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"time"

	apiv1 "github.com/vethloom/vethloom/api/v1"
)

// runner runs `true` in a container once.
type runner struct {
	name string
	run  func(ctx context.Context, round int) error
}

// runGroup compares a container's whole life: made, run, removed.
func runGroup(ctx context.Context, m *machine) ([]group, error) {
	g := group{Title: "Run `true` in a container and remove it", Unit: "ms", Notes: []string{
		"runc has no network, no image and no daemon: its root filesystem is a directory that is there already, and",
		"what runc spec proposes has no seccomp filter. vethloom and docker load the same one, docker for three",
		"architectures, vethloom for the host's. The machine rests a moment after each run.",
	}}
	f, err := m.startFabric(ctx)
	if err != nil {
		return nil, err
	}
	contenders, err := runners(ctx, m, f)
	if err != nil {
		return nil, err
	}
	for i, c := range contenders {
		s := g.series(c.name)
		if f != nil && i >= len(fabricNetworks) {
			s.Ours = g.Series[0]
		}
	}
	calls := group{Title: "One net run, call by call", Unit: "ms"}
	parts := newLife(&calls)
	for round := range m.cfg.rounds + 1 {
		for i := range contenders {
			i = (i + round) % len(contenders)
			took, err := timed(func() error { return contenders[i].run(ctx, round) })
			if err != nil {
				return nil, err
			}
			g.Series[i].add(took)
			if err := rest(ctx); err != nil {
				return nil, err
			}
		}
		if f == nil {
			continue
		}
		if err := parts.once(ctx, f); err != nil {
			return nil, err
		}
	}
	if f == nil {
		return []group{g}, nil
	}
	return []group{g, calls}, nil
}

// restTime is longer than any contender tidies up after its answer.
const restTime = 150 * time.Millisecond

// rest keeps a contender from paying for what the one before still does in the background.
func rest(ctx context.Context) error { return wait(ctx, restTime) }

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// fabricNetworks are those that vethloom's containers run on: the first one is compared.
var fabricNetworks = []string{fabricNetwork, "none", "host"}

func (f *fabric) runner(network string) runner {
	return runner{"net run --rm --network " + network, func(ctx context.Context, _ int) error {
		_, err := f.cli(ctx, "run", "--rm", "--network", network, fabricImage, "true")
		return err
	}}
}

func runners(ctx context.Context, m *machine, f *fabric) ([]runner, error) {
	var all []runner
	if f != nil {
		for _, network := range fabricNetworks {
			all = append(all, f.runner(network))
		}
	}
	if _, err := exec.LookPath("runc"); err != nil {
		m.missing("runc: make deps installs it", err)
	} else {
		for _, filter := range []bool{true, false} {
			r, err := runcRunner(ctx, m, filter)
			if err != nil {
				return nil, err
			}
			all = append(all, r)
		}
	}
	d, err := m.startDocker(ctx)
	if err != nil {
		return nil, err
	}
	if d != nil {
		for _, network := range []string{"bridge", "none"} {
			all = append(all, runner{"docker run --rm --network " + network, func(ctx context.Context, _ int) error {
				_, err := d.cli(ctx, "run", "--rm", "--network", network, dockerImage, "true")
				return err
			}})
		}
	}
	return all, nil
}

// life takes one `net run` apart: the same calls that it makes, timed one by one.
type life struct {
	cli, create, start, exit, remove *series
}

func newLife(g *group) *life {
	return &life{
		cli:    g.series("the command line alone: net version"),
		create: g.series("create: record, writable layer"),
		start:  g.series("start: network, root filesystem, shim, process"),
		exit:   g.series("run `true`, collect its exit"),
		remove: g.series("remove: network, layer, record"),
	}
}

func (l *life) once(ctx context.Context, f *fabric) error {
	took, err := timed(func() error { _, err := f.cli(ctx, "version"); return err })
	if err != nil {
		return err
	}
	l.cli.add(took)

	mark := time.Now()
	lap := func(s *series) {
		s.add(time.Since(mark))
		mark = time.Now()
	}
	made, err := f.client.Containers.Create(ctx, &apiv1.CreateContainerRequest{Spec: &apiv1.ContainerSpec{
		Image: fabricImage, Command: []string{"true"}, Networks: []*apiv1.ConnectRequest{{Network: fabricNetwork}},
	}})
	if err != nil {
		return fmt.Errorf("create a container: %w", err)
	}
	lap(l.create)
	stream, err := f.client.Containers.Attach(ctx)
	if err != nil {
		return fmt.Errorf("attach to %s: %w", made.Id, err)
	}
	options := &apiv1.AttachRequest_Options{Options: &apiv1.AttachOptions{Container: made.Id, Start: true}}
	if err := stream.Send(&apiv1.AttachRequest{Message: options}); err != nil {
		return fmt.Errorf("attach to %s: %w", made.Id, err)
	}
	for exited := false; !exited; {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("attach to %s: the stream ended without an exit status", made.Id)
		}
		if err != nil {
			return fmt.Errorf("attach to %s: %w", made.Id, err)
		}
		switch resp.Message.(type) {
		case *apiv1.AttachResponse_Started:
			lap(l.start)
		case *apiv1.AttachResponse_Exit:
			lap(l.exit)
			exited = true
		}
	}
	if _, err := f.client.Containers.Remove(ctx, &apiv1.RemoveContainerRequest{Container: made.Id}); err != nil {
		return fmt.Errorf("remove %s: %w", made.Id, err)
	}
	lap(l.remove)
	return nil
}

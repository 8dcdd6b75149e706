package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"

	apiv1 "github.com/vethloom/vethloom/api/v1"
)

// The networks of one dockerd that are compared: the first is vethloom's.
const (
	joinedOurs   = "ours"
	joinedTheirs = "theirs"
)

// joined is a dockerd that has netd beside it, in one network namespace apart from all others.
type joined struct {
	*docker
	idle string // a container that runs, on neither of the networks
}

// joinedGroups compare what a container of Docker costs on a network of vethloom and on a bridge of Docker's own, in
// one dockerd.
func joinedGroups(ctx context.Context, m *machine) ([]group, error) {
	if m.cfg.baselines {
		return nil, nil
	}
	d, err := m.joinDocker(ctx)
	if err != nil || d == nil {
		return nil, err
	}
	var groups []group
	for _, c := range []struct {
		title string
		once  func(ctx context.Context, network string) error
	}{
		{"`docker run --rm` of `true`", d.run},
		{"`docker run --rm` with a published port", d.runWithPort},
		{"`docker network connect` and `disconnect`, through the API", d.connect},
	} {
		g := group{Title: c.title, Unit: "ms"}
		ours, theirs := g.series("a network of vethloom"), g.series("a bridge network of Docker")
		theirs.Ours = ours
		for round := range m.cfg.rounds + 1 {
			for i := range 2 {
				i = (i + round) % 2
				took, err := timed(func() error { return c.once(ctx, []string{joinedOurs, joinedTheirs}[i]) })
				if err != nil {
					return nil, err
				}
				g.Series[i].add(took)
				if err := rest(ctx); err != nil {
					return nil, err
				}
			}
		}
		groups = append(groups, g)
	}
	return groups, nil
}

// joinDocker starts both daemons, and makes both networks. It is nil when there is no dockerd on this machine.
func (m *machine) joinDocker(ctx context.Context) (*joined, error) {
	const name, subnet = "joined", "10.216.0.0/16"
	netns := filepath.Join("/run/netns", name)
	if err := os.MkdirAll("/run/docker/plugins", 0o755); err != nil {
		return nil, err
	}
	if err := newNetns(netns); err != nil {
		return nil, err
	}
	if err := ips(ctx, netns, "link set lo up"); err != nil {
		return nil, err
	}
	in := []string{"nsenter", "--net=" + netns}
	f, err := m.netd(ctx, name, in, "--docker-plugin", "/run/docker/plugins/vethloom.sock")
	if err != nil {
		return nil, err
	}
	if _, err := f.client.Networks.Create(ctx, &apiv1.CreateNetworkRequest{Name: joinedOurs,
		Pools: []*apiv1.Pool{{Subnet: subnet}}}); err != nil {
		return nil, fmt.Errorf("create the network: %w", err)
	}
	d, err := m.dockerd(ctx, "docker-"+name, in)
	if err != nil || d == nil {
		return nil, err
	}
	j := &joined{docker: d}
	for _, args := range [][]string{
		{"-d", "vethloom", "-o", "net=" + joinedOurs, "--ipam-driver", "vethloom", "--ipam-opt", "net=" + joinedOurs,
			"--subnet", subnet, joinedOurs},
		{"--subnet", "10.217.0.0/16", joinedTheirs},
		{"--subnet", "10.218.0.0/16", "idle"},
	} {
		if _, err := d.cli(ctx, append([]string{"network", "create"}, args...)...); err != nil {
			return nil, err
		}
	}
	j.idle, err = d.cli(ctx, "run", "-d", "--network", "idle", dockerImage, "sleep", "3600")
	return j, err
}

func (d *joined) run(ctx context.Context, network string) error {
	_, err := d.cli(ctx, "run", "--rm", "--network", network, dockerImage, "true")
	return err
}

func (d *joined) runWithPort(ctx context.Context, network string) error {
	_, err := d.cli(ctx, "run", "--rm", "--network", network, "-p", "8090:80", dockerImage, "true")
	return err
}

func (d *joined) connect(ctx context.Context, network string) error {
	for _, verb := range []string{"connect", "disconnect"} {
		err := d.call(ctx, http.MethodPost, "/networks/"+network+"/"+verb, dockerEndpoint{Container: d.idle}, nil)
		if err != nil {
			return err
		}
	}
	return nil
}

package main

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"time"
)

// attacher attaches and detaches once and says how long each took.
type attacher struct {
	name   string
	attach func(ctx context.Context, round int) (time.Duration, error)
	detach func(ctx context.Context, round int) (time.Duration, error)
}

// attachGroup compares the attachment of one container to one bridge network, and back.
func attachGroup(ctx context.Context, m *machine) ([]group, error) {
	in := group{Title: "Attach an endpoint", Unit: "ms"}
	out := group{Title: "Detach it", Unit: "ms"}
	sum := group{Title: "Attach and detach", Unit: "ms", Notes: []string{
		"vethloom and \"with namespace\" include making and removing the network namespace; docker connects a " +
			"running container.",
	}}
	contenders, err := attachers(ctx, m)
	if err != nil {
		return nil, err
	}
	for i, c := range contenders {
		for _, g := range []*group{&in, &out, &sum} {
			s := g.series(c.name)
			if i > 0 && !m.cfg.baselines {
				s.Ours = g.Series[0]
			}
		}
	}
	for round := range m.cfg.rounds + 1 {
		for i := range contenders {
			i = (i + round) % len(contenders)
			a, err := contenders[i].attach(ctx, round)
			if err != nil {
				return nil, err
			}
			d, err := contenders[i].detach(ctx, round)
			if err != nil {
				return nil, err
			}
			in.Series[i].add(a)
			out.Series[i].add(d)
			sum.Series[i].add(a + d)
		}
	}
	return []group{in, out, sum}, nil
}

func attachers(ctx context.Context, m *machine) ([]attacher, error) {
	var all []attacher
	f, err := m.startFabric(ctx)
	if err != nil {
		return nil, err
	}
	fast, err := m.startFastFabric(ctx)
	if err != nil {
		return nil, err
	}
	if f != nil {
		all = append(all, f.attacher("vethloom, through the API"),
			fast.attacher("vethloom, through the API"+fastHosts))
	}
	plain, err := newCNI(m, false)
	if err != nil {
		m.missing("CNI plugins: make deps installs them", err)
	} else {
		masq, err := newCNI(m, true)
		if err != nil {
			return nil, err
		}
		all = append(all,
			plain.attacher("CNI bridge + host-local, with namespace", true),
			plain.attacher("CNI bridge + host-local, plugin alone", false),
			masq.attacher("CNI bridge + host-local, ipMasq, with namespace", true))
	}
	d, err := m.startDocker(ctx)
	if err != nil {
		return nil, err
	}
	if d != nil {
		a, err := d.attacher(ctx)
		if err != nil {
			return nil, err
		}
		all = append(all, a)
	}
	return all, nil
}

func (f *fabric) attacher(name string) attacher {
	id := func(round int) string { return fmt.Sprintf("bec%09x", round) } // hex, as the API wants it
	return attacher{
		name,
		func(ctx context.Context, round int) (time.Duration, error) {
			return timed(func() error { _, err := f.attach(ctx, id(round), fabricNetwork); return err })
		},
		func(ctx context.Context, round int) (time.Duration, error) {
			return timed(func() error { return f.detach(ctx, id(round)) })
		},
	}
}

func (c *cni) attacher(name string, counted bool) attacher {
	id := func(round int) string { return fmt.Sprintf("%t%d", counted, round) }
	netns := func(round int) string { return filepath.Join("/run/netns", id(round)) }
	count := func(namespace, plugin time.Duration) time.Duration {
		if counted {
			return namespace + plugin
		}
		return plugin
	}
	return attacher{
		name,
		func(ctx context.Context, round int) (time.Duration, error) {
			n, err := timed(func() error { return newNetns(netns(round)) })
			if err != nil {
				return 0, err
			}
			p, err := timed(func() error { return c.call(ctx, "ADD", id(round), netns(round)) })
			return count(n, p), err
		},
		func(ctx context.Context, round int) (time.Duration, error) {
			p, err := timed(func() error { return c.call(ctx, "DEL", id(round), netns(round)) })
			if err != nil {
				return 0, err
			}
			n, err := timed(func() error { return dropNetns(netns(round)) })
			return count(n, p), err
		},
	}
}

// attacher connects a container that runs, without a network, to a bridge network.
func (d *docker) attacher(ctx context.Context) (attacher, error) {
	if _, err := d.cli(ctx, "network", "create", "--subnet", "10.213.0.0/16", "bench"); err != nil {
		return attacher{}, err
	}
	if _, err := d.cli(ctx, "network", "create", "--subnet", "10.214.0.0/16", "other"); err != nil {
		return attacher{}, err
	}
	id, err := d.cli(ctx, "run", "-d", "--network", "other", dockerImage, "sleep", "3600")
	if err != nil {
		return attacher{}, err
	}
	post := func(ctx context.Context, verb string) (time.Duration, error) {
		return timed(func() error {
			return d.call(ctx, http.MethodPost, "/networks/bench/"+verb, dockerEndpoint{Container: id}, nil)
		})
	}
	return attacher{
		"docker network connect, through the API",
		func(ctx context.Context, _ int) (time.Duration, error) { return post(ctx, "connect") },
		func(ctx context.Context, _ int) (time.Duration, error) { return post(ctx, "disconnect") },
	}, nil
}

func timed(f func() error) (time.Duration, error) {
	start := time.Now()
	err := f()
	return time.Since(start), err
}

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containernetworking/cni/libcni"
	"golang.org/x/sync/errgroup"
)

const (
	enginesAtOnce = 100 // containers that are attached at once
	enginesHeld   = 200 // containers of others beside which netd's memory is taken
)

// chain is a list of CNI plugins, called by the library that engines use: a process per plugin and call.
type chain struct {
	name string
	list *libcni.NetworkConfigList
	cni  *libcni.CNIConfig
	port int // the first that its containers publish
}

// enginesGroup compares what containers of other engines cost.
func enginesGroup(ctx context.Context, m *machine) ([]group, error) {
	byCNI, err := cniGroups(ctx, m)
	if err != nil {
		return nil, err
	}
	byDocker, err := joinedGroups(ctx, m)
	return append(byCNI, byDocker...), err
}

// cniGroups compare what a container of a CNI engine costs, with a published port, a way out and the network that
// it is on, by vethloom-cni and by the reference plugins.
func cniGroups(ctx context.Context, m *machine) ([]group, error) {
	in := group{Title: "CNI ADD, with a published port", Unit: "ms", Notes: []string{
		"the start of every process is in it; the network namespace is made before, and not counted"}}
	out := group{Title: "CNI DEL", Unit: "ms"}
	many := group{Title: fmt.Sprintf("CNI ADD of %d containers at once", enginesAtOnce), Unit: "ms"}
	chains, err := m.chains(ctx)
	if err != nil {
		return nil, err
	}
	for i, c := range chains {
		for _, g := range []*group{&in, &out, &many} {
			s := g.series(c.name)
			if i > 0 && !m.cfg.baselines {
				s.Ours = g.Series[0]
			}
		}
	}
	for round := range m.cfg.rounds + 1 {
		for i := range chains {
			i = (i + round) % len(chains)
			a, d, err := chains[i].once(ctx, round)
			if err != nil {
				return nil, err
			}
			in.Series[i].add(a)
			out.Series[i].add(d)
		}
	}
	for i := range chains { // once: the reference plugins take half a minute
		t, err := chains[i].atOnce(ctx, enginesAtOnce)
		if err != nil {
			return nil, err
		}
		many.Series[i].Samples = []float64{float64(t.Milliseconds())}
	}
	groups := []group{in, out, many}
	if m.cfg.baselines {
		return groups, nil
	}
	memory, err := m.heldMemory(ctx, chains[0])
	return append(groups, memory), err
}

// chains are those that are compared, vethloom's first.
func (m *machine) chains(ctx context.Context) ([]chain, error) {
	path := []string{filepath.Dir(m.cfg.path("vethloom-cni")), cniPath}
	lib := libcni.NewCNIConfigWithCacheDir(path, filepath.Join(m.dir, "cni-cache"), nil)
	ours := fmt.Sprintf(`{"cniVersion": "1.0.0", "name": %q, "plugins": [
		{"type": "vethloom-cni", "capabilities": {"portMappings": true}}]}`, fabricNetwork)
	theirs := fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "reference", "plugins": [
		{"type": "bridge", "bridge": "vlcni2", "isGateway": true, "ipMasq": true, "ipam": {"type": "host-local",
		"dataDir": %q, "ranges": [[{"subnet": "10.215.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
		{"type": "portmap", "capabilities": {"portMappings": true}}]}`, filepath.Join(m.dir, "cni-addresses"))
	var all []chain
	f, err := m.startFabric(ctx)
	if err != nil {
		return nil, err
	}
	for _, c := range []struct {
		name, text string
		port       int
		there      bool
	}{
		{"vethloom-cni", ours, 20000, f != nil},
		{"bridge + host-local + portmap, ipMasq", theirs, 30000, true},
	} {
		if !c.there {
			continue
		}
		list, err := libcni.ConfListFromBytes([]byte(c.text))
		if err != nil {
			return nil, fmt.Errorf("read a list of CNI plugins: %w", err)
		}
		all = append(all, chain{c.name, list, lib, c.port})
	}
	return all, nil
}

// box is the n-th container of the chain.
func (c chain) box(n int) *libcni.RuntimeConf {
	id := fmt.Sprintf("%d-%d", c.port, n)
	return &libcni.RuntimeConf{ContainerID: id, NetNS: filepath.Join("/run/netns", id), IfName: "eth0",
		CapabilityArgs: map[string]any{"portMappings": []map[string]any{
			{"hostPort": c.port + n, "containerPort": 80, "protocol": "tcp"}}}}
}

func (c chain) add(ctx context.Context, box *libcni.RuntimeConf) error {
	_, err := c.cni.AddNetworkList(ctx, c.list, box)
	if err != nil {
		return fmt.Errorf("%s: ADD: %w", c.name, err)
	}
	return nil
}

func (c chain) del(ctx context.Context, box *libcni.RuntimeConf) error {
	if err := c.cni.DelNetworkList(ctx, c.list, box); err != nil {
		return fmt.Errorf("%s: DEL: %w", c.name, err)
	}
	return nil
}

// once attaches one container and detaches it.
func (c chain) once(ctx context.Context, n int) (add, del time.Duration, err error) {
	box := c.box(n)
	if err := newNetns(box.NetNS); err != nil {
		return 0, 0, err
	}
	if add, err = timed(func() error { return c.add(ctx, box) }); err != nil {
		return 0, 0, err
	}
	if del, err = timed(func() error { return c.del(ctx, box) }); err != nil {
		return 0, 0, err
	}
	return add, del, dropNetns(box.NetNS)
}

// each calls for n containers at once.
func (c chain) each(n int, call func(*libcni.RuntimeConf) error) error {
	var g errgroup.Group
	for i := range n {
		g.Go(func() error { return call(c.box(i)) })
	}
	return g.Wait()
}

// atOnce attaches n containers at once, and says how long it took until the last one was.
func (c chain) atOnce(ctx context.Context, n int) (time.Duration, error) {
	if err := c.make(n); err != nil {
		return 0, err
	}
	took, err := timed(func() error {
		return c.each(n, func(b *libcni.RuntimeConf) error { return c.add(ctx, b) })
	})
	if err != nil {
		return 0, err
	}
	return took, c.remove(ctx, n)
}

func (c chain) make(n int) error {
	if err := os.MkdirAll("/run/netns", 0o755); err != nil {
		return err
	}
	for i := range n {
		if err := newNetns(c.box(i).NetNS); err != nil {
			return err
		}
	}
	return nil
}

func (c chain) remove(ctx context.Context, n int) error {
	if err := c.each(n, func(b *libcni.RuntimeConf) error { return c.del(ctx, b) }); err != nil {
		return err
	}
	for i := range n {
		if err := dropNetns(c.box(i).NetNS); err != nil {
			return err
		}
	}
	return nil
}

// heldMemory is what netd has in memory before and beside containers of others.
func (m *machine) heldMemory(ctx context.Context, c chain) (group, error) {
	g := group{Title: "Resident memory of netd", Unit: "MB", Cost: true}
	take := func(name string) error {
		mb, err := resident(m.fabric.pid)
		g.series(name).Samples = []float64{mb}
		return err
	}
	if err := errors.Join(take("before"), c.make(enginesHeld)); err != nil {
		return g, err
	}
	err := c.each(enginesHeld, func(b *libcni.RuntimeConf) error { return c.add(ctx, b) })
	if err != nil {
		return g, err
	}
	return g, errors.Join(take(fmt.Sprintf("beside %d containers of CNI", enginesHeld)), c.remove(ctx, enginesHeld))
}

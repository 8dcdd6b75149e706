package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/vethloom/vethloom/api/client"
	apiv1 "github.com/vethloom/vethloom/api/v1"
)

const (
	fabricNetwork = "bench"
	fabricImage   = "bench:latest"
)

// fabric is a netd of our own.
type fabric struct {
	pid    int // of netd
	host   string
	net    string // the command line
	client *client.Client
}

// startFabric starts netd without the fast path, once; nil without an error means that vethloom was left out.
func (m *machine) startFabric(ctx context.Context) (*fabric, error) {
	if m.fabric != nil || m.cfg.baselines {
		return m.fabric, nil
	}
	f, err := m.netd(ctx, "vethloom", nil, "--docker-plugin", "off", "--fastpath", "off")
	if err != nil {
		return nil, err
	}
	if err := f.createNetwork(ctx); err != nil {
		return nil, err
	}
	if _, err := f.cli(ctx, "import", m.tar, fabricImage); err != nil {
		return nil, err
	}
	m.fabric = f
	return f, nil
}

// startFastFabric starts another netd, in a network namespace of its own, with the fast path.
func (m *machine) startFastFabric(ctx context.Context) (*fabric, error) {
	if m.fast != nil || m.cfg.baselines {
		return m.fast, nil
	}
	netns := filepath.Join("/run/netns", "fast")
	if err := newNetns(netns); err != nil {
		return nil, err
	}
	if err := ips(ctx, netns, "link set lo up"); err != nil {
		return nil, err
	}
	f, err := m.netd(ctx, "vethloom-fast", []string{"nsenter", "--net=" + netns}, "--docker-plugin", "off",
		"--fastpath", "auto")
	if err != nil {
		return nil, err
	}
	if err := errors.Join(f.needFast(ctx), f.createNetwork(ctx)); err != nil {
		return nil, err
	}
	m.fast = f
	return f, nil
}

func (f *fabric) createNetwork(ctx context.Context) error {
	_, err := f.client.Networks.Create(ctx, &apiv1.CreateNetworkRequest{
		Name: fabricNetwork, Pools: []*apiv1.Pool{{Subnet: "10.210.0.0/16"}},
	})
	if err != nil {
		return fmt.Errorf("create the network: %w", err)
	}
	return nil
}

// netd starts a netd with further flags; its name is that of its files, and the words before are what leads to its
// network namespace.
func (m *machine) netd(ctx context.Context, name string, before []string, flags ...string) (*fabric, error) {
	run := filepath.Join("/run", name)
	if err := os.MkdirAll(run, 0o711); err != nil {
		return nil, fmt.Errorf("start netd: %w", err)
	}
	host := "unix://" + filepath.Join(run, "netd.sock")
	line := slices.Concat(before, []string{m.cfg.path("netd"), "--root", filepath.Join(m.dir, name), "--run", run,
		"--host", host}, flags)
	p, err := m.daemon("netd-"+name, line[0], line[1:]...)
	if err != nil {
		return nil, err
	}
	f := &fabric{pid: p.cmd.Process.Pid, host: host, net: m.cfg.path("net")}
	return f, poll(ctx, p, func(ctx context.Context) error {
		c, err := client.Dial(ctx, host, client.Options{})
		if err != nil {
			return err
		}
		if _, err := c.System.Version(ctx, &apiv1.VersionRequest{}); err != nil {
			return err
		}
		f.client = c
		return nil
	})
}

func (f *fabric) cli(ctx context.Context, args ...string) ([]byte, error) {
	return command(ctx, f.net, append([]string{"--host", f.host}, args...)...)
}

// attach makes a sandbox, its network namespace included, with an endpoint on each network.
func (f *fabric) attach(ctx context.Context, id string, networks ...string) (*apiv1.Sandbox, error) {
	req := &apiv1.CreateSandboxRequest{Id: id}
	for _, n := range networks {
		req.Networks = append(req.Networks, &apiv1.ConnectRequest{Network: n})
	}
	sb, err := f.client.Sandboxes.Create(ctx, req)
	if err != nil {
		return nil, fmt.Errorf("create sandbox %s: %w", id, err)
	}
	return sb, nil
}

func (f *fabric) detach(ctx context.Context, id string) error {
	if _, err := f.client.Sandboxes.Remove(ctx, &apiv1.RemoveSandboxRequest{Id: id}); err != nil {
		return fmt.Errorf("remove sandbox %s: %w", id, err)
	}
	return nil
}

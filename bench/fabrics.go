package main

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"github.com/vethloom/vethloom/api/client"
	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/internal/lab"
)

// nodes are two hosts of ours, with the same settings.
type nodes [2]*fabric

// slowNodes are those of the lab: their netd has no fast path.
func (c *cluster) slowNodes(ctx context.Context) (n nodes, err error) {
	for i, name := range []string{"n1", "n2"} {
		cl, err := client.Dial(ctx, "unix://"+c.lab.Socket(name), client.Options{})
		if err != nil {
			return n, fmt.Errorf("reach netd on %s: %w", name, err)
		}
		n[i] = &fabric{client: cl}
		for _, m := range c.lab.Members {
			if m.Kind == lab.Node && m.Name == name {
				n[i].pid = m.Proc.PID
			}
		}
	}
	return n, nil
}

// fastNodes join the same cluster on hosts of their own, with the fast path: what it costs others is not theirs.
func (c *cluster) fastNodes(ctx context.Context) (n nodes, err error) {
	for i := range n {
		name := "p" + strconv.Itoa(i+1)
		host, _, err := c.host(ctx, name)
		if err != nil {
			return n, err
		}
		n[i], err = c.m.netd(ctx, "fast-"+name, []string{"nsenter", "--net=" + host}, "--docker-plugin", "off",
			"--etcd", c.lab.Endpoints(), "--node-name", name, "--iface", "eth0", "--fastpath", "auto")
		if err != nil {
			return n, err
		}
		if err := n[i].needFast(ctx); err != nil {
			return n, err
		}
	}
	return n, nil
}

// needFast reports where there is no fast path: two contenders would be the same.
func (f *fabric) needFast(ctx context.Context) error {
	st, err := f.client.System.Status(ctx, &apiv1.StatusRequest{})
	if err != nil {
		return fmt.Errorf("ask for the state of the fast path: %w", err)
	}
	if got := st.GetFastPath().GetState(); got != "on" {
		return fmt.Errorf("the fast path is to be measured, and is %s", got)
	}
	return nil
}

// fabrics are our drivers, each with a sandbox on either node of a pair: without the fast path, and with it.
func (c *cluster) fabrics(ctx context.Context) ([]link, error) {
	slow, err := c.slowNodes(ctx)
	if err != nil {
		return nil, err
	}
	fast, err := c.fastNodes(ctx)
	if err != nil {
		return nil, err
	}
	var all []link
	for i, d := range []struct {
		name, driver string
		options      map[string]string
		fast         bool
	}{
		{oursHostGW, "host-gw", nil, true}, {oursVXLAN, "vxlan", nil, true}, {oursOverlay, "overlay", nil, true},
		{oursUDP, "udp", nil, true}, {oursPlainUDP, "udp", map[string]string{"offload": "off"}, false},
	} {
		network := fmt.Sprintf("across%d", i)
		options := map[string]string{"mtu": strconv.Itoa(acrossMTU)}
		for k, v := range d.options {
			options[k] = v
		}
		if _, err := slow[0].client.Networks.Create(ctx, &apiv1.CreateNetworkRequest{
			Name: network, Driver: d.driver, Options: options,
			Pools: []*apiv1.Pool{{Subnet: fmt.Sprintf("10.%d.0.0/16", 223+i)}},
		}); err != nil {
			return nil, fmt.Errorf("create a network of driver %s: %w", d.driver, err)
		}
		l, err := slow.link(ctx, network, 16*i)
		if err != nil {
			return nil, err
		}
		l.name = d.name
		all = append(all, l)
		if !d.fast {
			continue
		}
		if l, err = fast.link(ctx, network, 16*i+8); err != nil {
			return nil, err
		}
		l.name = twin(d.name)
		all = append(all, l)
	}
	return all, nil
}

// link is a sandbox on either node. The number makes the sandboxes' IDs.
func (n nodes) link(ctx context.Context, network string, number int) (link, error) {
	var l link
	for k, f := range n {
		l.daemons = append(l.daemons, f.pid)
		sb, err := f.attachSoon(ctx, fmt.Sprintf("ac%010x", number+k), network)
		if err != nil {
			return l, err
		}
		addr, err := netip.ParsePrefix(sb.Endpoints[0].Addresses[0])
		if err != nil {
			return l, fmt.Errorf("address on %s: %w", network, err)
		}
		if k == 0 {
			l.client = sb.NetnsPath
		} else {
			l.server, l.addr = sb.NetnsPath, addr.Addr().String()
		}
	}
	return l, nil
}

// attachSoon tries again while the network is on its way to this node.
func (f *fabric) attachSoon(ctx context.Context, id, network string) (*apiv1.Sandbox, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		sb, err := f.attach(ctx, id, network)
		if err == nil {
			return sb, nil
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(100 * time.Millisecond):
		}
	}
}

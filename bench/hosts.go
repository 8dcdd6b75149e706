package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/vethloom/vethloom/internal/lab"
)

// cluster is a lab of two nodes, with further hosts for the other contenders on the same underlay.
type cluster struct {
	m     *machine
	lab   *lab.Lab
	hosts []string // paths of the namespaces of all hosts with an eth0
	next  byte     // last byte of the next further host's address
}

func newCluster(ctx context.Context, m *machine) (*cluster, error) {
	l, err := lab.Up(ctx, lab.Config{Name: "bench", Dir: lab.DefaultDir, Nodes: 2, NoImage: true, Bin: m.cfg.bin,
		Flags: []string{"--fastpath", "off"}})
	if err != nil {
		return nil, err
	}
	m.defers(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lab.Patience)
		defer cancel()
		if err := lab.Down(ctx, lab.DefaultDir, l.Name); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
		}
	})
	c := &cluster{m: m, lab: l, next: 11}
	for _, n := range []string{"n1", "n2"} {
		c.hosts = append(c.hosts, c.pin(n))
	}
	return c, plainBridges(ctx, c.pin(lab.Underlay))
}

// plainBridges keeps bridged packets out of iptables, as a switch does and netd where it may.
func plainBridges(ctx context.Context, netns string) error {
	return in(ctx, netns, "sh", "-c", "cd /proc/sys/net/bridge 2>/dev/null || exit 0; for k in ip6tables iptables "+
		"arptables; do echo 0 >bridge-nf-call-$k; done")
}

// pin is where a lab keeps a host's namespace.
func (c *cluster) pin(host string) string { return filepath.Join(c.lab.Dir, c.lab.Name, "ns", host) }

// in runs a command in a namespace.
func in(ctx context.Context, netns string, args ...string) error {
	_, err := command(ctx, "nsenter", append([]string{"--net=" + netns}, args...)...)
	return err
}

// ips runs commands of ip(8) in a namespace.
func ips(ctx context.Context, netns string, lines ...string) error {
	for _, l := range lines {
		if err := in(ctx, netns, append([]string{"ip"}, strings.Fields(l)...)...); err != nil {
			return err
		}
	}
	return nil
}

// host makes a further host on the underlay, which forwards.
func (c *cluster) host(ctx context.Context, name string) (string, netip.Addr, error) {
	path := filepath.Join("/run/netns", name)
	if err := newNetns(path); err != nil {
		return "", netip.Addr{}, err
	}
	addr := netip.AddrFrom4([4]byte{192, 0, 2, c.next})
	c.next++
	err := errors.Join(
		ips(ctx, c.pin(lab.Underlay), fmt.Sprintf("link add %s up master br0 type veth peer name eth0 netns %s", name,
			path)),
		ips(ctx, path, "link set lo up", fmt.Sprintf("addr add %s/24 brd + dev eth0", addr), "link set eth0 up"),
		// flanneld looks for the default route.
		ips(ctx, path, "route add default via 192.0.2.254"),
		in(ctx, path, "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward"),
	)
	if err != nil {
		return "", netip.Addr{}, fmt.Errorf("make host %s: %w", name, err)
	}
	c.hosts = append(c.hosts, path)
	return path, addr, nil
}

// container makes a namespace behind a host, with the second address of the subnet; gateway is the first.
func container(ctx context.Context, host, name, port string, gateway netip.Prefix, bridge bool) (path string,
	addr netip.Addr, err error) {
	path, addr = filepath.Join("/run/netns", name), gateway.Addr().Next()
	if err := newNetns(path); err != nil {
		return "", addr, err
	}
	lines := []string{fmt.Sprintf("link add %s mtu %d up type veth peer name eth0 mtu %d netns %s", port, acrossMTU,
		acrossMTU, path)}
	holder := port
	if bridge {
		holder = port + "b"
		lines = append(lines, fmt.Sprintf("link add %s mtu %d up type bridge", holder, acrossMTU),
			fmt.Sprintf("link set %s master %s", port, holder))
	}
	lines = append(lines, fmt.Sprintf("addr add %s dev %s", gateway, holder))
	err = errors.Join(ips(ctx, host, lines...), ips(ctx, path, "link set lo up",
		fmt.Sprintf("addr add %s/%d dev eth0", addr, gateway.Bits()), "link set eth0 up",
		"route add default via "+gateway.Addr().String()))
	return path, addr, err
}

// links are all contenders, ready to be measured.
func (c *cluster) links(ctx context.Context) ([]link, error) {
	all, err := c.routed(ctx)
	if err != nil {
		return nil, err
	}
	if !c.m.cfg.baselines {
		ours, err := c.fabrics(ctx)
		if err != nil {
			return nil, err
		}
		all = append(all, ours...)
	}
	theirs, err := c.flannels(ctx)
	return append(all, theirs...), err
}

// masquerade is the least that a host with private containers needs: connection tracking, which
// comes with any of it, answers let in, and a masquerade for whatever leaves.
const masquerade = `table inet hand {
	chain forward { type filter hook forward priority 0; policy accept; ct state established,related accept; }
	chain postrouting {
		type nat hook postrouting priority 100; policy accept;
		oifname eth0 ip daddr != 10.0.0.0/8 masquerade;
	}
}`

// routed is two hosts with static routes and no rules, and two that masquerade: a host
// with one such rule tracks the connections of all its containers.
func (c *cluster) routed(ctx context.Context) ([]link, error) {
	plain, err := c.pair(ctx, "h")
	if err != nil {
		return nil, err
	}
	nat, err := c.pair(ctx, "m")
	if err != nil {
		return nil, err
	}
	for _, host := range nat.hosts {
		if err := in(ctx, host, "nft", masquerade); err != nil {
			return nil, fmt.Errorf("masquerade by hand: %w", err)
		}
	}
	all := []link{{name: byHand}, {name: byHandBridge}, {name: byHandNAT}}
	for k, p := range []pair{plain, plain, nat} {
		if err := p.route(ctx, &all[k], k); err != nil {
			return nil, fmt.Errorf("%s: %w", all[k].name, err)
		}
	}
	return all, nil
}

// pair is two further hosts.
type pair struct {
	hosts [2]string
	addrs [2]netip.Addr
}

func (c *cluster) pair(ctx context.Context, name string) (p pair, err error) {
	for i := range p.hosts {
		if p.hosts[i], p.addrs[i], err = c.host(ctx, name+strconv.Itoa(i+1)); err != nil {
			return p, err
		}
		if err := plainBridges(ctx, p.hosts[i]); err != nil {
			return p, err
		}
	}
	return p, nil
}

// route makes the k-th contender that is routed by hand; all but the first have bridges.
func (p pair) route(ctx context.Context, l *link, k int) error {
	for i, host := range p.hosts {
		gateway := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(217 + k), byte(i), 1}), 24)
		path, end, err := container(ctx, host, fmt.Sprintf("hand%d%d", k, i), fmt.Sprintf("c%d", k), gateway, k > 0)
		if err == nil {
			err = ips(ctx, p.hosts[1-i], fmt.Sprintf("route add %s via %s", gateway.Masked(), p.addrs[i]))
		}
		if err != nil {
			return err
		}
		if i == 0 {
			l.client = path
		} else {
			l.server, l.addr = path, end.String()
		}
	}
	return nil
}

// flannels are flanneld's backends, each on two hosts of its own.
func (c *cluster) flannels(ctx context.Context) ([]link, error) {
	binary, err := flannelBinary()
	if err != nil {
		c.m.missing("flanneld: name it in FLANNEL", err)
		return nil, nil
	}
	var all []link
	for i, b := range []struct{ name, backend string }{{theirHostGW, "host-gw"}, {theirVXLAN, "vxlan"},
		{theirUDP, "udp"}} {
		l, err := c.flannel(ctx, binary, b.backend, fmt.Sprintf("10.%d.0.0/16", 231+i))
		if err != nil {
			return nil, fmt.Errorf("flannel %s: %w", b.backend, err)
		}
		l.name = b.name
		all = append(all, l)
	}
	return all, nil
}

func (c *cluster) flannel(ctx context.Context, binary, backend, network string) (link, error) {
	prefix := "/bench/" + backend
	config := fmt.Sprintf(`{"Network":%q,"Backend":{"Type":%q}}`, network, backend)
	if err := in(ctx, c.pin("n1"), "env", "ETCDCTL_API=3", "etcdctl", "--endpoints", c.lab.Endpoints(), "put",
		prefix+"/config", config); err != nil {
		return link{}, err
	}
	var l link
	for i := range 2 {
		host, addr, err := c.host(ctx, fmt.Sprintf("f%d%s", i+1, backend[:1]))
		if err != nil {
			return link{}, err
		}
		env := filepath.Join(c.m.dir, fmt.Sprintf("%s%d.env", backend, i))
		// It masquerades as our networks do; its regular look at iptables would fall on a contender by chance.
		p, err := c.m.daemon(fmt.Sprintf("flanneld-%s%d", backend, i), "nsenter", "--net="+host, binary,
			"-etcd-endpoints", c.lab.Endpoints(), "-etcd-prefix", prefix, "-iface", addr.String(), "-subnet-file", env,
			"-ip-masq", "-iptables-resync", "3600")
		if err != nil {
			return link{}, err
		}
		l.daemons = append(l.daemons, p.cmd.Process.Pid)
		var subnet netip.Prefix
		err = poll(ctx, p, func(context.Context) error {
			subnet, err = flannelSubnet(env)
			return err
		})
		if err != nil {
			return link{}, err
		}
		path, end, err := container(ctx, host, fmt.Sprintf("flannel%s%d", backend, i), "c0", subnet, true)
		if err != nil {
			return link{}, err
		}
		if i == 0 {
			l.client = path
		} else {
			l.server, l.addr = path, end.String()
		}
	}
	return l, nil
}

// flannelSubnet reads the gateway and length that flanneld has leased for its host.
func flannelSubnet(file string) (netip.Prefix, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return netip.Prefix{}, err
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "FLANNEL_SUBNET="); ok {
			return netip.ParsePrefix(strings.TrimSpace(v))
		}
	}
	return netip.Prefix{}, fmt.Errorf("no FLANNEL_SUBNET in %s", file)
}

// change makes the links between the hosts those of an underlay.
func (c *cluster) change(ctx context.Context, u underlay) error {
	if len(u.off)+len(u.on) == 0 {
		return nil
	}
	if _, err := exec.LookPath("ethtool"); err != nil {
		return fmt.Errorf("change the offloads: %w (run make deps)", err)
	}
	set := func(netns, link string, features []string, to string) error {
		if len(features) == 0 {
			return nil
		}
		args := []string{"ethtool", "-K", link}
		for _, f := range features {
			args = append(args, f, to)
		}
		return in(ctx, netns, args...)
	}
	for _, host := range c.hosts {
		err := errors.Join(set(host, "eth0", u.off, "off"), set(host, "eth0", u.on, "on"),
			set(c.pin(lab.Underlay), filepath.Base(host), u.off, "off"))
		if err != nil {
			return err
		}
	}
	return nil
}

package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/vethloom/vethloom/api/server"
	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/cluster"
	"github.com/vethloom/vethloom/internal/etcd"
	"github.com/vethloom/vethloom/internal/etcd/embedded"
	"github.com/vethloom/vethloom/internal/kern/host"
	"github.com/vethloom/vethloom/ipam"
	"github.com/vethloom/vethloom/plan"
)

// embeddedEtcd is the value of --etcd for one inside netd.
const embeddedEtcd = "embedded"

// lookupTimeout bounds the resolution of etcd's names.
const lookupTimeout = 2 * time.Second

// checkCluster refuses what cannot be of the flags about the cluster.
func (c *Config) checkCluster() error {
	for _, a := range []struct{ flag, value string }{{"--node-ip", c.NodeIP}, {"--iface-can-reach", c.IfaceCanReach}} {
		if a.value == "" {
			continue
		}
		if ip, err := netip.ParseAddr(a.value); err != nil || ip.Zone() != "" || ip.IsLoopback() || ip.IsMulticast() ||
			ip.IsUnspecified() {
			return fmt.Errorf("%s %q: want a unicast address, such as 192.0.2.7 or 2001:db8::7", a.flag, a.value)
		}
	}
	given := 0
	for _, v := range []string{c.NodeIP, c.Iface, c.IfaceCanReach} {
		if v != "" {
			given++
		}
	}
	if given > 1 {
		return errors.New("--node-ip, --iface and --iface-can-reach each say which link leads to the other nodes: " +
			"give one of them")
	}
	if c.NodeName == "" {
		name, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("--node-name is empty and the host has no name: %w", err)
		}
		c.NodeName = name
	}
	if err := cnm.CheckName("--node-name", c.NodeName); err != nil {
		return err
	}
	if !strings.HasPrefix(c.EtcdPrefix, "/") || strings.HasSuffix(c.EtcdPrefix, "/") {
		return fmt.Errorf("--etcd-prefix %q: want a path such as /vethloom, without a slash at its end", c.EtcdPrefix)
	}
	if c.LeaseTTL < 5*time.Second || c.LeaseTTL > 9000*time.Hour {
		return fmt.Errorf("--lease-ttl %s: want 5s to 9000h", c.LeaseTTL)
	}
	if c.Etcd == embeddedEtcd {
		for _, f := range []struct{ flag, value string }{
			{"--etcd-cafile", c.EtcdCAFile}, {"--etcd-certfile", c.EtcdCertFile}, {"--etcd-keyfile", c.EtcdKeyFile},
			{"--etcd-user", c.EtcdUser}, {"--etcd-password-file", c.EtcdPassword},
		} {
			if f.value != "" {
				return fmt.Errorf("%s %q: the embedded etcd serves nobody else: leave it out, or name the cluster's "+
					"with --etcd https://…", f.flag, f.value)
			}
		}
		return nil
	}
	return c.etcd().Check()
}

// etcd is where the cluster's etcd is.
func (c *Config) etcd() etcd.Config {
	return etcd.Config{
		Endpoints: strings.Split(c.Etcd, ","), CAFile: c.EtcdCAFile, CertFile: c.EtcdCertFile, KeyFile: c.EtcdKeyFile,
		Username: c.EtcdUser, PasswordFile: c.EtcdPassword,
	}
}

// home is the link to the other nodes that was chosen first.
type home struct {
	mu     sync.Mutex
	uplink host.Uplink
}

// uplink finds the link to the other nodes. The one chosen first stays, or comes back: a default route that goes, or a
// VPN's that comes, makes this node no other one.
func (d *daemon) uplink(ctx context.Context) (cnm.Uplink, error) {
	want := host.UplinkConfig{Link: d.cfg.Iface}
	want.Addr, _ = netip.ParseAddr(d.cfg.NodeIP) // Check has seen both
	want.CanReach, _ = netip.ParseAddr(d.cfg.IfaceCanReach)
	d.home.mu.Lock()
	defer d.home.mu.Unlock()
	want.Last = d.home.uplink
	u, err := d.kernel.Uplink(ctx, want)
	if err != nil {
		return cnm.Uplink{}, fmt.Errorf("find the link to the other nodes: %w", err)
	}
	if d.home.uplink.Link == "" || d.home.uplink.Link == u.Link {
		d.home.uplink = u
	}
	return cnm.Uplink(u), nil
}

func (d *daemon) openMember(ctx context.Context, records cnm.Store, drivers []cnm.Driver, addresses *ipam.IPAM) error {
	times := d.cfg.Times
	times.Lease = d.cfg.LeaseTTL
	files, err := d.cfg.subnetEnv()
	if err != nil {
		return err
	}
	space, err := prefixes("--network-space", d.cfg.NetworkSpace)
	if err != nil {
		return err
	}
	d.member, err = cluster.New(ctx, cluster.Config{
		Root: d.cfg.Root, Local: records, Prefix: d.cfg.EtcdPrefix, Name: d.cfg.NodeName, Version: d.cfg.Version,
		Boot:    d.boot,
		Drivers: drivers, IPAM: addresses, Host: func() cnm.Host { return d.render.Host() },
		Rival: d.kernel.Flanneld, SubnetEnv: files, Needs: d.needs, Space: space,
		Wake: func(s ...plan.Owner) { d.rec.Wake(s...) }, Notify: d.memberChanged, Log: d.log, Times: times,
	})
	if err != nil {
		return fmt.Errorf("read the node's part in the cluster: %w", err)
	}
	return nil
}

// needs are what the host itself uses.
func (d *daemon) needs(ctx context.Context) (n cluster.Needs, err error) {
	if n.Own, err = d.kernel.Addresses(ctx); err != nil {
		return n, err
	}
	if n.Links, n.Routes, err = d.kernel.Networks(ctx); err != nil || d.cfg.Etcd == embeddedEtcd {
		return n, err
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	for endpoint := range strings.SplitSeq(d.cfg.Etcd, ",") {
		if !strings.Contains(endpoint, "://") {
			endpoint = "http://" + endpoint
		}
		u, err := url.Parse(endpoint)
		if err != nil || u.Hostname() == "" {
			continue // a unix socket
		}
		// A name that cannot be resolved now leads nowhere a network could be in the way of.
		addrs, _ := net.DefaultResolver.LookupNetIP(ctx, "ip", u.Hostname())
		for _, a := range addrs {
			n.Store = append(n.Store, a.Unmap())
		}
	}
	return n, nil
}

// memberChanged tells watchers what has become of this node's part in the cluster.
func (d *daemon) memberChanged(action string, attrs map[string]string) {
	d.events.emit(server.Event{Time: time.Now(), Type: "lease", Action: action, ID: attrs["subnet"], Attributes: attrs})
}

// runMember is this node's life as a member of the cluster, until the context ends.
func (d *daemon) runMember(ctx context.Context) error {
	var closer func() error
	var broken error // the data do not mend by themselves, and each start leaves something of etcd in this process
	err := d.member.Run(ctx, d.etcdName(), func(ctx context.Context) (*clientv3.Client, error) {
		if d.cfg.Etcd != embeddedEtcd {
			cfg := d.cfg.etcd()
			cfg.Log = d.log
			client, err := etcd.Dial(cfg)
			if err != nil {
				return nil, err
			}
			closer = client.Close
			return d.asked(client), nil
		}
		if broken != nil {
			return nil, broken
		}
		srv, err := embedded.Start(ctx, embedded.Config{Dir: filepath.Join(d.cfg.Root, "etcd"), Log: d.log})
		if errors.Is(err, embedded.ErrDamaged) {
			broken = fmt.Errorf("%w; then restart netd", err)
		}
		if err != nil {
			return nil, err
		}
		closer = srv.Close
		return d.asked(srv.Client()), nil
	})
	if closer != nil {
		if e := closer(); e != nil && !errors.Is(e, context.Canceled) {
			err = errors.Join(err, e)
		}
	}
	return err
}

func (d *daemon) etcdName() string {
	if d.cfg.Etcd == embeddedEtcd {
		return embeddedEtcd
	}
	return strings.ReplaceAll(d.cfg.Etcd, ",", ", ")
}

// clusterStatus is how this node is doing as a member of its cluster.
func (d *daemon) clusterStatus() *server.ClusterStatus {
	st := d.member.State()
	out := &server.ClusterStatus{
		Store: d.etcdName(), Connected: st.Connected, Since: st.Since, NodeID: d.member.ID(), NodeName: d.cfg.NodeName,
		Expires: d.member.Expires(), Problems: d.member.Problems(),
	}
	if loss := d.member.Loss(); loss != "" {
		out.Problems = append([]string{loss}, out.Problems...)
	}
	if st.Err != nil {
		out.Error = st.Err.Error()
	}
	u := d.render.Host().Uplink
	for _, a := range []netip.Addr{u.Addr4, u.Addr6} {
		if a.IsValid() {
			out.NodeIPs = append(out.NodeIPs, a)
		}
	}
	for _, n := range d.member.Nodes() {
		out.Nodes++
		if n.Alive {
			out.Alive++
		}
	}
	return out
}

package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/cluster"
	"github.com/vethloom/vethloom/internal/kern"
)

// Config is netd's configuration, as its flags and its file give it.
type Config struct {
	Root            string // state that outlives a reboot
	Run             string // state that does not
	Host            string // the API's address: unix:///path
	HTTP            string // metrics and health, host:port; empty for none
	Shim            string // path of net-shim; empty: beside this program, or in PATH
	Resolver        string // path of net-resolver; likewise
	Relay           string // path of net-relay; likewise, where dockerd is answered
	FastPath        string // auto or off: see [Config.Check]
	BridgeNetfilter string // auto, keep or off: see [Config.Check]
	Firewall        string // auto, nftables or iptables: what has the rules
	BridgeSubnet    string // of the builtin network bridge, one a family with a comma between; empty: a free one
	NodeName        string // in the cluster; empty: the host's
	NodeIP          string // this node's address on the underlay; empty: that of Iface, or of the default route's link
	Iface           string // the link to the other nodes
	IfaceCanReach   string // an address: the link that leads there is the one to the other nodes
	Etcd            string // "embedded", or URLs with commas between them
	EtcdPrefix      string // of all keys
	NetworkSpace    string // in which networks of the cluster may be, with commas; empty: cluster.DefaultSpace
	SubnetEnv       string // NETWORK=FILE, with commas between several: subnet.env of this node's leases
	EtcdCAFile      string
	EtcdCertFile    string
	EtcdKeyFile     string
	EtcdUser        string
	EtcdPassword    string // path of the file with the password
	// what this node holds in the cluster is its own that long after etcd last heard of it
	LeaseTTL     time.Duration
	Times        cluster.Times `json:"-"` // for tests; Lease is LeaseTTL
	CgroupParent string        // cgroup under which containers get theirs; empty: derived from Run
	Plugins      string        // folders with plugins' sockets and specs, with commas; empty: those of Docker
	RegistryDirs string        // folders with hosts.toml files, with commas; empty: containerd's and Docker's
	Registries   string        // files like registries.conf, and folders of them, with commas; empty: those of the host
	// ImageLowSpace is how little may be free where images are before what nobody needs goes: see lowSpace
	ImageLowSpace string
	CollectEvery  time.Duration // how often the free space is looked at
	DockerTCP     TLSAddress    // further address of Docker's API
	DockerHost    string        // address of Docker's API; empty: unix://<run>/docker.sock; "off": none
	DockerPlugin  string        // socket that dockerd finds this netd by; "off": none
	Docker        string        // address of the dockerd whose networks and containers are followed; empty: none
	PluginWait    time.Duration // bounds each call of a plugin
	LogLevel      string        // debug, info, warn or error
	LogFormat     string        // text or json
	Version       string
	Commit        string
	BootID        string // empty: the kernel's
	ResolvConf    string // file that names the servers to ask for names; empty: those of every host
	Faults        Faults `json:"-"` // for tests
}

// Defaults are the values of a netd that is told nothing.
func Defaults() Config {
	return Config{
		Root:            "/var/lib/vethloom",
		Run:             "/run/vethloom",
		HTTP:            "127.0.0.1:7470",
		BridgeNetfilter: "auto",
		FastPath:        "auto",
		Firewall:        "auto",
		Etcd:            embeddedEtcd,
		EtcdPrefix:      "/vethloom",
		LeaseTTL:        time.Hour,
		PluginWait:      30 * time.Second,
		ImageLowSpace:   defaultLowSpace,
		CollectEvery:    time.Minute,
		LogLevel:        "info",
		LogFormat:       "text",
	}
}

// Check completes the configuration and refuses what cannot be, by the flag's name.
//
// BridgeNetfilter says what becomes of bridge-nf-call-iptables and -ip6tables, which make frames that
// stay on a bridge run through the host's IP firewall, at a cost. "off" turns
// them off, "keep" leaves them alone, "auto" turns them off only where no other
// tool has a firewall rule in this network namespace that could rely on them.
func (c *Config) Check() error {
	var err error
	for _, d := range []struct {
		flag string
		dir  *string
	}{{"--root", &c.Root}, {"--run", &c.Run}} {
		if *d.dir == "" {
			return fmt.Errorf("%s is empty: give a directory", d.flag)
		}
		if *d.dir, err = filepath.Abs(*d.dir); err != nil {
			return fmt.Errorf("%s %q: %w", d.flag, *d.dir, err)
		}
	}
	if c.Host == "" {
		c.Host = "unix://" + filepath.Join(c.Run, "netd.sock")
	}
	if !strings.HasPrefix(c.Host, "unix:///") {
		return fmt.Errorf("--host %q: only a unix socket can be served: give unix:///path/to/netd.sock", c.Host)
	}
	if err := c.checkDocker(); err != nil {
		return err
	}
	if c.Firewall == "" {
		c.Firewall = "auto"
	}
	err = errors.Join(
		oneOf("--bridge-netfilter", c.BridgeNetfilter, "auto", "keep", "off"),
		oneOf("--fastpath", c.FastPath, "auto", "off"),
		oneOf("--firewall", c.Firewall, "auto", kern.Nftables, kern.Iptables),
		oneOf("--log-format", c.LogFormat, "text", "json"),
		oneOf("--log-level", c.LogLevel, "debug", "info", "warn", "error"), checkLowSpace(c.ImageLowSpace))
	if err != nil {
		return err
	}
	if err := c.checkHTTP(); err != nil {
		return err
	}
	if _, err := c.bridgeSubnets(); err != nil {
		return err
	}
	if _, err := c.subnetEnv(); err != nil {
		return err
	}
	if _, err := prefixes("--network-space", c.NetworkSpace); err != nil {
		return err
	}
	if err := c.checkCluster(); err != nil {
		return err
	}
	if c.PluginWait < time.Second {
		return fmt.Errorf("--plugin-wait %s: give at least 1s", c.PluginWait)
	}
	if c.CgroupParent != "" && (!filepath.IsAbs(c.CgroupParent) || !filepath.IsLocal(c.CgroupParent[1:]) ||
		filepath.Clean(c.CgroupParent) == "/") {
		return fmt.Errorf("--cgroup-parent %q: give the path of a cgroup from the top of the hierarchy, without "+
			"'..', such as /containers", c.CgroupParent)
	}
	if c.ResolvConf != "" && !filepath.IsAbs(c.ResolvConf) {
		return fmt.Errorf("--resolv-conf %q: give a whole path", c.ResolvConf)
	}
	err = errors.Join(program("net-shim", "--shim", &c.Shim), program("net-resolver", "--resolver", &c.Resolver))
	if c.dockerSocket() != "" {
		err = errors.Join(err, program("net-relay", "--relay", &c.Relay))
	}
	return err
}

func (c *Config) checkDocker() error {
	if c.DockerHost == "" {
		c.DockerHost = "unix://" + filepath.Join(c.Run, "docker.sock")
	}
	if c.DockerHost != "off" && !strings.HasPrefix(c.DockerHost, "unix:///") {
		return fmt.Errorf("--docker-host %q: give unix:///path/to/docker.sock, or off for none; TCP is "+
			"--docker-tcp, with certificates", c.DockerHost)
	}
	if err := c.DockerTCP.check(); err != nil {
		return err
	}
	if c.Docker == c.DockerHost {
		return fmt.Errorf("--docker %q: this is where netd itself answers (--docker-host): name the socket of a "+
			"dockerd", c.Docker)
	}
	if c.Docker != "" && !strings.HasPrefix(c.Docker, "unix:///") {
		return fmt.Errorf("--docker %q: only a dockerd of this host can be followed: give unix:///run/docker.sock",
			c.Docker)
	}
	return nil
}

// program completes the path of a program that netd starts, and refuses one that cannot be started.
func program(name, flag string, path *string) (err error) {
	if *path == "" {
		*path, err = findProgram(name, flag)
		return err
	}
	if *path, err = filepath.Abs(*path); err != nil {
		return fmt.Errorf("%s %q: %w", flag, *path, err)
	}
	if err := executable(*path); err != nil {
		return fmt.Errorf("%s %s: %w: give the path of %s", flag, *path, err, name)
	}
	return nil
}

// bridgeSubnets are those of the builtin network bridge.
func (c *Config) bridgeSubnets() ([]netip.Prefix, error) {
	subnets, err := prefixes("--bridge-subnet", c.BridgeSubnet)
	if len(subnets) > 2 || len(subnets) == 2 && subnets[0].Addr().Is4() == subnets[1].Addr().Is4() {
		return nil, fmt.Errorf("--bridge-subnet %q: give one subnet a family", c.BridgeSubnet)
	}
	return subnets, err
}

// prefixes are the subnets of a flag, with commas between them.
func prefixes(flag, value string) ([]netip.Prefix, error) {
	if value == "" {
		return nil, nil
	}
	var out []netip.Prefix
	for text := range strings.SplitSeq(value, ",") {
		p, err := netip.ParsePrefix(text)
		if err != nil || p != p.Masked() {
			return nil, fmt.Errorf("%s %q: want subnets with a comma between them, such as 10.213.0.0/24,fd00:213::/64",
				flag, text)
		}
		out = append(out, p)
	}
	return out, nil
}

// subnetEnv are the files that leases are written to, by the network's name.
func (c *Config) subnetEnv() (map[string]string, error) {
	out := map[string]string{}
	for text := range strings.SplitSeq(c.SubnetEnv, ",") {
		name, file, ok := strings.Cut(text, "=")
		switch {
		case c.SubnetEnv == "":
			return nil, nil
		case !ok || cnm.CheckName("network", name) != nil || !filepath.IsAbs(file) || filepath.Clean(file) != file:
			return nil, fmt.Errorf("--subnet-env %q: want NETWORK=FILE with the whole path of the file, such as "+
				"pods=/run/flannel/subnet.env", text)
		case out[name] != "":
			return nil, fmt.Errorf("--subnet-env %q: network %s has a file already: give one", c.SubnetEnv, name)
		}
		out[name] = file
	}
	return out, nil
}

func (c *Config) checkHTTP() error {
	if c.HTTP == "" {
		return nil
	}
	_, port, err := net.SplitHostPort(c.HTTP)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return fmt.Errorf("--http %q: want an address and a port, such as 127.0.0.1:7470 or [::1]:7470, or \"\" for "+
			"none", c.HTTP)
	}
	return nil
}

func executable(path string) error {
	st, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() || st.Mode()&0o111 == 0 {
		return errors.New("is no executable file")
	}
	return nil
}

func oneOf(flag, value string, allowed ...string) error {
	if slices.Contains(allowed, value) {
		return nil
	}
	return fmt.Errorf("%s %q: must be one of %s", flag, value, strings.Join(allowed, ", "))
}

// findProgram looks for a program beside this one and then in PATH.
func findProgram(name, flag string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find the path of this program: %w", err)
	}
	candidates := []string{filepath.Join(filepath.Dir(self), name)}
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		candidates = append(candidates, filepath.Join(dir, name))
	}
	for _, c := range candidates {
		if executable(c) == nil {
			return filepath.Abs(c)
		}
	}
	return "", fmt.Errorf("%s is neither beside %s nor in PATH: install it there, or name it with %s", name, self, flag)
}

// resolvFiles are where a host says which servers it asks for names. systemd-resolved puts its own address, on
// loopback, into the first, and the real ones into the second.
func (c Config) resolvFiles() []string {
	if c.ResolvConf != "" {
		return []string{c.ResolvConf}
	}
	return []string{"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"}
}

// Logger is the daemon's log, on standard error.
func (c Config) Logger() *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		level = slog.LevelInfo // Check has refused anything else
	}
	opts := &slog.HandlerOptions{Level: level}
	if c.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, opts))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, opts))
}

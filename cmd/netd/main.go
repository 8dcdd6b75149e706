// Netd is vethloom's per-node daemon.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/internal/daemon"
)

// Set by the linker.
var (
	version = "devel"
	commit  = "unknown"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "netd:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	cfg := daemon.Defaults()
	cfg.Version, cfg.Commit = version, commit
	var file string
	cmd := &cobra.Command{
		Use:   "netd [flags]",
		Short: "The per-node daemon of vethloom",
		Long: "Netd gives this node's containers their networks, and runs containers for net(1).\n\nIt works in " +
			"the network namespace it is started in. Several can run on one machine,\neach in its own network " +
			"namespace with its own --root and --run.",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("%q: netd takes flags only: see netd --help", args[0])
			}
			return nil
		},
		Version:       version + " (" + commit + ")",
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			// First: another user may not be able to read the configuration, nor to find net-shim.
			if os.Geteuid() != 0 {
				return errors.New("must run as root: it makes network namespaces, links and firewall rules")
			}
			if err := readConfig(cmd.Flags(), file); err != nil {
				return err
			}
			if err := cfg.Check(); err != nil {
				return err
			}
			return daemon.Run(cmd.Context(), cfg)
		},
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return fmt.Errorf("%w: see netd --help", err) })
	flags(cmd.Flags(), &cfg, &file)
	return cmd
}

func flags(f *pflag.FlagSet, cfg *daemon.Config, file *string) {
	f.SortFlags = false
	f.StringVar(file, "config", "",
		"YAML file with a value for each flag that is not on the command line: \"root: /srv/vethloom\"")
	f.StringVar(&cfg.Root, "root", cfg.Root, "directory of the state that outlives a reboot")
	f.StringVar(&cfg.Run, "run", cfg.Run, "directory of the state that does not, on a tmpfs")
	f.StringVar(&cfg.Host, "host", cfg.Host, "address of the API (default unix://<run>/netd.sock)")
	f.StringVar(&cfg.HTTP, "http", cfg.HTTP, "address of /metrics, /healthz and /readyz; empty for none")
	f.StringVar(&cfg.Shim, "shim", cfg.Shim, "path of net-shim (default: beside netd, or in PATH)")
	f.StringVar(&cfg.Plugins, "plugins", cfg.Plugins,
		"`folders` of network plugins' sockets and specs, with commas (default: those of Docker)")
	f.StringVar(&cfg.RegistryDirs, "registry-dirs", cfg.RegistryDirs,
		"`folders` with a hosts.toml or certificates for each registry, with commas (default /etc/containerd/certs.d "+
			"and /etc/docker/certs.d)")
	f.StringVar(&cfg.Registries, "registries-conf", cfg.Registries,
		"registries.conf `files`, and folders of them, with commas (default /etc/containers/registries.conf and "+
			"/etc/containers/registries.conf.d)")
	f.StringVar(&cfg.ImageLowSpace, "image-low-space", cfg.ImageLowSpace,
		"`amount` of free space, in bytes or percent, below which leftovers of images are removed, and images "+
			"without a name or container; of several, the least counts; 0 for never")
	dockerFlags(f, cfg)
	f.DurationVar(&cfg.PluginWait, "plugin-wait", cfg.PluginWait, "bound of each call of a network plugin")
	f.StringVar(&cfg.Resolver, "resolver", cfg.Resolver, "path of net-resolver (default: beside netd, or in PATH)")
	f.StringVar(&cfg.Relay, "relay", cfg.Relay, "path of net-relay (default: beside netd, or in PATH)")
	f.StringVar(&cfg.ResolvConf, "resolv-conf", cfg.ResolvConf,
		"file that names the servers to ask for names (default /etc/resolv.conf, then systemd-resolved's)")
	f.StringVar(&cfg.BridgeNetfilter, "bridge-netfilter", cfg.BridgeNetfilter,
		"bridge-nf-call-iptables and -ip6tables: off, keep, or auto (off where no other tool has firewall rules)")
	f.StringVar(&cfg.FastPath, "fastpath", cfg.FastPath,
		"auto: eBPF programs forward packets between endpoints of one network, without bridge and netfilter, where "+
			"the kernel has what that needs; off: none do")
	f.StringVar(&cfg.Firewall, "firewall", cfg.Firewall,
		"what has the firewall's rules: nftables, iptables, or auto (nftables where it works)")
	f.StringVar(&cfg.BridgeSubnet, "bridge-subnet", cfg.BridgeSubnet,
		"subnet of the builtin network bridge, one a family with a comma between them (default: a free one)")
	clusterFlags(f, cfg)
	f.StringVar(&cfg.CgroupParent, "cgroup-parent", cfg.CgroupParent,
		"cgroup that containers' cgroups are made in (default: one of its own for each --run)")
	f.StringVar(&cfg.LogLevel, "log-level", cfg.LogLevel, "debug, info, warn or error")
	f.StringVar(&cfg.LogFormat, "log-format", cfg.LogFormat, "text or json")
}

// clusterFlags are those about this node among others.
func clusterFlags(f *pflag.FlagSet, cfg *daemon.Config) {
	f.StringVar(&cfg.NodeName, "node-name", cfg.NodeName, "this node's name in the cluster (default: the host's)")
	f.StringVar(&cfg.NodeIP, "node-ip", cfg.NodeIP,
		"this node's address for the other nodes (default: that of --iface, or of the default route's link)")
	f.StringVar(&cfg.Iface, "iface", cfg.Iface, "link to the other nodes")
	f.StringVar(&cfg.IfaceCanReach, "iface-can-reach", cfg.IfaceCanReach,
		"address of another node: the link that leads there is the one to all of them")
	f.StringVar(&cfg.Etcd, "etcd", cfg.Etcd,
		"the cluster's etcd: embedded (this node is a cluster of its own), or URLs with commas between them")
	f.StringVar(&cfg.EtcdPrefix, "etcd-prefix", cfg.EtcdPrefix, "what all keys in etcd begin with")
	f.StringVar(&cfg.EtcdCAFile, "etcd-cafile", cfg.EtcdCAFile,
		"certificates that etcd's are checked with (default: the system's)")
	f.StringVar(&cfg.EtcdCertFile, "etcd-certfile", cfg.EtcdCertFile, "certificate of this node as a client of etcd")
	f.StringVar(&cfg.EtcdKeyFile, "etcd-keyfile", cfg.EtcdKeyFile, "key of --etcd-certfile")
	f.StringVar(&cfg.EtcdUser, "etcd-user", cfg.EtcdUser, "user of etcd's own authentication")
	f.StringVar(&cfg.EtcdPassword, "etcd-password-file", cfg.EtcdPassword, "file with the password of --etcd-user")
	f.StringVar(&cfg.NetworkSpace, "network-space", cfg.NetworkSpace,
		"subnets in which networks of the cluster may be, with commas (default: what the Internet does not have)")
	f.StringVar(&cfg.SubnetEnv, "subnet-env", cfg.SubnetEnv,
		"NETWORK=FILE: write this node's lease of the network to a file, as flannel does; several with commas")
	f.DurationVar(&cfg.LeaseTTL, "lease-ttl", cfg.LeaseTTL,
		"how long this node's subnets and addresses stay its own when etcd cannot hear of it")
}

// readConfig sets the flags that the file names and the command line does not.
func readConfig(flags *pflag.FlagSet, file string) error {
	if file == "" {
		return nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("--config: %w", err)
	}
	values := map[string]string{}
	if err := yaml.NewDecoder(bytes.NewReader(b)).Decode(&values); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("--config %s: want one \"flag: value\" a line: %w", file, err)
	}
	for name, value := range values {
		f := flags.Lookup(name)
		if f == nil || name == "config" {
			return fmt.Errorf("--config %s: %q is no flag of netd: see netd --help", file, name)
		}
		if f.Changed {
			continue
		}
		if err := flags.Set(name, value); err != nil {
			return fmt.Errorf("--config %s: %s: %w", file, name, err)
		}
	}
	return nil
}

func dockerFlags(f *pflag.FlagSet, cfg *daemon.Config) {
	f.StringVar(&cfg.DockerHost, "docker-host", cfg.DockerHost,
		"address of Docker's API, or off (default unix://<run>/docker.sock)")
	f.StringVar(&cfg.DockerTCP.Address, "docker-tcp", "",
		"further `address` of Docker's API, HOST:PORT, for clients with a certificate")
	f.StringVar(&cfg.DockerTCP.CA, "docker-tlscacert", "", "`file` with who signs certificates of its clients")
	f.StringVar(&cfg.DockerTCP.Cert, "docker-tlscert", "", "`file` with netd's certificate for it")
	f.StringVar(&cfg.DockerTCP.Key, "docker-tlskey", "", "`file` with the key of that")
	f.StringVar(&cfg.DockerPlugin, "docker-plugin", cfg.DockerPlugin,
		"socket that dockerd asks for its networks at, or off (default "+daemon.DockerSocket+" where Docker is)")
	f.StringVar(&cfg.Docker, "docker", cfg.Docker, "`address` of the dockerd that gets the networks of the cluster, "+
		"and whose containers get their names here: unix:///run/docker.sock (default none)")
}

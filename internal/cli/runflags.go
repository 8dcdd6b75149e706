package cli

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/protobuf/types/known/durationpb"

	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/internal/cli/flagspec"
	"github.com/vethloom/vethloom/internal/cli/show"
)

// runFlags are the flags of run and create that describe the container.
type runFlags struct {
	spec       apiv1.ContainerSpec
	entrypoint string
	env        []string
	envFiles   []string
	labels     []string
	networks   []string
	endpoint   endpointFlags
	publish    []string
	volumes    []string
	driver     string // of volumes that --volume makes
	mounts     []string
	extraHosts []string
	stopAfter  int
	sysctls    []string
	pull       pullFlags
	host       hostFlags
}

func (o *runFlags) flags(cmd *cobra.Command) {
	o.pull.flags(cmd)
	f := cmd.Flags()
	f.SetInterspersed(false) // what follows IMAGE belongs to the command
	s := &o.spec
	s.Resources = &apiv1.Resources{}
	f.Bool("help", false, "show this help") // -h is the hostname's
	f.StringVar(&s.Name, "name", "", "name of the container")
	f.BoolVarP(&s.OpenStdin, "interactive", "i", false, "keep standard input open")
	f.BoolVarP(&s.Tty, "tty", "t", false, "give it a terminal")
	f.BoolVar(&s.Remove, "rm", false, "remove the container when it exits")
	f.StringVar(&o.entrypoint, "entrypoint", "", "replace the image's entrypoint; empty: none")
	f.StringArrayVarP(&o.env, "env", "e", nil, "KEY=VALUE, or KEY to pass on this environment's")
	f.StringArrayVar(&o.envFiles, "env-file", nil, "file with lines as --env takes them")
	f.StringVarP(&s.WorkDir, "workdir", "w", "", "working directory in the container")
	f.StringVarP(&s.User, "user", "u", "", "user, as name or ID, with an optional :group")
	f.StringVarP(&s.Hostname, "hostname", "h", "", "host name in the container")
	f.StringArrayVarP(&o.labels, "label", "l", nil, "label KEY=VALUE")

	o.networkFlags(cmd)
	o.fileFlags(f)
	limitFlags(cmd, s.Resources)
	o.host.flags(cmd, s)

	f.StringArrayVar(&o.sysctls, "sysctl", nil, "kernel parameter KEY=VALUE of its own, such as net.ipv4.ip_forward=1")

	f.StringArrayVar(&s.CapAdd, "cap-add", nil, "capability to add")
	f.StringArrayVar(&s.CapDrop, "cap-drop", nil, "capability to drop, or ALL")
	f.BoolVar(&s.Privileged, "privileged", false, "all capabilities and devices")
	f.StringVar(&s.Userns, "userns", "", "user namespace: host, or auto for a private one")
	f.StringVar(&s.StopSignal, "stop-signal", "", "signal that asks it to stop (default the image's, else TERM)")
	f.IntVar(&o.stopAfter, "stop-timeout", 0, "seconds from the stop signal to KILL (default 10)")
	show.Must(cmd.RegisterFlagCompletionFunc("userns", show.Fixed("host", "auto")))
}

// networkFlags are about what a container is connected to, and how.
func (o *runFlags) networkFlags(cmd *cobra.Command) {
	f, s := cmd.Flags(), &o.spec
	f.StringArrayVar(&o.networks, "network", nil, "network, host, none, container:NAME, or "+
		"name=NET,ip=…,ip6=…,mac-address=…,alias=…,gw-priority=…,ifname=…,sysctl=…,"+
		"outbound-ip=…,rate-in=…,rate-out=… (default bridge)")
	f.StringArrayVar(&o.networks, "net", nil, "the same as --network")
	show.Must(f.MarkHidden("net"))
	f.StringArrayVarP(&o.publish, "publish", "p", nil, publishUsage)
	f.BoolVarP(&s.PublishAll, "publish-all", "P", false, "publish what it exposes, each port at a free one of the host")
	o.endpoint.flags(cmd, "network-alias")
	f.StringArrayVar(&s.Dns, "dns", nil, "address of a server to ask for names that are none of ours, from inside")
	f.StringArrayVar(&s.DnsSearch, "dns-search", nil, "domain that is added to names; . for none")
	f.StringArrayVar(&s.DnsOptions, "dns-option", nil, "option of resolv.conf(5), such as ndots:1")
	f.StringArrayVar(&s.Expose, "expose", nil, "port that it serves, PORT[-PORT][/tcp|udp|sctp], for SRV records")
	f.StringArrayVar(&o.extraHosts, "add-host", nil, "NAME:ADDRESS for /etc/hosts; NAME:host-gateway for the host")
}

// fileFlags are about what a container's files are.
func (o *runFlags) fileFlags(f *pflag.FlagSet) {
	s := &o.spec
	f.StringArrayVarP(&o.volumes, "volume", "v", nil,
		"SOURCE:TARGET[:ro]; the source is a host path or a volume's name")
	f.StringVar(&o.driver, "volume-driver", "", "driver of volumes that --volume makes (default local)")
	f.StringArrayVar(&o.mounts, "mount", nil,
		"type=bind|volume|tmpfs,source=…,target=…,readonly and further keys of each type")
	several(f, "tmpfs", "file system in memory, PATH[:size=64m,mode=1777,…]", &s.Mounts, flagspec.Tmpfs)
	f.StringArrayVar(&s.VolumesFrom, "volumes-from", nil, "CONTAINER[:ro|rw] whose mounts it has too")
	f.BoolVar(&s.ReadOnly, "read-only", false, "make the root filesystem read-only")
}

// request completes the spec from the flags that need parsing. args is IMAGE [COMMAND…].
func (o *runFlags) request(cmd *cobra.Command, a *App, args []string) (*apiv1.ContainerSpec, error) {
	s := &o.spec
	s.Image, s.Command = args[0], args[1:]
	if s.Image == "" {
		return nil, errors.New("the image's name is empty: list images with 'net images'")
	}
	if cmd.Flags().Changed("entrypoint") {
		s.Entrypoint = []string{o.entrypoint} // one empty string clears the image's
	}
	if cmd.Flags().Changed("stop-timeout") {
		s.StopTimeout = durationpb.New(time.Duration(o.stopAfter) * time.Second)
	}
	if o.stopAfter < 0 {
		return nil, fmt.Errorf("--stop-timeout %d: use a number of seconds", o.stopAfter)
	}
	s.Platform = o.pull.platform
	return s, errors.Join(o.pull.check(), o.strings(a, s), o.files(a, s), o.network(s), o.host.apply(cmd, a, s))
}

func (o *runFlags) strings(a *App, s *apiv1.ContainerSpec) (err error) {
	var labels []string
	for _, name := range o.host.labelFiles {
		lines, err := a.lines("label-file", name, noVariables)
		if err != nil {
			return err
		}
		labels = append(labels, lines...)
	}
	if s.Labels, err = flagspec.KeyValues("label", append(labels, o.labels...)); err != nil {
		return err
	}
	if s.Sysctls, err = flagspec.KeyValues("sysctl", o.sysctls); err != nil {
		return err
	}
	if s.Env, err = a.environment(o.env, o.envFiles); err != nil {
		return err
	}
	for _, h := range o.extraHosts {
		host, err := flagspec.ExtraHost(h)
		if err != nil {
			return err
		}
		s.ExtraHosts = append(s.ExtraHosts, host)
	}
	return nil
}

// files are what is mounted into the container.
func (o *runFlags) files(a *App, s *apiv1.ContainerSpec) error {
	dir, err := a.workingDir()
	if err != nil {
		return err
	}
	for _, v := range o.volumes {
		m, err := flagspec.Mount(v, dir)
		if err != nil {
			return err
		}
		if m.GetVolume() {
			m.Driver = o.driver
		}
		s.Mounts = append(s.Mounts, m)
	}
	for _, v := range o.mounts {
		m, err := flagspec.LongMount(v, dir)
		if err != nil {
			return fmt.Errorf("--mount %q: %w", v, err)
		}
		s.Mounts = append(s.Mounts, m)
	}
	return nil
}

// environment is what --env-file and --env ask for; later ones win in the
// container, so files come first.
func (a *App) environment(values, files []string) ([]string, error) {
	var out []string
	for _, name := range files {
		env, err := a.lines("env-file", name, a.Env)
		if err != nil {
			return nil, err
		}
		out = append(out, env...)
	}
	env, err := flagspec.Env(values, a.Env)
	return slices.Concat(out, env), err
}

// noVariables is an environment without any.
func noVariables(string) (string, bool) { return "", false }

// lines reads a file of variables or labels, for a flag. What has no value is looked up.
func (a *App) lines(flag, name string, lookup func(string) (string, bool)) (lines []string, err error) {
	path, err := a.path(name)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("--%s: %w", flag, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return flagspec.EnvFile(f, flag, name, lookup)
}

func (a *App) workingDir() (string, error) {
	if a.Dir != "" {
		return a.Dir, nil
	}
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the working directory: %w", err)
	}
	return dir, nil
}

func (o *runFlags) network(s *apiv1.ContainerSpec) (err error) {
	for _, n := range o.networks {
		c, err := flagspec.Network(n)
		if err != nil {
			return err
		}
		s.Networks = append(s.Networks, c)
	}
	if o.endpoint.given() {
		switch len(s.Networks) {
		case 0:
			s.Networks = []*apiv1.ConnectRequest{{Network: "bridge"}}
		case 1:
		default:
			return errors.New("--ip, --ip6, --mac-address, --network-alias and --gw-priority do not say which of " +
				"several networks they are for: use --network name=NET,ip=ADDRESS,…")
		}
		if err := o.endpoint.apply(s.Networks[0]); err != nil {
			return err
		}
	}
	s.Ports, err = flagspec.Ports(o.publish)
	return err
}

package lab

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// netd is the command line of a node's daemon. It answers a dockerd on its host, should there be one, at a socket of
// its own: the nodes have one file system.
func (l *state) netd(m Member) []string {
	args := []string{l.program("netd"), "--root", l.path(m.Name, "root"), "--run", l.path(m.Name, "run"),
		"--cgroup-parent", "/" + l.cgroup() + "/" + m.Name, "--docker-plugin", l.path(m.Name, "run", "plugin.sock")}
	if urls := l.Endpoints(); urls != "" {
		args = append(args, "--etcd", urls, "--node-name", m.Name, "--iface", "eth0")
	}
	for _, f := range l.Flags {
		args = append(args, strings.ReplaceAll(f, "RUN/", l.path(m.Name, "run")+"/"))
	}
	return args
}

func (l *state) program(name string) string { return filepath.Join(l.Bin, name) }

// etcd is the command line of an etcd member.
func (l *state) etcd(m Member) []string {
	client := "http://" + netip.AddrPortFrom(m.Addr4, 2379).String()
	if l.Etcd == EtcdEmbedded {
		return []string{l.program("netlab"), "etcd", "--data", l.path(m.Name, "data"), "--url", client}
	}
	var cluster []string
	peer := func(m Member) string { return "http://" + netip.AddrPortFrom(m.Addr4, 2380).String() }
	for _, o := range l.Members {
		if o.Kind == Server {
			cluster = append(cluster, o.Name+"="+peer(o))
		}
	}
	return []string{"etcd", "--name", m.Name, "--data-dir", l.path(m.Name, "data"),
		"--listen-client-urls", client, "--advertise-client-urls", client,
		"--listen-peer-urls", peer(m), "--initial-advertise-peer-urls", peer(m),
		"--initial-cluster", strings.Join(cluster, ","), "--initial-cluster-state", "new", "--initial-cluster-token",
		l.Name,
		"--logger", "zap", "--log-level", "warn"}
}

func (l *processes) etcdReady(ctx context.Context, m Member) error {
	_, err := l.in(ctx, m.Name, "curl", "-sf", "-m", "2",
		"http://"+netip.AddrPortFrom(m.Addr4, 2379).String()+"/health")
	return err
}

func (l *processes) netdReady(ctx context.Context, m Member) error {
	_, err := l.run(ctx, l.program("net"), "--host", "unix://"+l.Socket(m.Name), "status")
	return err
}

// Environ is what a command on one of the lab's hosts finds in its environment: the programs, the node's netd, and
// how the other hosts are reached.
func (l *state) Environ(host string) []string {
	path := l.Bin + ":" + os.Getenv("PATH")
	for _, dir := range []string{"/usr/sbin", "/sbin"} { // not in every root's PATH
		if !strings.Contains(":"+path+":", ":"+dir+":") {
			path += ":" + dir
		}
	}
	env := []string{"PATH=" + path, "LAB=" + l.path(), "ETCDCTL_API=3", "ETCDCTL_ENDPOINTS=" + l.Endpoints()}
	for _, m := range l.Members {
		env = append(env, m.Name+"="+m.Addr4.String())
		if m.Addr6.IsValid() {
			env = append(env, m.Name+"_6="+m.Addr6.String())
		}
		if m.Name == host && m.Kind == Node {
			env = append(env, "VETHLOOM_HOST=unix://"+l.Socket(m.Name), fmt.Sprintf("NETD_PID=%d", m.Proc.PID))
		}
	}
	return env
}

// Command is the command line that runs a command on a host; its environment is [Lab.Environ].
func (l *state) Command(host string, args ...string) ([]string, error) {
	if host != Underlay {
		m, err := l.Member(host)
		if err != nil {
			return nil, err
		}
		if m.Off {
			return nil, fmt.Errorf("host %s is off: netlab fault start %s", host, host)
		}
	}
	return append([]string{"nsenter", "--net=" + l.pin(host), "--"}, args...), nil
}

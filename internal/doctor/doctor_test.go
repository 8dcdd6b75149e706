package doctor

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vethloom/vethloom/internal/kern"
	"github.com/vethloom/vethloom/internal/kern/kerntest"
)

// healthy is a host with nothing to complain about.
func healthy() Facts {
	return Facts{
		Release:  "6.1.0-28-amd64",
		Features: []Feature{{Name: "bridge"}, {Name: "veth"}, {Name: "nft nat maps"}},
		Sysctls: map[string]string{
			"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1", "ipv6/conf/all/disable_ipv6": "0",
			"bridge/bridge-nf-call-iptables": "0", "bridge/bridge-nf-call-ip6tables": "0",
			"ipv4/neigh/default/gc_thresh3": "65536", "ipv6/neigh/default/gc_thresh3": "65536",
		},
		ConntrackCount: 12, ConntrackMax: 262144,
		HostPrefixes: []netip.Prefix{netip.MustParsePrefix("192.168.1.0/24")},
		Networks:     []Subnet{{"front", netip.MustParsePrefix("10.7.0.0/24")}},
		Cgroup:       "v2", Controllers: []string{"cpu", "io", "memory", "pids"},
		Seccomp: true, UserNS: 1000, Overlay: true, AppArmor: true,
		OpenFiles: 1 << 20, InotifyInstances: 1024,
		StateDir: "/var/lib/vethloom", DiskFree: 100 << 30, DiskTotal: 200 << 30, Inodes: 900, InodesTotal: 1000,
		Now: time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC),
	}
}

func TestHealthyHostIsFine(t *testing.T) {
	for _, f := range Examine(healthy()) {
		if f.Severity != OK || f.Remedy != "" {
			t.Errorf("%+v", f)
		}
	}
}

func TestFindings(t *testing.T) {
	set := func(path, value string) func(*Facts) { return func(f *Facts) { f.Sysctls[path] = value } }
	for _, c := range []struct {
		name     string
		change   func(*Facts)
		check    string
		severity Severity
		found    string // part of it
		remedy   string // part of it
	}{
		{"lost outbound address",
			func(f *Facts) { f.LostOutbound = []string{"192.0.2.9, which network web is to leave by"} },
			"outbound address", Warning, "192.0.2.9, which network web", "net network update -o outbound-ip"},
		{"old kernel", func(f *Facts) { f.Release = "4.19.0-27-amd64" }, "kernel version", Error, "5.6 or later",
			"apt install"},
		{"kernel 5.5", func(f *Facts) { f.Release = "5.5.19" }, "kernel version", Error, "5.6", "reboot"},
		{"odd kernel", func(f *Facts) { f.Release = "custom" }, "kernel version", Info, "custom", "features"},
		{"no bridge", func(f *Facts) { f.Features[0].Err = errors.New("operation not supported") }, "feature bridge",
			Error, "bridge networks", "modprobe bridge"},
		{"no tun", func(f *Facts) { f.Features = []Feature{{"tun", errors.New("no such file")}} }, "feature tun",
			Warning, "udp backend", "modprobe tun"},
		{"no sctp", func(f *Facts) { f.Features = []Feature{{"sctp", errors.New("protocol not supported")}} },
			"feature sctp", Info, "SCTP", "modprobe sctp"},
		{"not forwarding", set("ipv4/ip_forward", "0"), "IPv4 forwarding", Warning, "off",
			"sysctl -w net.ipv4.ip_forward=1"},
		{"one link not forwarding", func(f *Facts) { f.DeadEnds = []string{"eth0"} }, "IPv4 forwarding", Warning,
			"comes in by eth0", "sysctl -w net.ipv4.conf.eth0.forwarding=1"},
		{"not forwarding IPv6", set("ipv6/conf/all/forwarding", "0"), "IPv6 forwarding", Warning, "off",
			"net.ipv6.conf.all.forwarding=1"},
		{"no IPv6", func(f *Facts) { delete(f.Sysctls, "ipv6/conf/all/disable_ipv6") }, "IPv6", Info, "none",
			"ipv6.disable=1"},
		{"a link that came late", func(f *Facts) { f.Deaf = []string{"wlan0"} }, "IPv6", Info, "not taken by wlan0",
			"sysctl -w net.ipv6.conf.wlan0.accept_ra=2"},
		{"IPv6 off", set("ipv6/conf/all/disable_ipv6", "1"), "IPv6", Info, "switched off", "disable_ipv6=0"},
		{"foreign drop", func(f *Facts) { f.ForwardDrops = []string{"ip filter FORWARD"} }, "foreign forward policy",
			Warning, "ip filter FORWARD", "iptables -I FORWARD -i 'vlb-+' -j ACCEPT"},
		{"docker's drop", func(f *Facts) { f.ForwardDrops, f.DockerUser = []string{"ip6 filter FORWARD"}, true },
			"foreign forward policy", Warning, "ip6", "ip6tables -I DOCKER-USER -i 'vlb-+'"},
		{"nft's drop", func(f *Facts) { f.ForwardDrops = []string{"inet filter forward"} }, "foreign forward policy",
			Warning, "inet filter forward", `nft insert rule inet filter forward iifname "vlb-*" accept`},
		{"a rule that stops packets", func(f *Facts) {
			f.Blockers = []Blocker{{"ip filter ufw-reject-forward", "ip protocol tcp drop", 12}}
		}, "foreign forward rule", Warning, `"ip protocol tcp drop" in ip filter ufw-reject-forward has stopped 12`,
			`nft insert rule ip filter ufw-reject-forward iifname "vlb-*" accept`},
		{"no nftables where iptables has the rules", func(f *Facts) {
			f.Firewall, f.Features = "iptables (legacy)", []Feature{{"nft bridge", errors.New("not supported")}}
		}, "feature nft bridge", Info, "which has the rules here", "modprobe"},
		{"br_netfilter 6", set("bridge/bridge-nf-call-ip6tables", "1"), "bridge netfilter", Warning, "::1",
			"--bridge-netfilter off"},
		{"br_netfilter 4", set("bridge/bridge-nf-call-iptables", "1"), "bridge netfilter", Info, "IPv4",
			"bridge-nf-call-iptables=0"},
		{"firewalld", func(f *Facts) { f.Processes = []string{"firewalld"} }, "other tools", Info, "firewalld",
			"firewall-cmd --permanent"},
		{"ufw", func(f *Facts) { f.UFW = true }, "other tools", Warning, "ufw", "ufw route allow"},
		{"overlap", func(f *Facts) { f.HostPrefixes = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")} },
			"subnet overlap", Warning, "10.7.0.0/24", "--subnet 172.30.213.0/24 front"},
		{"overlap 6", func(f *Facts) {
			f.Networks[0].Prefix = netip.MustParsePrefix("fd00:7::/64")
			f.HostPrefixes = []netip.Prefix{netip.MustParsePrefix("fd00:7::/48")}
		}, "subnet overlap", Warning, "fd00:7::/64", "--subnet fd00:213::/64 front"},
		{"overlap everywhere", func(f *Facts) {
			f.HostPrefixes = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"),
				netip.MustParsePrefix("192.168.0.0/16")}
		}, "subnet overlap", Warning, "10.0.0.0/8", "--subnet SUBNET, one that"},
		{"strict", func(f *Facts) { f.StrictLinks = []string{"eth0"} }, "reverse path filter", Info, "eth0",
			"rp_filter=2"},
		{"reserved", set("ipv4/ip_local_reserved_ports", "8080"), "reserved ports", Info, "8080",
			"ip_local_reserved_ports="},
		{"conntrack full", func(f *Facts) { f.ConntrackCount = 250000 }, "conntrack table", Error, "250000 of 262144",
			"nf_conntrack_max=1048576"},
		{"conntrack filling", func(f *Facts) { f.ConntrackCount = 200000 }, "conntrack table", Warning, "200000",
			"nf_conntrack_max"},
		{"few neighbours", set("ipv6/neigh/default/gc_thresh3", "1024"), "neighbour table ipv6", Info, "1024",
			"net.ipv6.neigh.default.gc_thresh3=65536"},
		{"no cgroups", func(f *Facts) { f.Cgroup = "" }, "cgroups", Error, "none", "mount -t cgroup2"},
		{"not delegated", func(f *Facts) { f.Controllers = []string{"pids"} }, "cgroups", Warning, "cpu, memory",
			"echo '+cpu +memory'"},
		{"v1 without memory", func(f *Facts) { f.Cgroup, f.Controllers = "v1", []string{"cpu", "pids"} }, "cgroups",
			Warning, "memory", "cgroup_enable=memory"},
		{"no overlay", func(f *Facts) { f.Overlay = false }, "overlayfs", Error, "overlay", "modprobe overlay"},
		{"no seccomp", func(f *Facts) { f.Seccomp = false }, "seccomp", Warning, "profile", "SECCOMP_FILTER"},
		{"no userns", func(f *Facts) { f.UserNS = 0 }, "user namespaces", Info, "none", "max_user_namespaces"},
		{"no fast path", func(f *Facts) { f.FastPath = &FastPath{Missing: "no BPF"} }, "fast path", Info, "no BPF",
			"5.10"},
		{"rules about links", func(f *Facts) { f.FastPath = &FastPath{Rules: true, Links: []string{"vlb-1"}} },
			"fast path", Info, "vlb-1", "fastpath=off"},
		{"rules beside a fast path", func(f *Facts) { f.FastPath = &FastPath{Rules: true} }, "fast path", Info,
			"do not see", "fastpath=off"},
		{"selinux", func(f *Facts) { f.SELinux = "enforcing" }, "security module", Warning, "SELinux", "ausearch"},
		{"few files", func(f *Facts) { f.OpenFiles = 1024 }, "open files", Warning, "1024", "LimitNOFILE"},
		{"few inotify", func(f *Facts) { f.InotifyInstances = 128 }, "inotify", Info, "128", "max_user_instances"},
		{"disk full", func(f *Facts) { f.DiskFree = 1 << 20 }, "disk space", Error, "1 MiB", "du -xh"},
		{"disk low", func(f *Facts) { f.DiskFree = 500 << 20 }, "disk space", Warning, "500 MiB", "net rmi"},
		{"no inodes", func(f *Facts) { f.Inodes = 5 }, "disk space", Warning, "5 of 1000 inodes", "df -i"},
		{"1970", func(f *Facts) { f.Now = time.Unix(0, 0) }, "clock", Error, "1970", "set-ntp"},
		{"unsynchronised", func(f *Facts) { f.ClockUnsynced = true }, "clock", Info, "not synchronised", "set-ntp"},
		{"unknown", func(f *Facts) { f.Unknown = []string{"firewall: operation not permitted"} }, "examination",
			Warning, "not permitted", "as root"},
	} {
		t.Run(c.name, func(t *testing.T) {
			facts := healthy()
			c.change(&facts)
			all := Examine(facts)
			i := slices.IndexFunc(all, func(f Finding) bool { return f.Severity != OK })
			if i < 0 {
				t.Fatal("nothing found")
			}
			got := all[i]
			if got.Check != c.check || got.Severity != c.severity || !strings.Contains(got.Found, c.found) ||
				!strings.Contains(got.Remedy, c.remedy) {
				t.Errorf("got %+v", got)
			}
			for _, f := range all {
				if f.Severity != OK && (f.Remedy == "" || f.Check != c.check) {
					t.Errorf("beside it: %+v", f)
				}
			}
		})
	}
}

func TestWorstComesFirst(t *testing.T) {
	f := healthy()
	f.Overlay, f.UFW, f.ClockUnsynced = false, true, true
	all := Examine(f)
	if all[0].Severity != Error || all[1].Severity != Warning || all[2].Severity == Warning {
		t.Errorf("got %v, %v, %v first", all[0], all[1], all[2])
	}
}

// What a host does not show is no reason to complain.
func TestSilentAboutWhatIsNotKnown(t *testing.T) {
	for _, f := range Examine(Facts{Cgroup: "v1", Controllers: []string{"cpu", "memory", "pids"}, Seccomp: true,
		Overlay: true, UserNS: 1}) {
		if f.Severity != OK {
			t.Errorf("%+v", f)
		}
	}
}

func TestLinksWith(t *testing.T) {
	got := linksWith(map[string]string{
		"ipv4/conf/all/rp_filter": "0", "ipv4/conf/default/rp_filter": "1", "ipv4/conf/lo/rp_filter": "1",
		"ipv4/conf/eth1/rp_filter": "1", "ipv4/conf/eth0/rp_filter": "1", "ipv4/conf/eth2/rp_filter": "2",
		"ipv4/ip_forward": "1",
	}, "rp_filter", func(v string) bool { return v == "1" })
	if d := cmp.Diff([]string{"eth0", "eth1"}, got); d != "" {
		t.Error(d)
	}
}

func TestCgroupVersions(t *testing.T) {
	for want, files := range map[string]map[string]string{
		"v2 cpu memory":  {"cgroup.controllers": "cpu io memory", "cgroup.subtree_control": "cpu memory"},
		"v1 cpu cpuacct": {"cpu,cpuacct/cgroup.procs": "", "cpu/cgroup.procs": "", "systemd/cgroup.procs": ""},
		"hybrid memory":  {"memory/cgroup.procs": "", "unified/cgroup.controllers": ""},
		"":               {"other/file": ""},
		"v2 pids":        {"cgroup.controllers": "", "cgroup.subtree_control": "pids"},
		"hybrid cpu memory": {"cpu/cgroup.procs": "", "memory/cgroup.procs": "", "unified/cgroup.controllers": "",
			"unified/cgroup.procs": ""},
	} {
		root := t.TempDir()
		for name, content := range files {
			path := filepath.Join(root, "sys/fs/cgroup", name)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		var f Facts
		if err := (Host{Root: root}).cgroups(&f); err != nil {
			t.Error(err)
		}
		if got := strings.TrimSpace(f.Cgroup + " " + strings.Join(f.Controllers, " ")); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// A fresh namespace of a machine that runs these tests: all that is needed is
// there, forwarding is off, and somebody's firewall drops what is forwarded.
func TestRunOnThisHost(t *testing.T) {
	env := kerntest.New(t)
	k, err := kern.Open(kern.Config{RunDir: env.RunDir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	})
	env.Sh(`sysctl -qw net.ipv4.ip_forward=0
		ip link add up0 type bridge
		ip addr add 10.7.0.9/16 dev up0
		ip link set up0 up
		nft 'add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; };
			add chain ip filter DOCKER-USER'`)
	t.Cleanup(func() { env.Run("ip", "link", "del", "up0") })
	h := Host{Kernel: k, StateDir: t.TempDir(), Networks: []Subnet{{"front", netip.MustParsePrefix("10.7.0.0/24")}}}
	all := Run(context.Background(), h)
	got := map[string]Finding{}
	for _, f := range all {
		t.Logf("%-8s %-24s %s | %s", f.Severity, f.Check, f.Found, f.Remedy)
		got[f.Check] = f
		if (f.Severity == OK) != (f.Remedy == "") {
			t.Errorf("a remedy is for what is not fine: %+v", f)
		}
	}
	for check, want := range map[string]Severity{
		"kernel version": OK, "feature bridge": OK, "feature veth": OK, "feature nft nat maps": OK,
		"feature nft bridge": OK, "feature conntrack": OK,
		"IPv4 forwarding": Warning, "foreign forward policy": Warning, "subnet overlap": Warning,
	} {
		if f, ok := got[check]; !ok || f.Severity != want {
			t.Errorf("%s: got %+v, want %s", check, f, want)
		}
	}
	if f := got["foreign forward policy"]; !strings.Contains(f.Remedy, "DOCKER-USER") ||
		!strings.Contains(f.Found, "ip filter FORWARD") {
		t.Errorf("got %+v", f)
	}
	if _, ok := got["examination"]; ok {
		t.Errorf("something could not be looked at: %+v", got["examination"])
	}
}

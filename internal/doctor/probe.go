package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/internal/kern"
	"github.com/vethloom/vethloom/internal/kern/host"
)

// Host is a [Probe] of the host this process runs on.
type Host struct {
	Kernel   *kern.Kernel
	StateDir string
	Networks []Subnet // of vethloom's networks; optional
	Cluster  *Cluster // nil: this node is in none
	// DockerPlugin is the socket that netd answers dockerd at, "" for none.
	DockerPlugin  string
	FollowsDocker bool // netd asks a dockerd for its containers
	// Root is prepended to every path outside /proc/sys/net, for tests; "" is the host's own.
	Root string
}

// toolNames are the processes looked for.
var toolNames = []string{"dockerd", "containerd", "crio", "firewalld", "k3s", "kubelet", "flanneld"}

// Facts implements [Probe].
func (h Host) Facts(ctx context.Context) Facts {
	f := Facts{StateDir: h.StateDir, Now: time.Now()}
	learn := func(what string, err error) {
		if err != nil {
			f.Unknown = append(f.Unknown, fmt.Sprintf("%s: %v", what, err))
		}
	}
	learn("kernel release", h.release(&f))
	learn("kernel features", h.features(ctx, &f))
	learn("sysctls", h.sysctls(ctx, &f))
	learn("firewall", h.firewall(ctx, &f))
	learn("routes", h.routes(ctx, &f))
	learn("processes", h.processes(&f))
	learn("cgroups", h.cgroups(&f))
	learn("disk", h.disk(&f))
	learn("limits", h.limits(&f))
	h.security(&f)
	h.cni(&f)
	h.engines(ctx, &f)
	f.Networks, f.Cluster = h.Networks, h.Cluster
	return f
}

func (h Host) path(p string) string { return filepath.Join("/", h.Root, p) }

// text is a file's content without surrounding space, or "" when there is none.
func (h Host) text(p string) string {
	b, err := os.ReadFile(h.path(p))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func (h Host) exists(p string) bool {
	_, err := os.Stat(h.path(p))
	return err == nil
}

// module reports whether a module is installed, so that the kernel loads it when it is needed.
func (h Host) module(release, pattern string) bool {
	found, err := filepath.Glob(h.path("/lib/modules/" + release + "/kernel/" + pattern))
	return err == nil && len(found) > 0
}

func (h Host) release(f *Facts) error {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return err
	}
	f.Release = unix.ByteSliceToString(u.Release[:])
	return nil
}

func (h Host) features(ctx context.Context, f *Facts) error {
	all, err := host.Features(ctx)
	for _, feature := range all {
		f.Features = append(f.Features, Feature(feature))
	}
	return err
}

func (h Host) sysctls(ctx context.Context, f *Facts) error {
	all, err := h.Kernel.ReadSysctls(ctx, "ipv4/ip_forward", "ipv6/conf/all/forwarding", "ipv6/conf/all/disable_ipv6",
		"bridge/bridge-nf-call-ip*tables", "ipv4/conf/*/rp_filter", "ipv4/conf/*/forwarding",
		"ipv4/ip_local_reserved_ports",
		"netfilter/nf_conntrack_count", "netfilter/nf_conntrack_max", "ipv4/neigh/default/gc_thresh3",
		"ipv6/neigh/default/gc_thresh3")
	if err != nil {
		return err
	}
	f.Sysctls = all
	f.ConntrackCount, _ = strconv.Atoi(all["netfilter/nf_conntrack_count"])
	f.ConntrackMax, _ = strconv.Atoi(all["netfilter/nf_conntrack_max"])
	strict := all["ipv4/conf/all/rp_filter"] // the greater of the link's and that of "all" counts
	f.StrictLinks = linksWith(all, "rp_filter", func(v string) bool { return max(v, strict) == "1" })
	own, err := h.Kernel.OwnLinks(ctx) // forward as netd has decided: a LAN's bridge does not
	if err != nil {
		return err
	}
	f.DeadEnds = slices.DeleteFunc(linksWith(all, "forwarding", func(v string) bool { return v == "0" }),
		func(link string) bool { return slices.Contains(own, link) })
	f.Deaf, err = h.Kernel.DeafLinks(ctx)
	return err
}

// linksWith are the links with such a value of a sysctl of IPv4.
func linksWith(sysctls map[string]string, name string, is func(string) bool) []string {
	const dir = "ipv4/conf/"
	file := "/" + name
	var out []string
	for path, v := range sysctls {
		link, isLink := strings.CutPrefix(path, dir)
		link, named := strings.CutSuffix(link, file)
		if isLink && named && link != "all" && link != "default" && link != "lo" && is(v) {
			out = append(out, link)
		}
	}
	slices.Sort(out)
	return out
}

func (h Host) firewall(ctx context.Context, f *Facts) (err error) {
	f.ForwardDrops, f.DockerUser, err = h.Kernel.ForeignForward(ctx)
	if blockers, e := h.Kernel.ForwardBlockers(ctx); e == nil {
		for _, b := range blockers {
			f.Blockers = append(f.Blockers, Blocker(b))
		}
	} else {
		err = errors.Join(err, e)
	}
	f.Firewall = h.Kernel.Firewall()
	f.UFW = slices.Contains(strings.Fields(h.text("/etc/ufw/ufw.conf")), "ENABLED=yes")
	return err
}

func (h Host) routes(ctx context.Context, f *Facts) (err error) {
	f.HostPrefixes, err = h.Kernel.HostPrefixes(ctx)
	return err
}

// processes finds those in this network namespace: others configure another network.
func (h Host) processes(f *Facts) error {
	own, _ := os.Readlink(h.path("/proc/self/ns/net"))
	files, err := filepath.Glob(h.path("/proc/[0-9]*/comm"))
	for _, file := range files {
		b, err := os.ReadFile(file)
		name := strings.TrimSpace(string(b))
		if err != nil || !slices.Contains(toolNames, name) || slices.Contains(f.Processes, name) {
			continue
		}
		if its, _ := os.Readlink(filepath.Join(filepath.Dir(file), "ns/net")); its == own {
			f.Processes = append(f.Processes, name)
		}
	}
	slices.Sort(f.Processes)
	return err
}

// cgroups tells the versions apart as systemd does: v2 is mounted at the top, or
// beside v1's controllers, or not at all.
func (h Host) cgroups(f *Facts) error {
	const top = "/sys/fs/cgroup"
	f.UserNS, _ = strconv.Atoi(h.text("/proc/sys/user/max_user_namespaces"))
	f.Overlay = slices.Contains(strings.Fields(h.text("/proc/filesystems")), "overlay") ||
		h.module(f.Release, "fs/overlayfs/overlay.ko*")
	f.Seccomp = strings.Contains(h.text("/proc/sys/kernel/seccomp/actions_avail"), "errno")
	if h.exists(top + "/cgroup.controllers") {
		f.Cgroup, f.Controllers = "v2", strings.Fields(h.text(top+"/cgroup.subtree_control"))
		return nil
	}
	entries, err := os.ReadDir(h.path(top))
	if os.IsNotExist(err) {
		return nil
	}
	for _, e := range entries {
		if e.Name() != "unified" && e.Name() != "systemd" && h.exists(top+"/"+e.Name()+"/cgroup.procs") {
			f.Cgroup = "v1"
			f.Controllers = append(f.Controllers, strings.Split(e.Name(), ",")...)
		}
	}
	if h.exists(top + "/unified/cgroup.controllers") {
		f.Cgroup = "hybrid"
	}
	slices.Sort(f.Controllers)
	f.Controllers = slices.Compact(f.Controllers)
	return err
}

func (h Host) disk(f *Facts) error {
	if h.StateDir == "" {
		return nil
	}
	var s unix.Statfs_t
	if err := unix.Statfs(h.StateDir, &s); err != nil {
		return fmt.Errorf("%s: %w", h.StateDir, err)
	}
	size := uint64(s.Bsize)
	f.DiskFree, f.DiskTotal = s.Bavail*size, s.Blocks*size
	f.Inodes, f.InodesTotal = s.Ffree, s.Files
	return nil
}

func (h Host) limits(f *Facts) error {
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		return err
	}
	f.OpenFiles = r.Cur
	f.InotifyInstances, _ = strconv.Atoi(h.text("/proc/sys/fs/inotify/max_user_instances"))
	var t unix.Timex // no modes set: only read
	state, err := unix.Adjtimex(&t)
	f.ClockUnsynced = err == nil && state == unix.TIME_ERROR
	return err
}

func (h Host) security(f *Facts) {
	f.AppArmor = h.text("/sys/module/apparmor/parameters/enabled") == "Y"
	switch h.text("/sys/fs/selinux/enforce") {
	case "0":
		f.SELinux = "permissive"
	case "1":
		f.SELinux = "enforcing"
	}
}

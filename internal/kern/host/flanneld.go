package host

import (
	"os"
	"path"
	"strconv"
	"strings"
)

// flannelDefault is flanneld's -etcd-prefix when none is given.
const flannelDefault = "/coreos.com/network"

// Flanneld names the flanneld that runs on this host, in this network namespace, as a member of a
// directory in etcd: "flanneld (pid 812)". "" when there is none. It goes by /proc/PID/comm and
// cmdline, proc(5); a process that ends meanwhile is none.
func (h *Host) Flanneld(dir string) string {
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return ""
	}
	here, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(h.fd))
	if err != nil {
		return ""
	}
	for _, p := range procs {
		if _, err := strconv.Atoi(p.Name()); err != nil {
			continue
		}
		proc := "/proc/" + p.Name()
		if comm, err := os.ReadFile(proc + "/comm"); err != nil || strings.TrimSpace(string(comm)) != "flanneld" {
			continue
		}
		if ns, err := os.Readlink(proc + "/ns/net"); err != nil || ns != here {
			continue
		}
		args, err := os.ReadFile(proc + "/cmdline")
		if err != nil {
			continue
		}
		env, err := os.ReadFile(proc + "/environ")
		if err != nil {
			continue
		}
		if flannelDir(strings.Split(string(args), "\x00"), strings.Split(string(env), "\x00")) == path.Clean(dir) {
			return "flanneld (pid " + p.Name() + ")"
		}
	}
	return ""
}

// flannelDir is the directory that a flanneld was started for; "" when its leases are not in etcd. Flags go
// before the environment, as flanneld has it.
func flannelDir(args, env []string) string {
	dir := flannelDefault
	for _, v := range env {
		if value, ok := strings.CutPrefix(v, "FLANNELD_ETCD_PREFIX="); ok && value != "" {
			dir = value
		}
		if strings.EqualFold(v, "FLANNELD_KUBE_SUBNET_MGR=true") {
			return ""
		}
	}
	for i, arg := range args {
		if !strings.HasPrefix(arg, "-") {
			continue
		}
		name, value, given := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		switch {
		case name == "etcd-prefix" && given:
			dir = value
		case name == "etcd-prefix" && i+1 < len(args):
			dir = args[i+1]
		case name == "kube-subnet-mgr" && (!given || value == "true"):
			return ""
		}
	}
	return path.Clean(dir)
}

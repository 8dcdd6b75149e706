package arch

import (
	"slices"
	"strings"
	"testing"
)

// layers, from the bottom: a room imports rooms of its own layer or below.
// Rooms that are not named here (internal/version, say) must be leaves: they import
// nothing of this module but other leaves, and anyone may import them.
var layers = [][]string{
	{"plan"},
	{"internal/etcd", "internal/resolver/control"},
	{"cnm", "subnet", "ipam", "internal/kern", "internal/firewall"},
	{"internal/store", "backend", "drivers"},
	{"cnm/controller", "internal/reconcile", "internal/render", "internal/cluster", "internal/dns",
		"internal/resolver", "internal/doctor",
		"engine", "plugin", "api"},
	{"internal/daemon", "internal/cli", "internal/build"},
	{"internal/lab"},
	{"cmd", "labs", "bench", "internal/e2e"},
}

// layerOf returns the layer of a directory of this module, and false for a leaf.
// A room inside another one that is named too has its own layer.
func layerOf(dir string) (layer int, layered bool) {
	longest := ""
	for i, rooms := range layers {
		for _, room := range rooms {
			if within(dir, room) && len(room) > len(longest) {
				layer, layered, longest = i, true, room
			}
		}
	}
	return layer, layered
}

// within reports whether dir is room or below it.
func within(dir, room string) bool {
	return dir == room || strings.HasPrefix(dir, room+"/")
}

func TestImportsPointDown(t *testing.T) {
	for _, p := range load(t).module() {
		from, layered := layerOf(p.Dir)
		for _, dep := range p.own() {
			to, depLayered := layerOf(dep)
			switch {
			case !depLayered:
			case !layered:
				t.Errorf("%s imports %s, but it has no layer: give it one in layers, or let it import nothing of "+
					"this module", p.Dir, dep)
			case to > from:
				t.Errorf("%s imports %s, which is in a layer above it", p.Dir, dep)
			}
		}
	}
}

// kernelLibraries change links, addresses, firewalls or namespaces.
var kernelLibraries = []string{
	"github.com/vishvananda/netlink",
	"github.com/vishvananda/netns",
	"github.com/google/nftables",
	"github.com/coreos/go-iptables",
	"github.com/mdlayher/netlink",
	"github.com/mdlayher/socket",
}

func TestOnlyKernTouchesTheKernel(t *testing.T) {
	for _, p := range load(t).module() {
		if within(p.Dir, "internal/kern") {
			continue
		}
		for _, imp := range p.Imports {
			for _, lib := range kernelLibraries {
				if within(imp, lib) {
					t.Errorf("%s imports %s; only internal/kern may", p.Dir, imp)
				}
			}
		}
	}
}

func TestPlanIsStandardLibraryOnly(t *testing.T) {
	p := load(t).find(t, "plan")
	for _, imp := range p.Imports {
		if first, _, _ := strings.Cut(imp, "/"); strings.Contains(first, ".") {
			t.Errorf("plan imports %s; it is to be data and the standard library", imp)
		}
	}
}

// graphs lists what must not be linked into a program, directly or not.
var graphs = []struct {
	program, why string
	forbidden    []string
}{
	{"cmd/net-shim", "one runs for each container, and package initialisation is start-up time", []string{
		"google.golang.org/grpc", "github.com/spf13/cobra", "go.etcd.io", "github.com/google/nftables",
		"github.com/google/go-containerregistry", "github.com/prometheus/client_golang", "net/http",
	}},
	{"cmd/net", "the command line is a client; it must start fast", []string{
		"github.com/opencontainers/runc", "github.com/vishvananda/netlink", "github.com/google/nftables",
		"go.etcd.io", "github.com/prometheus/client_golang", "github.com/google/go-containerregistry",
		"github.com/moby/buildkit",
	}},
	{"cmd/netd", "libcontainer lives in net-shim: it brings cgo and threads in namespaces", []string{
		"github.com/opencontainers/runc/libcontainer",
	}},
}

func TestProgramsStayLean(t *testing.T) {
	pkgs := load(t)
	for _, g := range graphs {
		p, ok := pkgs[g.program]
		if !ok {
			t.Errorf("%s does not exist", g.program)
			continue
		}
		for _, dep := range p.Deps {
			for _, bad := range g.forbidden {
				if within(dep, bad) {
					t.Errorf("%s is linked into %s: %s", dep, g.program, g.why)
				}
			}
		}
	}
}

func TestNoGrabBagPackages(t *testing.T) {
	for _, p := range load(t).module() {
		for _, part := range strings.Split(p.Dir, "/") {
			if slices.Contains([]string{"util", "utils", "common", "helper", "helpers", "misc", "shared"}, part) {
				t.Errorf("%s: a package is named after what it provides, not %q", p.Dir, part)
			}
		}
	}
}

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	for _, p := range load(t).module() {
		if p.Doc == "" && len(p.GoFiles) > 0 {
			t.Errorf("%s has no package comment", p.Dir)
		}
	}
}

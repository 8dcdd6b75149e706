package doctor

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Engines are those of others that run on the host, in netd's network namespace, or are installed on it.
type Engines struct {
	Docker   *Docker   // nil: no dockerd runs
	Runtime  string    // socket of a containerd or a CRI-O that runs; "": neither does
	Netavark *Netavark // nil: there is none, or Podman uses CNI
}

// Docker is a dockerd, and how it finds netd.
type Docker struct {
	Socket  string // of dockerd
	Plugin  string // where netd answers dockerd; "": nowhere
	There   bool   // a file is at [dockerPlugin]
	Answers bool   // as a network driver
	Asked   bool   // netd asks it for its containers
	Spec    string // a file that says where the driver vethloom is, if it is not at [dockerPlugin]; "": none
}

// Netavark is what Podman makes networks by.
type Netavark struct {
	Path, Version string
	Folders       []string // of plugins
	Linked        bool     // our program is in one of them
}

// Where dockerd looks for a driver: first there, then in the folders of files that say where it is.
const dockerPlugin = "/run/docker/plugins/vethloom.sock"

var dockerSpecs = []string{"/etc/docker/plugins", "/usr/lib/docker/plugins"}

// Where engines answer.
var (
	dockerSockets  = []string{"/run/docker.sock", "/var/run/docker.sock"}
	runtimeSockets = map[string]string{"containerd": "/run/containerd/containerd.sock", "crio": "/run/crio/crio.sock"}
)

// localNetavark is the folder of plugins that an administrator's own are put into.
const localNetavark = "/usr/local/lib/netavark"

// Where Podman looks for netavark, and netavark for plugins, unless they are told otherwise.
var (
	podmanFolders = []string{"/usr/local/libexec/podman", "/usr/libexec/podman", "/usr/local/lib/podman",
		"/usr/lib/podman"}
	netavarkFolders = []string{"/usr/local/libexec/netavark", "/usr/libexec/netavark", localNetavark,
		"/usr/lib/netavark"}
)

// netavarkPlugin is our program by the name that Podman's users give as a driver.
const netavarkPlugin = "vethloom"

// askTime is how long a dockerd's plugin, or a program that is asked for its version, may take.
const askTime = 2 * time.Second

// engines finds what runs; the processes are known already.
func (h Host) engines(ctx context.Context, f *Facts) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	if slices.Contains(f.Processes, "dockerd") {
		f.Engines.Docker = h.docker(ctx)
	}
	for process, socket := range runtimeSockets {
		if slices.Contains(f.Processes, process) && h.isSocket(socket) {
			f.Engines.Runtime = socket
		}
	}
	f.Engines.Netavark = h.netavark(ctx)
}

func (h Host) isSocket(path string) bool {
	s, err := os.Stat(h.path(path))
	return err == nil && s.Mode().Type() == os.ModeSocket
}

// docker is nil where dockerd does not answer at a usual place: that is not the one that docker asks.
func (h Host) docker(ctx context.Context) *Docker {
	i := slices.IndexFunc(dockerSockets, h.isSocket)
	if i < 0 {
		return nil
	}
	d := &Docker{Socket: dockerSockets[i], Plugin: h.DockerPlugin, There: h.exists(dockerPlugin),
		Asked: h.FollowsDocker}
	d.Answers = d.There && isDriver(ctx, h.path(dockerPlugin))
	for _, folder := range dockerSpecs {
		for _, kind := range []string{".spec", ".json"} {
			if spec := filepath.Join(folder, "vethloom"+kind); d.Spec == "" && h.exists(spec) {
				d.Spec = spec
			}
		}
	}
	return d
}

// isDriver reports whether a network driver of Docker's answers at a socket.
func isDriver(ctx context.Context, path string) bool {
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn,
		error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://plugin/Plugin.Activate", nil)
	if err != nil {
		return false
	}
	a, err := transport.RoundTrip(r)
	if err != nil {
		return false
	}
	defer a.Body.Close()
	var is struct{ Implements []string }
	err = json.NewDecoder(http.MaxBytesReader(nil, a.Body, maxConfig)).Decode(&is)
	return err == nil && slices.Contains(is.Implements, "NetworkDriver")
}

// netavark asks for the version: no file says it.
func (h Host) netavark(ctx context.Context) *Netavark {
	backend, folders := h.podmanNetwork()
	i := slices.IndexFunc(podmanFolders, func(dir string) bool { return h.exists(filepath.Join(dir, "netavark")) })
	if i < 0 || backend == "cni" {
		return nil
	}
	n := &Netavark{Path: filepath.Join(podmanFolders[i], "netavark"), Folders: folders}
	n.Linked = slices.ContainsFunc(folders,
		func(dir string) bool { return h.exists(filepath.Join(dir, netavarkPlugin)) })
	cmd := exec.CommandContext(ctx, h.path(n.Path), "--version")
	cmd.WaitDelay = askTime
	if out, err := cmd.Output(); err == nil {
		n.Version = strings.TrimSpace(strings.TrimPrefix(string(out), "netavark "))
	}
	return n
}

var (
	backendSetting = regexp.MustCompile(`(?m)^\s*network_backend\s*=\s*"([^"]*)"`)
	foldersSetting = regexp.MustCompile(`(?m)^\s*netavark_plugin_dirs\s*=\s*\[([^\]]*)\]`)
	quoted         = regexp.MustCompile(`"([^"]*)"`)
)

// podmanNetwork reads what Podman is told of its networks, and what it has chosen itself when it was first used.
func (h Host) podmanNetwork() (backend string, folders []string) {
	backend, folders = h.text("/var/lib/containers/storage/defaultNetworkBackend"), netavarkFolders
	more, _ := filepath.Glob(h.path("/etc/containers/containers.conf.d/*.conf")) // the pattern is right
	files := []string{h.path("/usr/share/containers/containers.conf"), h.path("/etc/containers/containers.conf")}
	for _, file := range append(files, more...) {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		if m := backendSetting.FindSubmatch(text); m != nil && len(m[1]) > 0 {
			backend = string(m[1])
		}
		if m := foldersSetting.FindSubmatch(text); m != nil {
			folders = nil
			for _, dir := range quoted.FindAllSubmatch(m[1], -1) {
				folders = append(folders, string(dir[1]))
			}
		}
	}
	return backend, folders
}

// knowsPlugins reports whether a netavark of a version runs plugins, as 1.6 was the first to do. known is false for
// what is no version.
func knowsPlugins(version string) (knows, known bool) {
	parts := strings.SplitN(version, ".", 3)
	if len(parts) < 2 {
		return false, false
	}
	major, err := strconv.Atoi(parts[0])
	minor, err2 := strconv.Atoi(parts[1])
	if err != nil || err2 != nil {
		return false, false
	}
	return major > 1 || major == 1 && minor >= 6, true
}

package doctor

import (
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// tree is a host's file system, of which only what a test puts there is looked at.
type tree struct {
	*testing.T
	root string
}

// newTree has a short path: that of a socket has a limit.
func newTree(t *testing.T) tree {
	t.Helper()
	root, err := os.MkdirTemp("", "doctor")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(root); err != nil {
			t.Error(err)
		}
	})
	return tree{t, root}
}

func (t tree) put(path, text string) {
	t.Helper()
	path = filepath.Join(t.root, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}

func (t tree) remove(path string) {
	t.Helper()
	if err := os.RemoveAll(filepath.Join(t.root, path)); err != nil {
		t.Fatal(err)
	}
}

// listen makes a socket that answers what it is asked, until the test ends or stop is called; the file stays.
func (t tree) listen(path, answer string) (stop func()) {
	t.Helper()
	path = filepath.Join(t.root, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, answer) // who asks checks it
	})}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	stop = sync.OnceFunc(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		<-done
	})
	t.Cleanup(stop)
	return stop
}

// is wants one finding of a check, or none where found is empty.
func (t tree) is(h Host, check func(Facts) []Finding, severity Severity, found, remedy string) {
	t.Helper()
	h.Root = t.root
	var f Facts
	if err := h.processes(&f); err != nil {
		t.Fatal(err)
	}
	h.cni(&f)
	h.engines(t.Context(), &f)
	all := check(f)
	switch {
	case found == "" && len(all) == 0:
	case found == "" || len(all) != 1 || all[0].Severity != severity || !strings.Contains(all[0].Found, found) ||
		!strings.Contains(all[0].Remedy, remedy) || (severity == OK) != (all[0].Remedy == ""):
		t.Errorf("%+v, want %s, %q, %q", all, severity, found, remedy)
	}
}

// What CNI runtimes would do is told from what is in their folders.
func TestCNIRuntimes(t *testing.T) {
	host := newTree(t)
	put := host.put
	is := func(severity Severity, found, remedy string) {
		t.Helper()
		host.is(Host{}, cniRuntimes, severity, found, remedy)
	}
	is(OK, "", "")
	put("etc/cni/net.d/README", "no configuration")
	is(OK, "", "")
	put("etc/cni/net.d/20-bridge.conflist", `{"name": "b", "plugins": [{"type": "bridge"}]}`)
	is(Info, "20-bridge.conflist", `"vethloom-cni"}]}' >/etc/cni/net.d/00-web.conflist`)
	put("etc/cni/net.d/30-web.conflist", `{"name": "web", "plugins": [{"type": "vethloom-cni"}]}`)
	is(Warning, "in none of /opt/cni/bin", "ln -s $(command -v vethloom-cni) /opt/cni/bin/")
	put("usr/lib/cni/vethloom-cni", "")
	is(Warning, "20-bridge.conflist, and not 30-web.conflist", "mv /etc/cni/net.d/30-web.conflist")
	if err := os.Rename(filepath.Join(host.root, "etc/cni/net.d/30-web.conflist"),
		filepath.Join(host.root, "etc/cni/net.d/10-web.conf")); err != nil {
		t.Fatal(err)
	}
	is(OK, "10-web.conf is used", "")
	if err := os.Symlink("/dev/zero", filepath.Join(host.root, "etc/cni/net.d/00-zero.conf")); err != nil {
		t.Fatal(err)
	}
	is(OK, "10-web.conf is used", "")
}

// A runtime without a configuration is told of, but for the containerd that belongs to a dockerd.
func TestCNIRuntimesWithoutConfiguration(t *testing.T) {
	for process, socket := range runtimeSockets {
		host := newTree(t)
		is := func(severity Severity, found, remedy string) {
			t.Helper()
			host.is(Host{}, cniRuntimes, severity, found, remedy)
		}
		host.listen(socket, "")
		is(OK, "", "") // of another network namespace, or of one that has ended
		host.put("proc/7/comm", process+"\n")
		is(Info, socket+" is there", `"vethloom-cni"}]}' >/etc/cni/net.d/10-web.conflist`)
		host.put("proc/8/comm", "dockerd\n")
		is(Info, socket+" is there", "")
		host.listen("run/docker.sock", "")
		is(OK, "", "")
	}
}

// What keeps a dockerd from netd is told, whoever is at fault.
func TestDockerThatIsNotJoined(t *testing.T) {
	const ours = "/run/vethloom-a/docker.sock"
	host := newTree(t)
	follows := true
	is := func(plugin string, severity Severity, found, remedy string) {
		t.Helper()
		host.is(Host{DockerPlugin: plugin, FollowsDocker: follows}, dockerJoined, severity, found, remedy)
	}
	host.put("proc/7/comm", "dockerd\n")
	is(dockerPlugin, OK, "", "") // its socket is elsewhere
	host.listen("var/run/docker.sock", "")
	is("", Info, "/var/run/docker.sock is there, and no "+dockerPlugin, "systemctl restart netd")
	is(ours, Info, "its containers are on no network", "ln -sf "+ours+" "+dockerPlugin)
	host.put("etc/docker/plugins/vethloom.json", "{}")
	is(dockerPlugin, Warning, "where /etc/docker/plugins/vethloom.json says", "rm /etc/docker/plugins/vethloom.json")
	host.remove("etc/docker")
	host.put("usr/lib/docker/plugins/vethloom.spec", "tcp://192.0.2.1:8080")
	is(ours, Warning, "where /usr/lib/docker/plugins/vethloom.spec says", "vethloom.spec; ln -sf "+ours)
	host.put(dockerPlugin, "no socket")
	is(dockerPlugin, Warning, "no network driver answers", "systemctl restart netd")
	host.remove(dockerPlugin)
	host.listen(dockerPlugin, `{"Implements": ["VolumeDriver"]}`)
	is(dockerPlugin, Warning, "no network driver answers", "systemctl restart netd")
	host.remove(dockerPlugin)
	stop := host.listen(dockerPlugin, `{"Implements": ["NetworkDriver", "IpamDriver"]}`)
	is(dockerPlugin, OK, "dockerd finds netd", "")
	follows = false
	is(dockerPlugin, Info, "have no names here", "--docker unix:///var/run/docker.sock")
	is("", Warning, "another program", "--docker-plugin off")
	stop()
	is(dockerPlugin, Warning, "no network driver answers", "systemctl restart netd")
}

// Whether Podman can use our plugin is told from netavark's version and Podman's configuration.
func TestPodmanThatIsNotJoined(t *testing.T) {
	host := newTree(t)
	is := func(severity Severity, found, remedy string) {
		t.Helper()
		host.is(Host{}, podmanJoined, severity, found, remedy)
	}
	version := func(text string) { host.put("usr/lib/podman/netavark", "#!/bin/sh\necho "+text) }
	is(OK, "", "")
	version("netavark 1.4.0")
	is(Info, "netavark 1.4.0 runs no plugins", "docs/engines.md")
	version("netavark 1.6.0-rc1")
	is(Info, "no vethloom is in /usr/local/libexec/netavark, /usr/libexec/netavark",
		"mkdir -p /usr/local/lib/netavark && ln -s $(command -v vethloom-cni) /usr/local/lib/netavark/vethloom")
	version("netavark 2.0.0")
	host.put("usr/lib/netavark/vethloom", "")
	is(OK, "netavark 2.0.0 finds the driver vethloom", "")
	host.put("etc/containers/containers.conf", "[network]\n# netavark_plugin_dirs = [\"/no\"]\n"+
		"netavark_plugin_dirs = [\n  \"/opt/plugins\", \"/srv/plugins\"]\n")
	is(Info, "no vethloom is in /opt/plugins, /srv/plugins", "/opt/plugins/vethloom")
	host.put("etc/containers/containers.conf.d/a.conf", "netavark_plugin_dirs = []\n")
	is(Info, "netavark_plugin_dirs of containers.conf is empty", `netavark_plugin_dirs = ["/usr/local/lib/netavark"]`)
	version("nothing that is a version")
	is(Info, "does not say its version", "--version")
	host.put("var/lib/containers/storage/defaultNetworkBackend", "cni")
	is(OK, "", "")
	host.put("etc/containers/containers.conf.d/b.conf", "network_backend = \"netavark\"\n")
	is(Info, "does not say its version", "--version")
}

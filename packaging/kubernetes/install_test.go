package kubernetes

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/containernetworking/cni/libcni"
)

const (
	conflist = "10-vethloom.conflist"
	program  = "vethloom-cni"
)

// host is a node as the install step sees it.
type host struct {
	t            *testing.T
	dir          string
	tools        string // programs in the place of the system's: "" for these
	conf, bin    string
	plugin, text string // what is to be installed
	env          []string
}

func newHost(t *testing.T) *host {
	t.Helper()
	dir := t.TempDir()
	h := &host{t: t, dir: dir, conf: dir + "/conf", bin: dir + "/bin", plugin: dir + "/plugin",
		text: "overlay/cni.conflist"}
	for _, d := range []string{h.conf, h.bin, dir + "/tmp"} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	h.newPlugin()
	return h
}

// newPlugin is another version of the program.
func (h *host) newPlugin() []byte {
	h.t.Helper()
	b := make([]byte, 200_000)
	_, _ = rand.Read(b) // never fails
	h.write(h.plugin, b, 0o755)
	return b
}

func (h *host) write(path string, text []byte, mode os.FileMode) {
	h.t.Helper()
	if err := os.WriteFile(path, text, mode); err != nil {
		h.t.Fatal(err)
	}
}

// run runs the script, and reports how it ended.
func (h *host) run(args ...string) (string, error) {
	h.t.Helper()
	cmd := exec.CommandContext(h.t.Context(), "./install.sh", args...)
	cmd.Env = append([]string{"PATH=" + cmp.Or(h.tools, os.Getenv("PATH")), "CONF_DIR=" + h.conf, "BIN_DIR=" + h.bin,
		"PLUGIN=" + h.plugin, "TEMPLATE=" + h.text, "RUN_DIR=" + h.dir + "/run", "ROOT_DIR=" + h.dir + "/root",
		"TMPDIR=" + h.dir + "/tmp", "COUNT=" + h.dir + "/count"}, h.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a step kills its group
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (h *host) ok(args ...string) {
	h.t.Helper()
	if out, err := h.run(args...); err != nil {
		h.t.Fatalf("install.sh %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// read is a file's content, nil where there is none.
func (h *host) read(dir, name string) []byte {
	h.t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil && !os.IsNotExist(err) {
		h.t.Fatal(err)
	}
	return b
}

// files are the names in both folders.
func (h *host) files() []string {
	h.t.Helper()
	var out []string
	for _, dir := range []string{h.conf, h.bin} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			h.t.Fatal(err)
		}
		for _, e := range entries {
			out = append(out, e.Name())
		}
	}
	return out
}

// steps makes every program that the script runs count itself, and the one whose turn is that of the variable KILL be
// killed with the script. A copy that is killed has written half of its file.
func (h *host) steps() {
	h.t.Helper()
	h.tools = h.dir + "/tools"
	if err := os.Mkdir(h.tools, 0o755); err != nil {
		h.t.Fatal(err)
	}
	for _, name := range []string{"cat", "chmod", "cmp", "cp", "grep", "mkdir", "mktemp", "mv", "rm", "sed", "sort",
		"sync"} {
		path, err := exec.LookPath(name)
		if err != nil {
			h.t.Fatal(err)
		}
		run := "exec " + path + ` "$@"`
		if name == "sync" {
			run = "exit 0" // no test sees a loss of power
		}
		h.write(filepath.Join(h.tools, name), []byte(`#!/bin/sh
read -r n <"$COUNT"
n=$((n + 1))
echo $n >"$COUNT"
if [ $n = "$KILL" ]; then
	[ `+name+` != cp ] || /usr/bin/head -c 100 "$1" >"$2"
	kill -9 0
fi
`+run+`
`), 0o755)
	}
	for _, name := range []string{"ip", "nft", "net", "netd", "umount"} { // there is nothing of netd here
		code := "0"
		if name == "net" || name == "netd" {
			code = "1"
		}
		h.write(filepath.Join(h.tools, name), []byte("#!/bin/sh\nexit "+code+"\n"), 0o755)
	}
}

// killedAt runs the script until its step n, and reports whether there was such a step.
func (h *host) killedAt(n int, args ...string) bool {
	h.t.Helper()
	h.write(h.dir+"/count", []byte("0\n"), 0o600)
	env := h.env
	h.env = append(slices.Clone(env), fmt.Sprint("KILL=", n))
	defer func() { h.env = env }()
	out, err := h.run(args...)
	if err == nil {
		return false
	}
	if exit, ok := err.(*exec.ExitError); !ok || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		h.t.Fatalf("step %d: %v, want it killed\n%s", n, err, out)
	}
	return true
}

// Whenever the install step is killed, each file is there as a whole, or as it was before, and the configuration never
// leads to a plugin that is not there.
func TestInstallIsAtomic(t *testing.T) {
	for _, upgrade := range []bool{false, true} {
		t.Run(fmt.Sprint("upgrade ", upgrade), func(t *testing.T) {
			t.Parallel()
			killed := 0
			for n := 1; ; n++ {
				h := newHost(t)
				h.steps()
				var oldPlugin, oldConf []byte
				if upgrade {
					if h.killedAt(0, "install") {
						t.Fatal("killed without a step")
					}
					oldPlugin, oldConf = h.read(h.bin, program), h.read(h.conf, conflist)
					h.env = append(h.env, "CNI_VERSION=1.1.0")
				}
				newPlugin := h.newPlugin()
				more := h.killedAt(n, "install")
				plugin, conf := h.read(h.bin, program), h.read(h.conf, conflist)
				if !bytes.Equal(plugin, oldPlugin) && !bytes.Equal(plugin, newPlugin) {
					t.Errorf("step %d: the plugin has %d bytes, and is neither the old nor the new one", n, len(plugin))
				}
				if !bytes.Equal(conf, oldConf) {
					if _, err := libcni.ConfListFromBytes(conf); err != nil {
						t.Errorf("step %d: the configuration is neither the old nor the new one: %v", n, err)
					}
					if !bytes.Equal(plugin, newPlugin) {
						t.Errorf("step %d: the configuration is there before its plugin", n)
					}
				}
				if files, err := libcni.ConfFiles(h.conf, []string{".conf", ".conflist", ".json"}); err != nil ||
					len(files) > 1 {
					t.Errorf("step %d: runtimes see %v, %v", n, files, err)
				}
				h.tools = ""
				h.ok("install")
				if got := h.read(h.bin, program); !bytes.Equal(got, newPlugin) {
					t.Errorf("step %d: the next run has not repaired the plugin", n)
				}
				if got := strings.Join(h.files(), " "); got != conflist+" "+program {
					t.Errorf("step %d: after the next run there are %s", n, got)
				}
				if !more {
					break
				}
				killed++
			}
			if killed < 12 {
				t.Errorf("killed at %d steps, and there are more", killed)
			}
		})
	}
}

// A second run changes nothing, so that runtimes do not read their configuration again. What it places can be run.
func TestInstallTwice(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.write(h.conf+"/99-other.conflist", []byte("{}"), 0o600)
	h.write(h.bin+"/loopback", nil, 0o755)
	h.ok("install")
	stat := func() (out []os.FileInfo) {
		t.Helper()
		for _, path := range []string{h.conf + "/" + conflist, h.bin + "/" + program} {
			info, err := os.Lstat(path)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, info)
		}
		return out
	}
	first := stat()
	if first[1].Mode().Perm() != 0o755 || first[0].Mode().Perm() != 0o600 {
		t.Errorf("modes %v, %v", first[0].Mode(), first[1].Mode())
	}
	h.ok("install")
	for i, now := range stat() {
		if !os.SameFile(first[i], now) {
			t.Errorf("%s was written again", now.Name())
		}
	}
	// A link that `make install` has made gives way to the file.
	path := h.bin + "/" + program
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(h.plugin, path); err != nil {
		t.Fatal(err)
	}
	h.ok("install")
	if now := stat()[1]; !now.Mode().IsRegular() {
		t.Errorf("the plugin is %v", now.Mode())
	}
	h.steps()
	h.write(h.dir+"/count", []byte("0\n"), 0o600)
	h.ok("remove")
	if got := strings.Join(h.files(), " "); got != "99-other.conflist loopback" {
		t.Errorf("after the removal there are %s", got)
	}
}

// Whenever the removal is killed, no configuration is left that leads to a plugin that is gone.
func TestRemovalIsOrdered(t *testing.T) {
	t.Parallel()
	for n := 1; ; n++ {
		h := newHost(t)
		h.steps()
		tools := h.tools
		h.tools = ""
		h.ok("install")
		h.tools = tools
		for _, dir := range []string{h.conf, h.bin} { // of an install step that was killed
			h.write(dir+"/."+map[string]string{h.conf: conflist, h.bin: program}[dir]+".vethloom-new", nil, 0o600)
		}
		if err := os.MkdirAll(h.dir+"/run/netns", 0o755); err != nil {
			t.Fatal(err)
		}
		more := h.killedAt(n, "remove")
		if h.read(h.conf, conflist) != nil && h.read(h.bin, program) == nil {
			t.Errorf("step %d: the plugin is gone before its configuration", n)
		}
		if h.killedAt(0, "remove") {
			t.Fatal("killed without a step")
		}
		if got := h.files(); len(got) > 0 {
			t.Errorf("step %d: after the next run there are %s", n, got)
		}
		if _, err := os.Stat(h.dir + "/run"); !os.IsNotExist(err) {
			t.Errorf("step %d: netd's folder is left: %v", n, err)
		}
		if !more {
			if n < 4 {
				t.Errorf("killed at %d steps, and there are more", n-1)
			}
			return
		}
	}
}

// What is rendered is a configuration to libcni, in each version, with the values that were asked for.
func TestRendered(t *testing.T) {
	for _, c := range []struct{ dir, cidrs, driver, subnets string }{
		{"overlay", "", "overlay", "10.244.0.0/16"},
		{"host-gw", "", "host-gw", "10.244.0.0/16"},
		{"pod-cidr", "10.244.3.0/24", "bridge", "10.244.3.0/24"},
		{"pod-cidr", "10.244.3.0/24,fd00:244:3::/64", "bridge", "10.244.3.0/24 fd00:244:3::/64"},
	} {
		for _, version := range []string{"", "1.0.0", "1.1.0"} {
			h := newHost(t)
			h.text = c.dir + "/cni.conflist"
			h.env = []string{"POD_CIDRS=" + c.cidrs, "CNI_VERSION=" + version}
			h.ok("install")
			list, err := libcni.ConfListFromBytes(h.read(h.conf, conflist))
			if err != nil {
				t.Fatalf("%s: %v", c.dir, err)
			}
			if list.CNIVersion != cmp.Or(version, "1.0.0") || list.Name != "pods" || len(list.Plugins) != 1 {
				t.Errorf("%s: version %s, name %s, %d plugins", c.dir, list.CNIVersion, list.Name, len(list.Plugins))
			}
			p := list.Plugins[0]
			var ours struct {
				Driver  string
				Subnets []string
			}
			if err := json.Unmarshal(p.Bytes, &ours); err != nil {
				t.Fatal(err)
			}
			if p.Network.Type != program || ours.Driver != c.driver || strings.Join(ours.Subnets, " ") != c.subnets {
				t.Errorf("%s: type %s, driver %s, subnets %v", c.dir, p.Network.Type, ours.Driver, ours.Subnets)
			}
			for _, able := range []string{"portMappings", "bandwidth"} {
				if !p.Network.Capabilities[able] {
					t.Errorf("%s: no capability %s", c.dir, able)
				}
			}
		}
	}
}

// The node's subnets come from the API server, which is asked with the account's token and checked by its certificate.
func TestPodSubnetsAreAskedFor(t *testing.T) {
	node := `{"spec": {"podCIDR": "10.244.3.0/24", "podCIDRs": ["10.244.3.0/24", "fd00:244:3::/64"]}}`
	answer := func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer secret" {
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		switch r.URL.Path {
		case "/api/v1/nodes/n1":
			fmt.Fprint(w, node)
		case "/api/v1/nodes/old":
			fmt.Fprint(w, `{"spec": {"podCIDR": "10.244.4.0/24"}}`)
		case "/api/v1/nodes/bare":
			fmt.Fprint(w, `{"spec": {}}`)
		default:
			http.NotFound(w, r)
		}
	}
	for _, address := range []string{"127.0.0.1", "::1"} {
		server := httptest.NewUnstartedServer(http.HandlerFunc(answer))
		server.Listener.Close()
		var err error
		if server.Listener, err = new(net.ListenConfig).Listen(t.Context(), "tcp",
			net.JoinHostPort(address, "0")); err != nil {
			t.Fatal(err)
		}
		server.StartTLS()
		defer server.Close()
		_, port, err := net.SplitHostPort(server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct{ node, token, want, says string }{
			{"n1", "secret", `"subnets": ["10.244.3.0/24", "fd00:244:3::/64"]`, ""},
			{"old", "secret", `"subnets": ["10.244.4.0/24"]`, ""},
			{"bare", "secret", "", "this node has no pod subnet"},
			{"gone", "secret", "", "404"},
			{"n1", "another", "", "401"},
		} {
			h := newHost(t)
			h.text = "pod-cidr/cni.conflist"
			account(h, server, c.token)
			h.env = append(h.env, "POD_CIDRS=ask", "NODE_NAME="+c.node, "KUBERNETES_SERVICE_HOST="+address,
				"KUBERNETES_SERVICE_PORT="+port)
			out, err := h.run("install")
			if c.want != "" {
				if err != nil || !strings.Contains(string(h.read(h.conf, conflist)), c.want) {
					t.Errorf("%s at %s: %v\n%s%s", c.node, address, err, out, h.read(h.conf, conflist))
				}
				continue
			}
			if err == nil || !strings.Contains(out, c.says) || len(h.files()) > 0 {
				t.Errorf("%s with %s: %v, files %v, want %q and none\n%s", c.node, c.token, err, h.files(), c.says, out)
			}
		}
	}
}

// account gives the install step a token and the server's certificate.
func account(h *host, server *httptest.Server, token string) {
	h.t.Helper()
	h.write(h.dir+"/token", []byte(token), 0o600)
	h.write(h.dir+"/ca.crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE",
		Bytes: server.Certificate().Raw}), 0o600)
	h.env = append(h.env, "ACCOUNT_DIR="+h.dir)
}

// What is set wrongly is named, and nothing is placed.
func TestInstallRefuses(t *testing.T) {
	for setting, says := range map[string]string{
		"CNI_VERSION=2.0":      "CNI_VERSION=2.0: want 1.0.0",
		"TEMPLATE=/nope":       "TEMPLATE=/nope cannot be read",
		"PLUGIN=/nope":         "PLUGIN=/nope is no program",
		"POD_CIDRS=":           "POD_CIDRS is empty",
		`POD_CIDRS=10.0.0.0"`:  "want subnets with commas",
		"POD_CIDRS=ask":        "NODE_NAME is not set",
		"POD_CIDRS=10.1.0.0;x": "want subnets with commas",
	} {
		h := newHost(t)
		h.text = "pod-cidr/cni.conflist"
		h.env = []string{"POD_CIDRS=10.244.3.0/24", setting}
		if out, err := h.run("install"); err == nil || !strings.Contains(out, says) || len(h.files()) > 0 {
			t.Errorf("%s: %v, files %v, want %q and none\n%s", setting, err, h.files(), says, out)
		}
	}
	h := newHost(t)
	if err := os.Mkdir(h.conf+"/"+conflist, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := h.run("install"); err == nil || !strings.Contains(out, "is a directory: remove it") {
		t.Errorf("a directory in the place of the configuration: %v\n%s", err, out)
	}
	if out, err := h.run("update"); err == nil || !strings.Contains(out, "usage: ") {
		t.Errorf("an unknown command: %v\n%s", err, out)
	}
}

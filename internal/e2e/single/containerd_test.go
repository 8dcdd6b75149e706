package single

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/engine/shim/shimtest"
)

var (
	crictl  = sync.OnceValues(func() (string, error) { return criTool("crictl", "build") })
	critest = sync.OnceValues(func() (string, error) { return criTool("critest", "test", "-c") })
)

// criTool builds a program of cri-tools from a module of its own: what it needs stays out of ours.
func criTool(name string, build ...string) (string, error) {
	path, err := filepath.Abs("../../../.cache/" + name)
	if err != nil {
		return "", err
	}
	cmd := exec.Command("go", append(build, "-o", path, "sigs.k8s.io/cri-tools/cmd/"+name)...)
	cmd.Dir = "../../../.ci/crictl"
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w: %s", name, err, out)
	}
	return path, nil
}

// containerd is Debian's containerd 1.6, asked as Kubernetes does, with state of its own.
type containerd struct {
	*node
	dir    string
	prefix []string // of its command line
	cmd    *exec.Cmd
	log    *os.File
	pods   int
}

// newContainerd has the images bb and pause, and puts pods on the network web, which is netd's.
func newContainerd(n *node) *containerd {
	t := n.t
	t.Helper()
	c := &containerd{node: n, dir: t.TempDir()}
	for _, folder := range []string{"/bin", "/conf"} {
		if err := os.Mkdir(c.dir+folder, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	shimtest.Write(t, c.dir+"/conf/web.conflist", `{"cniVersion": "1.0.0", "name": "web", "plugins": [{
		"type": "vethloom-cni", "socket": "`+filepath.Join(n.RunDir, "attach.sock")+`",
		"capabilities": {"portMappings": true, "bandwidth": true}}]}`)
	for _, path := range []string{program(t, "vethloom-cni"), "/usr/lib/cni/loopback"} {
		if err := os.Symlink(path, filepath.Join(c.dir, "bin", filepath.Base(path))); err != nil {
			t.Fatal(err)
		}
	}
	c.begin(c.dir+"/bin", c.dir+"/conf")
	c.load("exec sleep 100000", "local/bb:1", "local/pause:1")
	return c
}

// begin starts containerd for the first time, with its plugins and their configurations in two folders.
func (c *containerd) begin(plugins, configurations string) {
	c.t.Helper()
	shimtest.Write(c.t, c.dir+"/config.toml", `version = 2
root = "`+c.dir+`/root"
state = "`+c.dir+`/state"
[grpc]
  address = "`+c.dir+`/sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "docker.io/local/pause:1"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "`+plugins+`"
    conf_dir = "`+configurations+`"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
`)
	shimtest.Write(c.t, c.dir+"/crictl.yaml", "")
	log, err := os.Create(c.dir + "/log")
	if err != nil {
		c.t.Fatal(err)
	}
	c.log = log
	c.run()
	c.t.Cleanup(c.end)
}

// load gives it an image with a command of its own, which a shell runs.
func (c *containerd) load(command string, tags ...string) {
	c.t.Helper()
	c.take(dockerImage(c.t, rootfs(c.t), command, tags...))
}

// take gives it an image that dockerImage has written.
func (c *containerd) take(image string) {
	c.t.Helper()
	if r := c.call("", nil, "ctr", "-a", c.dir+"/sock", "-n", "k8s.io", "images", "import", "--snapshotter", "native",
		image); r.code != 0 {
		c.t.Fatalf("import %s: %s", image, r.err)
	}
}

// dockerImage writes an image as docker save does.
func dockerImage(t *testing.T, rootfs, command string, tags ...string) string {
	t.Helper()
	layer, err := os.ReadFile(rootfs)
	if err != nil {
		t.Fatal(err)
	}
	sum := func(data []byte) string { s := sha256.Sum256(data); return hex.EncodeToString(s[:]) }
	script, err := json.Marshal(command)
	if err != nil {
		t.Fatal(err)
	}
	config := []byte(`{"architecture": "amd64", "os": "linux", "config": {"Cmd": ["sh", "-c", ` + string(script) + `],
		"Env": ["PATH=/bin"]}, "rootfs": {"type": "layers", "diff_ids": ["sha256:` + sum(layer) + `"]}}`)
	manifest, err := json.Marshal([]map[string]any{{"Config": sum(config) + ".json", "RepoTags": tags,
		"Layers": []string{"layer.tar"}}})
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "image.tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := tar.NewWriter(f)
	for name, data := range map[string][]byte{sum(config) + ".json": config, "layer.tar": layer,
		"manifest.json": manifest} {
		err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data))})
		if err == nil {
			_, err = w.Write(data)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

// run starts containerd and waits until it answers.
func (c *containerd) run() {
	c.t.Helper()
	line := append(slices.Clone(c.prefix), "containerd", "-c", c.dir+"/config.toml")
	c.cmd = exec.Command(line[0], line[1:]...)
	c.cmd.Stdout, c.cmd.Stderr = c.log, c.log
	if err := c.Do("", c.cmd.Start); err != nil {
		c.t.Fatal(err)
	}
	c.eventually("containerd answers", func() bool { return c.crictl("info").code == 0 })
}

// stop ends containerd by a signal.
func (c *containerd) stop(s syscall.Signal) {
	c.t.Helper()
	if err := c.cmd.Process.Signal(s); err != nil {
		c.t.Fatal(err)
	}
	_ = c.cmd.Wait() // its exit code is the signal's
}

// cgroup is the parent of its containers' groups.
func (c *containerd) cgroup() string { return "vethloom-" + filepath.Base(filepath.Dir(c.dir)) }

// end removes what the test has made, and finds what is left of it.
func (c *containerd) end() {
	c.eventually("the pods are gone", func() bool {
		c.crictl("rmp", "-f", "-a")
		return c.crictl("pods", "-q").out == ""
	})
	c.stop(unix.SIGTERM)
	c.eventually("the shims have ended", func() bool { return !commandLines(c.t, c.dir) })
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), c.dir) {
		c.t.Errorf("mounts are left: %v", err)
	}
	groups, _ := filepath.Glob("/sys/fs/cgroup/*/" + c.cgroup())
	for _, g := range groups {
		if err := os.Remove(g); err != nil {
			c.t.Error(err)
		}
	}
	if err := c.log.Close(); err != nil {
		c.t.Error(err)
	}
	if text, err := os.ReadFile(c.log.Name()); c.t.Failed() {
		c.t.Logf("log of containerd: %v\n%s", err, text)
	}
}

func (c *containerd) crictl(args ...string) result {
	c.t.Helper()
	path, err := crictl()
	if err != nil {
		c.t.Fatal(err)
	}
	at := "unix://" + c.dir + "/sock"
	return c.call("", nil, path, append([]string{"-c", c.dir + "/crictl.yaml", "-t", "60s", "-r", at, "-i",
		at}, args...)...)
}

// do is crictl for what must succeed.
func (c *containerd) do(args ...string) string {
	c.t.Helper()
	r := c.crictl(args...)
	if r.code != 0 {
		c.t.Fatalf("crictl %s: exit code %d: %s", strings.Join(args, " "), r.code, r.err)
	}
	return r.out
}

// pod runs a pod with a container that answers its name at port 80. More is what its configuration has besides.
func (c *containerd) pod(name, more string) (pod, container string) {
	c.t.Helper()
	c.pods++
	dir := filepath.Join(c.dir, fmt.Sprint("pod", c.pods))
	if err := os.Mkdir(dir, 0o755); err != nil {
		c.t.Fatal(err)
	}
	shimtest.Write(c.t, dir+"/pod.json", `{"metadata": {"name": "`+name+`", "namespace": "default", "uid": "`+name+`"},
		"log_directory": "`+dir+`", "linux": {"cgroup_parent": "/`+c.cgroup()+`"},
		"dns_config": {"servers": ["127.0.0.11"]}`+more+`}`)
	command, err := json.Marshal([]string{"sh", "-c", serve(name)})
	if err != nil {
		c.t.Fatal(err)
	}
	shimtest.Write(c.t, dir+"/container.json", `{"metadata": {"name": "c"}, "image": {"image": "docker.io/local/bb:1"},
		"command": `+string(command)+`, "log_path": "log", "linux": {}}`)
	pod = c.do("runp", dir+"/pod.json")
	container = c.do("create", pod, dir+"/container.json", dir+"/pod.json")
	c.do("start", container)
	return pod, container
}

// status is a pod's address and the path of its network namespace.
func (c *containerd) status(pod string) (address, netns string) {
	c.t.Helper()
	var s struct {
		Status struct{ Network struct{ IP string } }
		Info   struct {
			RuntimeSpec struct {
				Linux struct{ Namespaces []struct{ Type, Path string } }
			}
		}
	}
	if err := json.Unmarshal([]byte(c.do("inspectp", pod)), &s); err != nil {
		c.t.Fatal(err)
	}
	for _, ns := range s.Info.RuntimeSpec.Linux.Namespaces {
		if ns.Type == "network" {
			netns = ns.Path
		}
	}
	return s.Status.Network.IP, netns
}

// Pods of containerd and a container of ours are on one network, whoever of the two daemons is killed.
func TestPodsOfContainerd(t *testing.T) {
	n := withImage(t)
	far := n.outside("192.0.2.2/24")
	n.ok("network", "create", "--subnet", "10.7.0.0/24", "web")
	c := newContainerd(n)
	n.ok("run", "-d", "--name", "db", "--network", "web", "bb", "sh", "-c", serve("db"))
	shop, inShop := c.pod("shop", `, "port_mappings": [{"container_port": 80, "host_port": 8080}], "annotations":
		{"kubernetes.io/ingress-bandwidth": "10M", "kubernetes.io/egress-bandwidth": "20M"}`)
	cart, inCart := c.pod("cart", "")
	address, first := c.status(shop)
	_, second := c.status(cart)
	is(t, "address as netd has it", n.ok("network", "inspect", "-f",
		`{{range .Containers}}{{if eq .Name "shop"}}{{.IPv4Address}}{{end}}{{end}}`, "web"), address+"/24")
	talk := func() {
		t.Helper()
		for _, k := range []struct{ from, to, answer string }{{inShop, "cart", "cart"}, {inShop, "db", "db"},
			{inCart, "shop", "shop"}, {inCart, address, "shop"}, {inCart, n.address("db", "web"), "db"}} {
			n.eventually(k.to+" answers a pod", func() bool {
				r := c.crictl("exec", "-s", k.from, "sh", "-c", "echo | nc -w 3 "+k.to+" 80")
				return strings.TrimSpace(r.out) == k.answer
			})
		}
		for _, to := range []string{"shop", address} {
			n.eventually(to+" answers ours", func() bool {
				return n.net("exec", "db", "sh", "-c", "echo | nc -w 3 "+to+" 80").out == "shop"
			})
		}
		n.eventually("the port is published", func() bool {
			return n.call("", nil, "nsenter", "--net="+far, "sh", "-c",
				"echo | busybox nc -w 3 192.0.2.1 8080").out == "shop"
		})
	}
	talk()
	matches(t, "queues", n.Sh("tc qdisc"), `(?s)rate 10Mbit .*rate 20Mbit `)
	n.restart()
	talk()
	c.stop(unix.SIGKILL)
	talk2 := n.ok("exec", "db", "sh", "-c", "echo | nc -w 3 shop 80")
	is(t, "what a pod answers without containerd", talk2, "shop")
	c.run()
	talk()
	if err := n.netd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-n.gone
	c.do("stopp", cart)
	c.do("rmp", cart)
	n.start()
	n.eventually("the pod that was removed without netd is off the network", func() bool { return n.attached() == "2" })
	c.stop(unix.SIGKILL)
	c.run()
	c.do("rmp", "-f", shop)
	is(t, "containers on web", n.attached(), "1")
	for _, path := range []string{first, second} {
		if _, err := os.Stat(path); path == "" || !os.IsNotExist(err) {
			t.Errorf("namespace %q is left: %v", path, err)
		}
	}
}

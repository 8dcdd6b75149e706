package single

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/engine/shim/shimtest"
	"github.com/vethloom/vethloom/internal/kern/kerntest"
)

// kubernetes reads manifests as kubectl and an API server do. It is built from a module of its own.
var kubernetes = sync.OnceValues(func() (string, error) {
	path, err := filepath.Abs("../../../.cache/kubernetes")
	if err != nil {
		return "", err
	}
	out, err := exec.Command("go", "build", "-C", "../../../.ci/kubernetes", "-o", path, ".").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build the reader of manifests: %w: %s", err, out)
	}
	return path, nil
})

const manifests = "../../../packaging/kubernetes/"

// manifest is what of a DaemonSet or a ConfigMap matters to a node.
type manifest struct {
	Kind     string
	Metadata struct{ Name string }
	Data     map[string]string // of a ConfigMap
	Spec     struct{ Template struct{ Spec podSpec } }
}

type podSpec struct {
	HostNetwork                bool
	InitContainers, Containers []containerSpec
	Volumes                    []struct {
		Name      string
		HostPath  *struct{ Path, Type string }
		ConfigMap *struct{ Name string }
		Secret    *struct{ Optional bool }
		EmptyDir  *struct{}
	}
}

type containerSpec struct {
	Name          string
	Command, Args []string
	Env           []struct {
		Name, Value string
		ValueFrom   struct{ FieldRef struct{ FieldPath string } }
	}
	SecurityContext struct {
		Privileged, ReadOnlyRootFilesystem bool
		RunAsUser                          int64
		Capabilities                       struct{ Drop []string }
	}
	VolumeMounts []struct {
		Name, MountPath, MountPropagation string
		ReadOnly                          bool
	}
}

// kubelet does for the DaemonSets of the manifests what a kubelet does: it has them run by a containerd whose host is a
// mount namespace and a network namespace of its own.
type kubelet struct {
	*containerd
	programs string
	configs  map[string]string
	sets     map[string]podSpec // of DaemonSets
	made     int                // containers
}

// newKubelet has read the manifests. netd is not started.
func newKubelet(t *testing.T, paths ...string) *kubelet {
	t.Helper()
	n := &node{Env: kerntest.New(t), t: t, root: t.TempDir(), log: &bytes.Buffer{}}
	n.Sh("sysctl -qw net.ipv4.ip_forward=1")
	k := &kubelet{containerd: &containerd{node: n, dir: t.TempDir()}, configs: map[string]string{},
		sets: map[string]podSpec{}}
	k.read(paths...)
	k.programs = k.dir + "/programs"
	k.folder(k.programs)
	for _, path := range []string{program(t, "net"), program(t, "netd"), program(t, "net-shim"),
		program(t, "net-resolver"), program(t, "vethloom-cni"), manifests + "install.sh"} {
		n.Run("cp", path, k.programs)
	}
	k.prefix = []string{"unshare", "-m", "sh", "-c", "mount --make-rprivate / && mount --make-rshared / && " +
		"for d in /run /opt /etc/cni /var/lib; do mount -t tmpfs -o mode=755 tmpfs $d || exit; done && " +
		"mkdir -p /opt/cni/bin && cp /usr/lib/cni/loopback /opt/cni/bin && exec \"$@\"", "sh"}
	k.begin("/opt/cni/bin", "/etc/cni/net.d")
	k.load("exec sleep 100000", "local/bb:1", "local/pause:1")
	k.take(dockerImage(t, nodeImage(t), "exec netd", "local/vethloom:1"))
	return k
}

// read reads manifests.
func (k *kubelet) read(paths ...string) {
	k.t.Helper()
	reader, err := kubernetes()
	if err != nil {
		k.t.Fatal(err)
	}
	for _, path := range paths {
		for d := json.NewDecoder(strings.NewReader(k.Run(reader, manifests+path))); ; {
			var m manifest
			err := d.Decode(&m)
			if err == io.EOF {
				break
			}
			if err != nil {
				k.t.Fatal(err)
			}
			switch m.Kind {
			case "ConfigMap":
				k.configs = m.Data
			case "DaemonSet":
				k.sets[m.Metadata.Name] = m.Spec.Template.Spec
			}
		}
	}
}

// nodeImage has no programs of its own but what this host has below /usr: see [kubelet.mounts].
func nodeImage(t *testing.T) string {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	add := func(h tar.Header, text string) {
		h.Size = int64(len(text))
		err := w.WriteHeader(&h)
		if err == nil {
			_, err = w.Write([]byte(text))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{"usr", "etc", "etc/alternatives", "proc", "sys", "dev", "run", "var", "var/lib",
		"vethloom", "host", "root"} {
		add(tar.Header{Name: d, Typeflag: tar.TypeDir, Mode: 0o755}, "")
	}
	add(tar.Header{Name: "tmp", Typeflag: tar.TypeDir, Mode: 0o1777}, "")
	for _, d := range []string{"bin", "sbin", "lib", "lib64"} {
		add(tar.Header{Name: d, Typeflag: tar.TypeSymlink, Linkname: "usr/" + d}, "")
	}
	add(tar.Header{Name: "var/run", Typeflag: tar.TypeSymlink, Linkname: "/run"}, "")
	add(tar.Header{Name: "etc/passwd", Mode: 0o644}, "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "rootfs.tar")
	shimtest.Write(t, path, b.String())
	return path
}

func (k *kubelet) folder(path string) {
	k.t.Helper()
	if err := os.MkdirAll(path, 0o755); err != nil {
		k.t.Fatal(err)
	}
}

// host runs a script on the node.
func (k *kubelet) host(script string) string {
	k.t.Helper()
	return k.Run("nsenter", fmt.Sprintf("--mount=/proc/%d/ns/mnt", k.cmd.Process.Pid), "sh", "-ec", script)
}

// mounts are a container's volumes, and what its image lacks here.
func (k *kubelet) mounts(p podSpec, c containerSpec) []map[string]any {
	k.t.Helper()
	out := []map[string]any{
		{"host_path": "/usr", "container_path": "/usr", "readonly": true},
		{"host_path": "/etc/alternatives", "container_path": "/etc/alternatives", "readonly": true},
		{"host_path": k.programs, "container_path": "/vethloom", "readonly": true},
	}
	for _, m := range c.VolumeMounts {
		path := ""
		for _, v := range p.Volumes {
			switch {
			case v.Name != m.Name:
			case v.HostPath != nil:
				path = v.HostPath.Path
				switch v.HostPath.Type {
				case "DirectoryOrCreate":
					k.host("mkdir -p " + path)
				case "FileOrCreate":
					k.host("touch " + path)
				}
			default:
				path = filepath.Join(k.dir, "volume-"+v.Name)
				k.folder(path)
				if v.ConfigMap != nil {
					for name, text := range k.configs {
						shimtest.Write(k.t, filepath.Join(path, name), text)
					}
				}
			}
		}
		if path == "" {
			k.t.Fatalf("container %s mounts volume %s, which there is none of", c.Name, m.Name)
		}
		propagation := map[string]int{"": 0, "None": 0, "HostToContainer": 1, "Bidirectional": 2}[m.MountPropagation]
		out = append(out, map[string]any{"host_path": path, "container_path": m.MountPath, "readonly": m.ReadOnly,
			"propagation": propagation})
	}
	return out
}

// sandbox makes the pod of a DaemonSet, without containers.
func (k *kubelet) sandbox(name string) (pod string) {
	k.t.Helper()
	config := k.podConfig(name)
	k.writeJSON(config, map[string]any{"metadata": map[string]any{"name": name, "namespace": "vethloom", "uid": name},
		"log_directory": k.dir, "linux": map[string]any{"cgroup_parent": "/" + k.cgroup(),
			"security_context": map[string]any{"privileged": true, "namespace_options": hostNetwork()}}})
	return k.do("runp", config)
}

// hostNetwork is what a kubelet asks for with hostNetwork: the node's network, and processes of each container's own.
func hostNetwork() map[string]any { return map[string]any{"network": 2, "pid": 1} }

func (k *kubelet) podConfig(name string) string { return filepath.Join(k.dir, "pod-"+name+".json") }

func (k *kubelet) writeJSON(path string, v any) {
	k.t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		k.t.Fatal(err)
	}
	shimtest.Write(k.t, path, string(text))
}

// start starts a container of a DaemonSet's pod.
func (k *kubelet) start(pod, name string, c containerSpec) (container string) {
	k.t.Helper()
	fields := map[string]string{"spec.nodeName": "n1", "status.hostIP": "192.0.2.1"}
	var envs []map[string]string
	var expand []string
	for _, e := range c.Env {
		if e.ValueFrom.FieldRef.FieldPath != "" {
			e.Value = fields[e.ValueFrom.FieldRef.FieldPath]
		}
		envs = append(envs, map[string]string{"key": e.Name, "value": e.Value})
		expand = append(expand, "$("+e.Name+")", e.Value)
	}
	envs = append(envs, map[string]string{"key": "PATH", "value": "/vethloom:/usr/sbin:/usr/bin"})
	args := make([]string, 0, len(c.Args))
	for _, a := range c.Args {
		args = append(args, strings.NewReplacer(expand...).Replace(a))
	}
	s := c.SecurityContext
	security := map[string]any{"privileged": s.Privileged, "readonly_rootfs": s.ReadOnlyRootFilesystem,
		"namespace_options": hostNetwork()}
	if len(s.Capabilities.Drop) > 0 {
		security["capabilities"] = map[string]any{"drop_capabilities": s.Capabilities.Drop}
	}
	if s.RunAsUser != 0 {
		security["run_as_user"] = map[string]any{"value": s.RunAsUser}
	}
	k.made++
	config := filepath.Join(k.dir, fmt.Sprintf("container-%d.json", k.made))
	k.writeJSON(config, map[string]any{"metadata": map[string]any{"name": c.Name, "attempt": k.made},
		"image": map[string]any{"image": "docker.io/local/vethloom:1"}, "command": c.Command, "args": args,
		"envs": envs, "mounts": k.mounts(k.sets[name], c), "log_path": fmt.Sprintf("container-%d.log", k.made),
		"linux": map[string]any{"security_context": security}})
	container = k.do("create", pod, config, k.podConfig(name))
	k.do("start", container)
	return container
}

// complete runs a container of a pod to its end.
func (k *kubelet) complete(pod, name string, c containerSpec) (code int, log string) {
	k.t.Helper()
	id := k.start(pod, name, c)
	var s struct {
		Status struct {
			State    string
			ExitCode int
		}
	}
	k.eventually(c.Name+" ends", func() bool {
		if err := json.Unmarshal([]byte(k.do("inspect", id)), &s); err != nil {
			k.t.Fatal(err)
		}
		return s.Status.State == "CONTAINER_EXITED"
	})
	text, err := os.ReadFile(filepath.Join(k.dir, fmt.Sprintf("container-%d.log", k.made)))
	if err != nil {
		k.t.Fatal(err)
	}
	return s.Status.ExitCode, string(text)
}

// must is complete for what must succeed.
func (k *kubelet) must(pod, name string, c containerSpec) {
	k.t.Helper()
	if code, log := k.complete(pod, name, c); code != 0 {
		k.t.Fatalf("container %s of %s ended with %d:\n%s", c.Name, name, code, log)
	}
}

// ready waits for the readiness probe.
func (k *kubelet) ready() {
	k.t.Helper()
	k.eventually("netd is ready", func() bool {
		return k.call("", nil, "curl", "-fs", "http://127.0.0.1:7470/readyz").code == 0
	})
}

// A node has netd by the manifests: pods get their network by it, Services reach them, netd is replaced under them, and
// the removal leaves nothing.
func TestManifestsOnANode(t *testing.T) {
	k := newKubelet(t, "overlay", "removal.yaml")
	k.configs["netd.yaml"] = strings.Replace(k.configs["netd.yaml"], "http://192.0.2.10:2379", "embedded", 1)
	far := k.outside("192.0.2.2/24")
	k.Sh("ip route add default via 192.0.2.2")
	set := k.sets["netd"]
	pod := k.sandbox("netd")
	k.must(pod, "netd", set.InitContainers[0])
	netd := k.start(pod, "netd", set.Containers[0])
	k.ready()
	k.eventually("the node is a member of its cluster", func() bool {
		return strings.Contains(k.crictl("exec", "-s", netd, "net", "node", "ls").out, "192.0.2.1")
	})
	shop, inShop := k.pod("shop", `, "port_mappings": [{"container_port": 80, "host_port": 8080}], "annotations":
		{"kubernetes.io/ingress-bandwidth": "10M"}`)
	cart, inCart := k.pod("cart", "")
	shopAt, _ := k.status(shop)
	cartAt, _ := k.status(cart)
	matches(t, "address", shopAt+" "+cartAt, `^10\.244\.\d+\.\d+ 10\.244\.\d+\.\d+$`)
	// What kube-proxy makes of Services.
	k.Sh("iptables -t nat -A PREROUTING -d 10.96.0.10 -p tcp --dport 80 -j DNAT --to " + cartAt + " && " +
		"iptables -t nat -A PREROUTING -d 192.0.2.1 -p tcp --dport 30080 -j DNAT --to " + cartAt + ":80")
	talk := func() {
		t.Helper()
		for _, c := range []struct{ in, to, says string }{{inShop, "cart 80", "cart"}, {inShop, cartAt + " 80", "cart"},
			{inCart, "shop 80", "shop"}, {inCart, "192.0.2.1 8080", "shop"}, {inShop, "10.96.0.10 80", "cart"}} {
			k.eventually(c.to+" answers a pod", func() bool {
				r := k.crictl("exec", "-s", c.in, "sh", "-c", "echo | nc -w 3 "+c.to)
				return strings.TrimSpace(r.out) == c.says
			})
		}
		for port, says := range map[string]string{"8080": "shop", "30080": "cart"} {
			k.eventually("port "+port+" answers", func() bool {
				return k.call("", nil, "nsenter", "--net="+far, "sh", "-c",
					"echo | busybox nc -w 3 192.0.2.1 "+port).out == says
			})
		}
		is(t, "the node reaches a pod", k.Sh("echo | busybox nc -w 3 "+shopAt+" 80"), "shop\n")
	}
	talk()
	// The DaemonSet is updated.
	k.do("stop", netd)
	is(t, "what a pod answers without netd", k.Sh("echo | busybox nc -w 3 "+shopAt+" 80"), "shop\n")
	k.do("rmp", "-f", pod)
	pod = k.sandbox("netd")
	k.must(pod, "netd", set.InitContainers[0])
	netd = k.start(pod, "netd", set.Containers[0])
	k.ready()
	is(t, "what differs", strings.TrimSpace(k.do("exec", "-s", netd, "net", "diff")), "")
	talk()
	k.remove(pod, shop, cart)
}

// remove removes the DaemonSet, whose pod is given, and those pods that stand in its way.
func (k *kubelet) remove(netd string, pods ...string) {
	t := k.t
	t.Helper()
	removal := k.sets["removal"]
	pod := k.sandbox("removal")
	code, log := k.complete(pod, "removal", removal.InitContainers[0])
	if code != 1 || !strings.Contains(log, "delete its DaemonSet first") {
		t.Errorf("a removal beside netd ended with %d:\n%s", code, log)
	}
	k.do("rmp", "-f", netd)
	code, log = k.complete(pod, "removal", removal.InitContainers[0])
	if code != 1 || !strings.Contains(log, "drain it first: ") || !strings.Contains(log, "shop") {
		t.Errorf("a removal under pods ended with %d:\n%s", code, log)
	}
	for _, p := range pods {
		k.do("rmp", "-f", p)
	}
	k.must(pod, "removal", removal.InitContainers[0])
	k.must(pod, "removal", removal.InitContainers[0])
	is(t, "what is left of files", k.host("find /run/vethloom /var/lib/vethloom /etc/cni/net.d /opt/cni/bin "+
		"-mindepth 0 2>/dev/null | sort || true"), "/etc/cni/net.d\n/opt/cni/bin\n/opt/cni/bin/loopback\n")
	is(t, "what is left in the kernel", k.Sh("ip -o link | grep -o 'vl[a-z]*-[0-9a-f]*' || true; nft list tables | "+
		"grep vethloom || true; ip route show table all proto 117; ip -6 route show table all proto 117; "+
		"iptables-save | grep -i vethloom || true"), "")
	is(t, "mounts", k.host("grep -c vethloom/netns /proc/self/mountinfo || true"), "0\n")
	k.do("rmp", "-f", pod)
}

// The removal takes netd's rules away where they are in iptables, between those of others, which stay.
func TestRemovalWithIPTables(t *testing.T) {
	n := &node{Env: kerntest.New(t), t: t, root: filepath.Join(t.TempDir(), "root"), log: &bytes.Buffer{},
		gone: make(chan error, 1)}
	n.sock = filepath.Join(n.RunDir, "netd.sock")
	n.flags = []string{"--root", n.root, "--run", n.RunDir, "--http", "", "--bridge-netfilter", "off", "--firewall",
		"iptables"}
	n.Run("mkdir", n.root)
	n.Sh("iptables -N OTHER; iptables -A FORWARD -j OTHER; iptables -P FORWARD DROP; ip6tables -P FORWARD DROP; " +
		"iptables -t nat -A POSTROUTING -s 10.1.0.0/16 -j MASQUERADE")
	rules := func() string {
		return n.Sh("for t in filter nat; do iptables -t $t -S; ip6tables -t $t -S; done; for t in raw mangle; do " +
			"iptables -t $t -S; ip6tables -t $t -S; ebtables-save | grep VETHLOOM || true; done")
	}
	before := rules()
	n.start()
	t.Cleanup(func() {
		_ = n.netd.Process.Kill() // which has ended when the test has gone well
		<-n.gone
		if t.Failed() {
			t.Logf("log of netd:\n%s", n.log)
		}
	})
	n.underlay()
	n.ok("network", "create", "-d", "overlay", "app")
	n.ok("network", "create", "web")
	matches(t, "rules", rules(), `VETHLOOM`)
	if err := n.netd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	n.gone <- <-n.gone // the test's end waits for it too
	out := n.call("", []string{"PATH=" + filepath.Dir(program(t, "netd")) + ":" + os.Getenv("PATH"),
		"RUN_DIR=" + n.RunDir, "ROOT_DIR=" + n.root, "CONF_DIR=" + t.TempDir(), "BIN_DIR=" + t.TempDir()},
		installer(t), append([]string{"remove"}, n.flags...)...)
	if out.code != 0 {
		t.Fatalf("the removal ended with %d: %s", out.code, out.err)
	}
	is(t, "rules", rules(), before)
	for _, dir := range []string{n.root, n.RunDir} {
		if _, err := os.Stat(dir); !os.IsNotExist(err) {
			t.Errorf("%s is left: %v", dir, err)
		}
	}
}

// installer is the path of the install step.
func installer(t *testing.T) string {
	t.Helper()
	path, err := filepath.Abs(manifests + "install.sh")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// Configurations as the install step renders them are taken by the plugin in both versions, and make their networks.
func TestConfigurationsOfManifests(t *testing.T) {
	n := newNode(t)
	n.underlay()
	r := newRuntime(n)
	for _, c := range []struct{ dir, cidrs, driver, address string }{
		{"overlay", "", "overlay", `^10\.244\.`},
		{"host-gw", "", "host-gw", `^10\.244\.`},
		{"pod-cidr", "10.244.3.0/24,fd00:244:3::/64", "bridge", `^10\.244\.3\.`},
	} {
		for _, version := range []string{"1.0.0", "1.1.0"} {
			dir := t.TempDir()
			n.Run("env", "CONF_DIR="+dir, "BIN_DIR="+dir, "PLUGIN="+program(t, "vethloom-cni"), "CNI_VERSION="+version,
				"POD_CIDRS="+c.cidrs, "TEMPLATE="+manifests+c.dir+"/cni.conflist", manifests+"install.sh", "install")
			text, err := os.ReadFile(filepath.Join(dir, "10-vethloom.conflist"))
			if err != nil {
				t.Fatal(err)
			}
			l := r.list(strings.Replace(string(text), `"type"`, `SOCKET, "type"`, 1))
			pod := r.box(c.dir + version)
			pod.CapabilityArgs = map[string]any{"portMappings": []map[string]any{
				{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}},
				"bandwidth": map[string]any{"ingressRate": 10_000_000}}
			res := r.add(l, pod)
			matches(t, c.dir+": address", addrOf(t, res, true), c.address)
			if strings.Contains(c.cidrs, ":") {
				matches(t, c.dir+": address", addrOf(t, res, false), `^fd00:244:3::`)
			}
			is(t, "driver", n.ok("network", "inspect", "-f", "{{.Driver}}", "pods"), c.driver)
			stop := n.says(pod.NetNS, c.dir)
			is(t, "what the node's port answers", n.Sh("echo | busybox nc -w 3 127.0.0.1 8080"), c.dir+"\n")
			stop()
			if version == "1.1.0" {
				for what, f := range map[string]func(context.Context) error{
					"STATUS": func(ctx context.Context) error { return r.GetStatusNetworkList(ctx, l) },
					"CHECK":  func(ctx context.Context) error { return r.CheckNetworkList(ctx, l, pod) },
					"GC": func(ctx context.Context) error {
						return r.GCNetworkList(ctx, l, &libcni.GCArgs{ValidAttachments: []types.GCAttachment{
							{ContainerID: pod.ContainerID, IfName: pod.IfName}}})
					},
				} {
					if err := r.do(f); err != nil {
						t.Errorf("%s: %s: %v", c.dir, what, err)
					}
				}
			}
			r.del(l, pod)
			n.ok("network", "rm", "pods")
		}
	}
}

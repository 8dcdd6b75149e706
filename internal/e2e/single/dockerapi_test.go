package single

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/internal/registrytest"
)

// dockerCommand is Debian's: it speaks an older version of the API than what other tests have.
const dockerCommand = "/usr/bin/docker"

// docker runs Docker's own command against netd's socket.
func (n *node) docker(input string, args ...string) result {
	n.t.Helper()
	return n.call(input, []string{"DOCKER_CONFIG=" + filepath.Join(n.root, "docker-config"), "DOCKER_HOST="},
		dockerCommand, append([]string{"-H", "unix://" + filepath.Join(n.RunDir, "docker.sock")}, args...)...)
}

// dockers runs it, which must succeed, and returns its output.
func (n *node) dockers(args ...string) string {
	n.t.Helper()
	r := n.docker("", args...)
	if r.code != 0 {
		n.t.Fatalf("docker %s: exit code %d: %s%s", strings.Join(args, " "), r.code, r.err, r.out)
	}
	return r.out
}

// dockerRefuses has it fail with a text.
func (n *node) dockerRefuses(words string, args ...string) {
	n.t.Helper()
	r := n.docker("", args...)
	if r.code == 0 {
		n.t.Errorf("docker %s succeeds: %s", strings.Join(args, " "), r.out)
	}
	matches(n.t, "docker "+strings.Join(args, " "), r.err, words)
}

// happens waits for an event of the past. Docker's command cuts its times to seconds.
func (n *node) happens(event string, filters ...string) {
	n.t.Helper()
	args := []string{"events", "--since", "1h", "--until", "0s"}
	for _, f := range filters {
		args = append(args, "--filter", f)
	}
	n.eventually("event"+event, func() bool { return regexp.MustCompile(event).MatchString(n.dockers(args...)) })
}

func TestDockerCommandOnSystem(t *testing.T) {
	n := withImage(t)
	matches(t, "version", n.dockers("version"),
		`(?s)Client:.*API version: +1\.41.*Server: vethloom.*minimum version 1\.41`)
	is(t, "the server's version", n.dockers("version", "-f", "{{.Server.APIVersion}} {{.Server.Os}}"), "1.56 linux")
	matches(t, "info", n.dockers("info"), `(?s)Images: 1\n.*Swarm: inactive.*Docker Root Dir: `+n.root)
	is(t, "warnings", n.docker("", "info").err, "")
	is(t, "the same engine over a restart", n.dockers("info", "-f", "{{.ID}}"), func() string {
		n.restart()
		return n.dockers("info", "-f", "{{.ID}}")
	}())
	matches(t, "disk usage", n.dockers("system", "df"), `(?m)^Images +1 +0 +\d.*\nContainers +0 `)
	matches(t, "disk usage in full", n.dockers("system", "df", "-v"),
		`(?m)^bb +latest +[0-9a-f]{12} .* \d+(\.\d+)?MB +0B `)
	n.dockerRefuses("not a swarm manager", "node", "ls")
	n.dockerRefuses("no such object: nosuch|No such object: nosuch", "inspect", "nosuch")
	is(t, "nothing of Docker's plugins", n.dockers("plugin", "ls", "-q"), "")
	if st, err := os.Stat(filepath.Join(n.RunDir, "docker.sock")); err != nil || st.Mode().Perm() != 0o660 {
		t.Errorf("%v, %v", st, err)
	}
	n.dockers("volume", "create", "data")
	n.happens(` volume create data \(driver=local\)$`, "type=volume")
}

// The socket may be elsewhere, or nowhere.
func TestDockerCommandElsewhere(t *testing.T) {
	n := newNode(t, "--docker-host", "unix://RUN/elsewhere.sock")
	r := n.call("", []string{"DOCKER_HOST=unix://" + filepath.Join(n.RunDir, "elsewhere.sock")}, dockerCommand,
		"network", "ls", "-q", "--filter", "driver=null")
	matches(t, "a network's ID", r.out+r.err, `^[0-9a-f]{12}$`)
	if _, err := os.Stat(filepath.Join(n.RunDir, "docker.sock")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the usual place: %v", err)
	}
	off := newNode(t, "--docker-host", "off")
	off.dockerRefuses("Cannot connect to the Docker daemon", "version")
	if _, err := os.Stat(filepath.Join(off.RunDir, "docker.sock")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("off: %v", err)
	}
}

func TestDockerCommandOnNetworks(t *testing.T) {
	n := withImage(t)
	id := n.dockers("network", "create", "--subnet", "10.9.0.0/24", "--gateway", "10.9.0.9", "--ipv6", "--subnet",
		"fd00:9::/64", "--label", "tier=front", "-o", "com.docker.network.bridge.name=brx", "web")
	is(t, "its ID", n.ok("network", "inspect", "-f", "{{.Id}}", "web"), id)
	is(t, "its bridge", n.Sh("ip -br link show brx | cut -d' ' -f1"), "brx\n")
	is(t, "its subnets", n.dockers("network", "inspect", "-f",
		"{{range .IPAM.Config}}{{.Subnet}} {{.Gateway}} {{end}}", "web"), "10.9.0.0/24 10.9.0.9 fd00:9::/64 fd00:9::1 ")
	is(t, "a list", n.dockers("network", "ls", "--format", "{{.Name}} {{.Driver}} {{.Scope}}", "-f",
		"label=tier=front"), "web bridge local")
	is(t, "all names", n.dockers("network", "ls", "--format", "{{.Name}}"), "bridge\nhost\nnone\nweb")
	c := n.ok("run", "-d", "--name", "app", "bb", "sleep", "1000")
	n.dockers("network", "connect", "--ip", "10.9.0.77", "--alias", "www", "web", "app")
	is(t, "who is on it", n.dockers("network", "inspect", "-f",
		"{{range $id, $c := .Containers}}{{$id}} {{$c.Name}} {{$c.IPv4Address}}{{end}}", "web"), c+" app 10.9.0.77/24")
	matches(t, "inside", n.ok("exec", "app", "ip", "addr", "show", "eth1"), `inet 10\.9\.0\.77/24`)
	n.dockerRefuses("in use|app", "network", "rm", "web")
	n.dockers("network", "disconnect", "web", "app")
	is(t, "nobody is on it", n.dockers("network", "inspect", "-f", "{{len .Containers}}", "web"), "0")
	n.dockerRefuses("bridge is a pre-defined network and cannot be removed", "network", "rm", "bridge")
	n.dockerRefuses("overlaps|in use", "network", "create", "--subnet", "10.9.0.0/25", "other")
	n.dockerRefuses("exist", "network", "create", "web")
	n.dockerRefuses("did you mean", "network", "create", "-o", "com.docker.network.bridge.enable_ic=true", "other")
	n.dockers("network", "create", "other")
	is(t, "removed", n.dockers("network", "rm", "web"), "web")
	n.dockerRefuses("No such network: web", "network", "inspect", "web")
	matches(t, "pruned", n.dockers("network", "prune", "-f"), `Deleted Networks:\nother`)
	n.happens(` network connect `+id+` \(container=`+c+`, name=web, type=bridge\)$`, "network="+id, "event=connect")
}

func TestDockerCommandOnVolumes(t *testing.T) {
	n := withImage(t)
	is(t, "created", n.dockers("volume", "create", "--label", "keep=yes", "data"), "data")
	anonymous := n.dockers("volume", "create")
	matches(t, "a name of its own", anonymous, `^[0-9a-f]{64}$`)
	is(t, "a list", n.dockers("volume", "ls", "-q", "-f", "label=keep"), "data")
	where := n.dockers("volume", "inspect", "-f", "{{.Mountpoint}}", "data")
	n.ok("run", "--rm", "-v", "data:/d", "bb", "sh", "-c", "echo hello > /d/file")
	if text, err := os.ReadFile(filepath.Join(where, "file")); err != nil || string(text) != "hello\n" {
		t.Errorf("%q, %v", text, err)
	}
	n.ok("create", "--name", "app", "-v", "data:/d", "bb", "true")
	n.dockerRefuses("in use", "volume", "rm", "data")
	is(t, "in use", n.dockers("volume", "ls", "-q", "-f", "dangling=false"), "data")
	n.ok("rm", "app")
	is(t, "removed", n.dockers("volume", "rm", anonymous), anonymous)
	n.dockerRefuses("No such volume: nosuch|no such volume: nosuch", "volume", "rm", "nosuch")
	is(t, "force", n.dockers("volume", "rm", "-f", "nosuch"), "nosuch")
	matches(t, "pruned", n.dockers("volume", "prune", "-f"), `(?s)Deleted Volumes:\ndata\n.*reclaimed space: [1-9]`)
}

func TestDockerCommandOnImages(t *testing.T) {
	n := withImage(t)
	dir := t.TempDir()
	n.dockers("tag", "bb", "docker.io/library/other:1")
	is(t, "a list", n.dockers("images", "--format", "{{.Repository}}:{{.Tag}}", "other"), "other:1")
	is(t, "a removal", n.dockers("rmi", "other:1"), "Untagged: other:1")
	id := n.dockers("image", "inspect", "-f", "{{.Id}}", "bb")
	is(t, "its ID", n.ok("image", "inspect", "-f", "{{.Id}}", "bb"), id)
	matches(t, "its history", n.dockers("history", "--no-trunc", "bb"), id)

	saved := filepath.Join(dir, "saved.tar")
	n.dockers("save", "-o", saved, "bb")
	n.dockers("rmi", "bb")
	n.dockerRefuses("No such image: bb|no such image: bb", "image", "inspect", "bb")
	is(t, "loaded", n.dockers("load", "-i", saved), "Loaded image: bb:latest")
	is(t, "the same image", n.dockers("image", "inspect", "-f", "{{.Id}}", "bb"), id)

	made := n.dockers("import", "-c", "CMD [\"echo\", \"hi\"]", "-m", "by hand", rootfs(t), "mine:2")
	is(t, "imported", n.ok("run", "--rm", "mine:2"), "hi")
	is(t, "its ID", n.dockers("images", "-q", "--no-trunc", "mine"), made)
	n.ok("run", "--name", "app", "bb", "sh", "-c", "echo text > /file")
	committed := n.dockers("commit", "-a", "Ann", "-c", "ENV A=b", "app", "mine:3")
	is(t, "committed", n.ok("run", "--rm", "mine:3", "sh", "-c", "cat /file; echo $A"), "text\nb")
	is(t, "its author", n.dockers("image", "inspect", "-f", "{{.Author}} {{.Id}}", "mine:3"), "Ann "+committed)
	n.dockerRefuses("app", "rmi", id)
	n.ok("rm", "app")

	r := n.debian(registrytest.DebianOptions{User: "ada", Password: "engine"})
	name := r.Host + "/team/app:1"
	n.dockers("tag", "mine:3", name)
	n.dockerRefuses("wants a login", "push", name)
	n.dockerRefuses("401|does not take", "login", "-u", "ada", "-p", "wrong", r.Host)
	matches(t, "logged in", n.dockers("login", "-u", "ada", "-p", "engine", r.Host), "Login Succeeded")
	matches(t, "pushed", n.dockers("push", name), `(?m)^1: digest: sha256:[0-9a-f]{64} size: \d+$`)
	n.dockers("rmi", name, "mine:3")
	matches(t, "pulled", n.dockers("pull", name), `(?s)Pull complete.*Status: Downloaded newer image for `+name)
	matches(t, "pulled again", n.dockers("pull", name), `Status: Image is up to date for `+name)
	is(t, "what was pulled", n.ok("run", "--rm", name, "cat", "/file"), "text")
	n.dockerRefuses("nosuch", "pull", r.Host+"/team/nosuch:1")
	matches(t, "pruned", n.dockers("image", "prune", "-af"),
		`(?s)untagged: bb:latest.*deleted: sha256:.*reclaimed space: [1-9]`)

	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM bb\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	n.dockerRefuses("the build failed: there is no buildkitd: .*install BuildKit", "build", dir)
	n.dockerRefuses("not searched", "search", "busybox")
}

// By TCP, Docker's API is for clients with a certificate.
func TestDockerCommandWithCertificates(t *testing.T) {
	ca := registrytest.NewCA(t)
	pair, dir := ca.Issue(t, "127.0.0.1"), t.TempDir()
	file := func(name string, data []byte) string { return registrytest.Write(t, data, dir, name) }
	authority, cert, key := file("ca.pem", ca.PEM), file("cert.pem", pair.Cert), file("key.pem", pair.Key)
	n := newNode(t, "--docker-tcp", "127.0.0.1:2376", "--docker-tlscacert", authority, "--docker-tlscert", cert,
		"--docker-tlskey", key)
	call := func(args ...string) result {
		return n.call("", []string{"DOCKER_HOST="}, dockerCommand, append([]string{"-H", "tcp://127.0.0.1:2376"},
			args...)...)
	}
	with := []string{"--tlsverify", "--tlscacert", authority, "--tlscert", cert, "--tlskey", key, "network", "ls", "-q",
		"--filter", "driver=null"}
	matches(t, "with a certificate", call(with...).out, `^[0-9a-f]{12}$`)
	for _, c := range []struct {
		args  []string
		words string
	}{
		{[]string{"version"}, "HTTP request to an HTTPS server"},
		{[]string{"--tls", "--tlscacert", authority, "version"}, "certificate"},
	} {
		if r := call(c.args...); r.code == 0 || !strings.Contains(r.err, c.words) {
			t.Errorf("%v: exit code %d: %s", c.args, r.code, r.err)
		}
	}
}

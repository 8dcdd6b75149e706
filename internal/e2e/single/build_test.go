package single

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vethloom/vethloom/api/client"
	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/engine/shim/shimtest"
	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/internal/registrytest"
)

// buildkit is the directory of a buildkitd that is built from its Go module.
var buildkit = sync.OnceValues(func() (string, error) {
	dir, err := filepath.Abs("../../../.cache/buildkit")
	if err != nil {
		return "", err
	}
	out, err := exec.Command("make", "-C", "../../..", "--no-print-directory", ".cache/buildkit").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build BuildKit: %w: %s", err, out)
	}
	return dir, nil
})

// building is a node with BuildKit installed, where none runs, and a registry at 192.0.2.1:5000 that has base:1.
type building struct {
	*node
	dir string // of builders
	ctx string // the context
}

const baseImage = "192.0.2.1:5000/base:1"

func newBuilding(t *testing.T) *building {
	t.Helper()
	dir, err := buildkit()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	t.Setenv("BUILDKIT_HOST", "")
	b := &building{node: withImage(t), dir: t.TempDir(), ctx: t.TempDir()}
	b.outside("192.0.2.2/24")
	s := registrytest.Serve(t, registrytest.Options{Address: "192.0.2.1:5000", User: "ann", Password: "secret"})
	shimtest.Write(t, os.Getenv("DOCKER_CONFIG")+"/config.json", `{"auths": {"`+s.Host+`": {"auth": "`+
		base64.StdEncoding.EncodeToString([]byte("ann:secret"))+`"}}}`)
	base := dirImage(t, rootfs(t))
	if r := b.call("", nil, "skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false", "--dest-creds",
		"ann:secret", "dir:"+base, "docker://"+baseImage); r.code != 0 {
		t.Fatalf("push the base image: %s", r.err)
	}
	shimtest.Write(t, filepath.Join(b.dir, "buildkitd.toml"), "[registry.\"192.0.2.1:5000\"]\n  http = true\n")
	b.ok("network", "create", "web")
	b.ok("run", "-d", "--name", "db", "--network", "web", "bb", "sleep", "1000")
	t.Cleanup(b.nothingLeft)
	return b
}

// write writes files of the context.
func (b *building) write(files map[string]string) {
	b.t.Helper()
	for name, text := range files {
		shimtest.Write(b.t, filepath.Join(b.ctx, name), text)
	}
}

// args is a command line of a build.
func (b *building) args(flags ...string) []string {
	return append(append([]string{"build", "--builder-root", b.dir + "/root", "--builder-config",
		b.dir + "/buildkitd.toml", "--network", "web"}, flags...), b.ctx)
}

func (b *building) build(flags ...string) result { return b.net(b.args(flags...)...) }

// built builds what must succeed.
func (b *building) built(flags ...string) result {
	b.t.Helper()
	r := b.build(flags...)
	if r.code != 0 {
		b.t.Fatalf("net build %v: exit code %d: %s", flags, r.code, r.err)
	}
	return r
}

// nothingLeft finds what builds leave beside their cache.
func (b *building) nothingLeft() { b.left(4) }

// left finds what builds leave. Of one that was killed the next one removes files and cgroups.
func (b *building) left(places int) {
	b.t.Helper()
	b.eventually("nothing is left of builders", func() bool {
		var left []string
		cgroup := fmt.Sprintf("vethloom-build-%x", sha256.Sum256([]byte(b.dir+"/root")))[:len("vethloom-build-")+12]
		for _, place := range []string{b.dir + "/root/run/*", "/sys/fs/cgroup/*/" + cgroup, b.dir + "/root/tmp/*",
			b.dir + "/root/state/net/cni/*"}[:places] {
			entries, _ := filepath.Glob(place)
			left = append(left, entries...)
		}
		return len(left)+len(b.processes()) == 0 &&
			!strings.Contains(b.ok("endpoint", "ls", "--format", "{{.Engine}}"), "cni")
	})
}

// processes are those that have a mount of a builder's, or its directory in their command line.
func (b *building) processes() (pids []string) {
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		b.t.Fatal(err)
	}
	for _, dir := range all {
		line, _ := os.ReadFile(dir + "/cmdline") // those that have ended have none
		mounts, _ := os.ReadFile(dir + "/mountinfo")
		if bytes.Contains(line, []byte(b.dir)) || bytes.Contains(mounts, []byte(b.dir)) {
			pids = append(pids, filepath.Base(dir))
		}
	}
	return pids
}

const multiStage = `FROM ` + baseImage + ` AS tools
ARG WORD=none
RUN echo "$WORD" > /word && ping -c 1 -W 3 db > /dev/null && echo reached > /reached
RUN --mount=type=secret,id=key cat /run/secrets/key > /copied
COPY . /all
FROM ` + baseImage + `
LABEL kind=test
COPY --from=tools /word /reached /copied /
COPY --from=tools /all /all
ENTRYPOINT ["/bin/sh", "-c"]
CMD ["cat /word /reached /copied; ls /all"]
`

// Stages, arguments, secrets, a name on the network, .dockerignore; the image has what the Dockerfile says.
func TestBuild(t *testing.T) {
	b := newBuilding(t)
	b.write(map[string]string{"Dockerfile": multiStage, ".dockerignore": "hidden\nDockerfile\n.*\n", "kept": "",
		"hidden": ""})
	key := filepath.Join(b.dir, "key")
	shimtest.Write(t, key, "secret\n")
	flags := []string{"-t", "app:1", "-t", "app:2", "--build-arg", "WORD=given", "--label", "by=flag", "--secret",
		"id=key,src=" + key}
	first := b.built(flags...)
	matches(t, "the image's ID", first.out, `^sha256:[0-9a-f]{64}$`)
	is(t, "what the image does", b.ok("run", "--rm", "app:1"), "given\nreached\nsecret\nkept")
	is(t, "its names", b.ok("image", "inspect", "-f", "{{.Id}} {{.RepoTags}}", "app:2"), first.out+" [app:1 app:2]")
	is(t, "its configuration", b.ok("image", "inspect", "-f", "{{json .Config.Labels}} {{json .Config.Entrypoint}}",
		"app:1"), `{"by":"flag","kind":"test"} ["/bin/sh","-c"]`)
	b.history("app:1", "LABEL kind=test", "COPY /word /reached /copied / # buildkit", `ENTRYPOINT ["/bin/sh" "-c"]`)
	again := b.built(append(flags, "--progress", "plain", "--iidfile", b.dir+"/iid")...)
	is(t, "the second build", again.out, first.out)
	if n := strings.Count(again.err, " CACHED\n"); n != 5 {
		t.Errorf("%d of 5 steps are from the cache:\n%s", n, again.err)
	}
	iid, err := os.ReadFile(b.dir + "/iid")
	is(t, "the file with the ID", string(iid), first.out)
	if err != nil {
		t.Error(err)
	}
}

// What netd has is taken from there, and not from registries, unless they are to be asked.
func TestBuildOnLocalImages(t *testing.T) {
	b := newBuilding(t)
	const local, foreign = "192.0.2.1:5000/local:1", "192.0.2.1:5000/foreign:1"
	b.ok("tag", "bb", local)
	b.ok("tag", "bb", "copied") // of docker.io, where nobody is
	archive := filepath.Join(b.dir, "rootfs.tar")
	shimtest.Write(t, archive, b.ok("export", "db"))
	b.ok("import", "--platform", "linux/s390x", archive, foreign)
	b.write(map[string]string{"Dockerfile": `ARG BASE=none
FROM 192.0.2.1:5000/${BASE}:1 AS one
RUN echo kept > /kept
FROM one
COPY --from=copied /bin/busybox /other
RUN --mount=from=` + local + `,target=/mnt ls /mnt/bin > /listed
CMD ["cat", "/kept", "/listed"]
`})
	flags := []string{"-t", "app:1", "--build-arg", "BASE=local"}
	first := b.built(flags...)
	matches(t, "what the image does", b.ok("run", "--rm", "app:1"), `^kept\n(.*\n)*busybox`)
	is(t, "the second build", b.built(flags...).out, first.out)
	b.write(map[string]string{"Dockerfile": "ARG BASE\nFROM 192.0.2.1:5000/${BASE}:1\n"})
	b.built("-q", "--build-arg", "BASE=local", "-o", t.TempDir())
	matches(t, "with --pull", b.build("--build-arg", "BASE=local", "--pull").err, `\nnet: build: .*local:1: not found$`)
	matches(t, "another platform", b.build("--build-arg", "BASE=foreign").err, `\nnet: build: .*foreign:1: not found$`)
}

// history looks for steps in an image's configuration.
func (b *building) history(image string, steps ...string) {
	b.t.Helper()
	c, err := client.Dial(b.t.Context(), "unix://"+b.sock, client.Options{})
	if err != nil {
		b.t.Fatal(err)
	}
	defer c.Close()
	i, err := c.Images.Inspect(b.t.Context(), &apiv1.InspectImageRequest{Image: image})
	var config struct {
		History []struct {
			By string `json:"created_by"`
		} `json:"history"`
	}
	if err == nil {
		err = json.Unmarshal(i.GetConfig(), &config)
	}
	if err != nil {
		b.t.Fatal(err)
	}
	var all []string
	for _, h := range config.History {
		all = append(all, h.By)
	}
	for _, step := range steps {
		if !strings.Contains(strings.Join(all, "\n"), step) {
			b.t.Errorf("no step %q in %q", step, all)
		}
	}
}

// fails builds what cannot be built: what a step says is shown, and nothing is loaded.
func (b *building) fails() {
	t := b.t
	t.Helper()
	had := b.ok("images", "-q", "--no-trunc")
	b.write(map[string]string{"Dockerfile": "FROM " + baseImage + "\nRUN echo 'a \x1b[2J word'; exit 3\n"})
	for _, flag := range []string{"--progress=plain", "-q"} {
		r := b.net("build", flag, "-t", "bad:1", b.ctx)
		is(t, "exit code", fmt.Sprint(r.code), "1")
		matches(t, "a failing step "+flag, r.err, `(?s)a \\x1b\[2J word.*>>> RUN.*\nnet: build: .*exit code: 3$`)
	}
	b.write(map[string]string{"Dockerfile": "FROM 192.0.2.1:5000/none:1\n"})
	matches(t, "no base image", b.net("build", "-t", "bad:1", b.ctx).err,
		`\nnet: build: .*192\.0\.2\.1:5000/none:1: not found$`)
	is(t, "images", b.ok("images", "-q", "--no-trunc"), had)
}

// elsewhere takes input from other places, and has results go to them.
func (b *building) elsewhere() {
	t := b.t
	t.Helper()
	const text = "FROM scratch\nCOPY kept /there\n"
	b.write(map[string]string{"other": text, "kept": ""})
	out := filepath.Join(b.dir, "out")
	if r := b.pipe(text, "build", "-f", "-", "-o", out, b.ctx); r.code != 0 || r.out != "" {
		t.Fatalf("a Dockerfile on standard input: %d, %s, %s", r.code, r.out, r.err)
	}
	if _, err := os.Stat(out + "/there"); err != nil {
		t.Errorf("the result: %v", err)
	}
	tar, err := exec.Command("tar", "-C", b.ctx, "-cz", "other", "kept").Output()
	if err != nil {
		t.Fatal(err)
	}
	r := b.pipe(string(tar), "build", "-f", "other", "-o", "-", "-")
	if r.code != 0 || !strings.Contains(r.out, "there") {
		t.Errorf("a context on standard input: %d, %d bytes, %s", r.code, len(r.out), r.err)
	}
	r = b.pipe("FROM base\nCOPY --from=files kept /\nRUN [ $(ls /sys/class/net | wc -l) = 1 ]\n", "build", "-f", "-",
		"--build-context", "files="+b.ctx, "--build-context", "base=docker-image://"+baseImage, "--network", "none",
		b.ctx)
	if r.code != 0 {
		t.Fatalf("named contexts: %s", r.err)
	}
	layout := t.TempDir()
	archive := b.ok("save", "--format", "oci-archive", "bb")
	if r := b.call(archive, nil, "tar", "-x", "-C", layout); r.code != 0 {
		t.Fatal(r.err)
	}
	is(t, "on an image that only netd has", b.pipe("FROM bb\nRUN echo kept\n", "build", "-f", "-", "-o", t.TempDir(),
		"-q", "--build-context", "bb=oci-layout://"+layout, b.ctx).err, "")
	is(t, "an image without a name", b.ok("images", "-q", "--no-trunc", "-f", "dangling=true"), r.out)
	b.ok("rmi", r.out)
}

// Docker's own command has images built by way of netd's socket, as it does by dockerd's without BuildKit.
func TestBuildByDockersCommand(t *testing.T) {
	b := newBuilding(t)
	b.write(map[string]string{"Dockerfile": "FROM bb\nARG WHAT\nCOPY word /\nRUN cat /word > /said && echo $WHAT >> " +
		"/said\nCMD [\"cat\", \"/said\"]\n", "word": "kept\n", "bad": "FROM bb\nRUN exit 7\n"})
	out := b.dockers("build", "-t", "mine:1", "--build-arg", "WHAT=built", "--label", "l=x", b.ctx)
	matches(t, "what is told", out, `(?s)RUN cat /word.*Successfully built [0-9a-f]{12}\nSuccessfully tagged mine:1$`)
	is(t, "what was built", b.dockers("run", "--rm", "mine:1"), "kept\nbuilt")
	is(t, "its label", b.ok("image", "inspect", "-f", "{{.Config.Labels.l}}", "mine:1"), "x")
	matches(t, "quietly", b.dockers("build", "-q", "-t", "mine:2", b.ctx), `^sha256:[0-9a-f]{64}$`)
	b.dockerRefuses(`(?s)the build failed: .*exit code: 7`, "build", "-q", "-f", filepath.Join(b.ctx, "bad"), b.ctx)
	b.write(map[string]string{"compose.yaml": "version: \"3\"\nservices:\n  app:\n    build: {context: ., " +
		"args: {WHAT: composed}}\n    image: mine:3\n"})
	if r := b.call("", []string{"DOCKER_HOST=unix://" + filepath.Join(b.RunDir, "docker.sock")}, "docker-compose", "-f",
		filepath.Join(b.ctx, "compose.yaml"), "-p", "shop", "build"); r.code != 0 {
		t.Errorf("compose: exit code %d: %s%s", r.code, r.err, r.out)
	}
	is(t, "what compose built", b.dockers("run", "--rm", "mine:3"), "kept\ncomposed")
	b.ok("rmi", "mine:1", "mine:2", "mine:3")
}

// sleeping is a build that does not end, with its step at work.
func (b *building) sleeping() *session {
	b.t.Helper()
	b.write(map[string]string{"Dockerfile": "FROM " + baseImage + "\nRUN echo I am; sleep 1000\n"})
	s := b.session(nil, b.args("-t", "late:1", "--progress", "plain")...)
	b.eventually("the step is at work", func() bool { return strings.Contains(s.errs.String(), " I am\n") })
	return s
}

// ended waits for a build, which must have failed as it is said.
func (b *building) ended(s *session, code int, words string) {
	b.t.Helper()
	is(b.t, "exit code", fmt.Sprint(await.From(b.t, "net build ends", s.code)), fmt.Sprint(code))
	matches(b.t, "errors", s.errs.String(), words)
	b.left(1)
	is(b.t, "images", b.ok("images", "-q", "-f", "reference=late"), "")
}

// A build that ends early leaves nothing but its cache, whichever process it is that ends.
func TestBuildEndsEarly(t *testing.T) {
	b := newBuilding(t)
	s := b.sleeping()
	rival := b.session(nil, b.args("-t", "late:1", "--progress", "plain")...)
	b.eventually("the second build waits", func() bool {
		return rival.errs.has("waiting for another build that uses " + b.dir)
	})
	b.write(map[string]string{"Dockerfile": "FROM " + baseImage + "\nRUN true\n"})
	signal(t, s.cmd.Process.Pid, syscall.SIGINT)
	is(t, "exit code", fmt.Sprint(await.From(t, "net build ends", s.code)), "130")
	matches(t, "errors", s.errs.String(), `\nnet: build: interrupted; nothing of it was loaded\n$`)
	is(t, "the second build's exit code", fmt.Sprint(await.From(t, "net build ends", rival.code)), "0")
	b.ok("rmi", "late:1")

	s = b.sleeping()
	signal(t, s.cmd.Process.Pid, syscall.SIGKILL)
	b.ended(s, -1, "I am")

	s = b.sleeping()
	pid, err := strconv.Atoi(strings.TrimSpace(b.Sh(fmt.Sprintf("pgrep -P %d", s.cmd.Process.Pid))))
	if err != nil {
		t.Fatal(err)
	}
	signal(t, pid, syscall.SIGKILL)
	b.ended(s, 1, `net: build: .*buildkitd has ended \(signal: killed\)`)
	b.write(map[string]string{"Dockerfile": "FROM " + baseImage + "\nRUN true\n"})
	b.built("-t", "late:1")
}

func signal(t *testing.T, pid int, s syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(pid, s); err != nil {
		t.Fatal(err)
	}
}

func TestBuildRefuses(t *testing.T) {
	n := newNode(t)
	empty, there := t.TempDir(), t.TempDir()
	t.Setenv("BUILDKIT_HOST", "")
	shimtest.Write(t, there+"/Dockerfile", "FROM scratch\n")
	n.refuses(
		refusal{"build", 1, `build: accepts 1 arg`},
		refusal{"build " + empty, 1, `the Dockerfile ` + empty + `/Dockerfile: .*no such file.*--file`},
		refusal{"build -f nope " + there, 1, `the Dockerfile nope: `},
		refusal{"build nowhere", 1, `context "nowhere": .*want a directory, - or a URL`},
		refusal{"build -t UPPER " + there, 1, `--tag "UPPER": .*lowercase`},
		refusal{"build --secret nope " + there, 1, `--secret: .*'nope'`},
		refusal{"build -o type=odd " + there, 1, `--output "type=odd": want a type of local`},
		refusal{"build --builder unix:///nope " + there, 1, `builder unix:///nope does not answer.*--builder`},
		refusal{"build --builder unix:///nope --network web " + there, 1, `--network "web": .*--builder own`},
	)
	t.Setenv("PATH", empty)
	n.refuses(refusal{"build " + there, 1,
		`there is no buildkitd: none listens at unix:///run/buildkit/buildkitd.sock.*install BuildKit.*--builder`})
	r := n.call("", []string{"VETHLOOM_HOST=unix:///nope"}, program(t, "net"), "build", there)
	matches(t, "a netd that is away", r.err, `^net: build: cannot reach netd at /nope: the daemon is not running`)
}

// A buildkitd that runs is used, by its socket or by TCP with certificates. It has networks of its own.
func TestBuildByARunningBuildkitd(t *testing.T) {
	b := newBuilding(t)
	b.write(map[string]string{"Dockerfile": "FROM " + baseImage + "\nRUN echo built > /word\n" +
		"CMD [\"cat\", \"/word\"]\n"})
	ca := registrytest.NewCA(t)
	file := func(name string, data []byte) string { return registrytest.Write(t, data, b.dir, name) }
	pair := ca.Issue(t, "127.0.0.1")
	authority, cert, key := file("ca.pem", ca.PEM), file("cert.pem", pair.Cert), file("key.pem", pair.Key)
	sock := "unix://" + b.dir + "/sock"
	b.runs("buildkitd", "--config", b.dir+"/buildkitd.toml", "--root", t.TempDir(), "--addr", sock, "--addr",
		"tcp://127.0.0.1:1234", "--tlscert", cert, "--tlskey", key, "--tlscacert", authority, "--oci-worker-binary",
		"runc", "--oci-worker-net", "host", "--otel-socket-path", b.dir+"/otel.sock")
	b.eventually("buildkitd answers", func() bool {
		return b.call("", nil, "buildctl", "--addr", sock, "debug", "info").code == 0
	})
	t.Setenv("BUILDKIT_HOST", sock)
	b.ok("build", "-q", "-t", "app:1", b.ctx)
	is(t, "what was built", b.ok("run", "--rm", "app:1"), "built")
	tls := []string{"build", "--builder", "tcp://127.0.0.1:1234", "--builder-cacert", authority, "--builder-cert", cert,
		"--builder-key", key, "-q", "-t", "app:2", b.ctx}
	is(t, "the image by TCP", b.ok(tls...), b.ok("image", "inspect", "-f", "{{.Id}}", "app:1"))
	b.refuses(refusal{"build --network web " + b.ctx, 1, `--network "web": .*networks of its own`},
		refusal{"build --builder tcp://127.0.0.1:1234 " + b.ctx, 1, `does not answer`})
	b.timed(sock)
	b.fails()
	b.elsewhere()
}

// timed tells how long a build takes of which all is in the cache.
func (b *building) timed(sock string) {
	t := b.t
	t.Helper()
	begin := time.Now()
	b.ok("build", "-q", "-t", "app:1", b.ctx)
	ours := time.Since(begin)
	begin = time.Now()
	r := b.call("", nil, "buildctl", "--addr", sock, "build", "--frontend", "dockerfile.v0", "--local",
		"context="+b.ctx, "--local", "dockerfile="+b.ctx, "--output", "type=docker,name=app:3,dest="+b.dir+"/tar")
	if r.code != 0 {
		t.Fatal(r.err)
	}
	t.Logf("a build of which all is in the cache: net build %v, with the load; buildctl build into a file %v", ours,
		time.Since(begin))
}

// runs starts a daemon in namespaces of mounts and processes of its own, which end with the test.
func (b *building) runs(args ...string) {
	b.t.Helper()
	cmd := exec.Command("unshare", append([]string{"-mpf", "--kill-child", "--mount-proc"}, args...)...)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := b.Do("", cmd.Start); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		signal(b.t, cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait() // it was killed
		if b.t.Failed() {
			b.t.Logf("log of %s:\n%s", args[0], &log)
		}
	})
}

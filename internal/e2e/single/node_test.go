package single

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vethloom/vethloom/engine/shim/shimtest"
	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/internal/kern/kerntest"
	"github.com/vethloom/vethloom/internal/plugintest"
)

// patience is for what another process does in its own time, on a busy machine.
const patience = await.Patience

func TestMain(m *testing.M) {
	plugintest.Main()
	code := m.Run()
	if os.Getenv("VETHLOOM_BIN") == "" {
		if dir, err := programs(); err == nil {
			os.RemoveAll(dir)
		}
	}
	os.Exit(code)
}

// programs is the directory with netd, net and net-shim.
var programs = sync.OnceValues(func() (string, error) {
	if dir := os.Getenv("VETHLOOM_BIN"); dir != "" {
		return dir, nil
	}
	dir, err := os.MkdirTemp("", "vethloom-bin-")
	if err != nil {
		return "", err
	}
	for _, args := range [][]string{
		{"-tags", "seccomp", "-o", dir + "/", "github.com/vethloom/vethloom/cmd/netd",
			"github.com/vethloom/vethloom/cmd/net-shim"},
		{"-o", dir + "/", "github.com/vethloom/vethloom/cmd/net", "github.com/vethloom/vethloom/cmd/net-build",
			"github.com/vethloom/vethloom/cmd/net-resolver", "github.com/vethloom/vethloom/cmd/net-relay",
			"github.com/vethloom/vethloom/cmd/vethloom-cni"},
	} {
		if out, err := exec.Command("go", append([]string{"build"}, args...)...).CombinedOutput(); err != nil {
			return "", fmt.Errorf("build the programs: %w: %s", err, out)
		}
	}
	return dir, nil
})

func program(t testing.TB, name string) string {
	t.Helper()
	dir, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, name)
}

// node is a host of its own with a running netd.
type node struct {
	*kerntest.Env
	t     *testing.T
	root  string
	sock  string
	netd  *exec.Cmd
	flags []string
	gone  chan error
	log   *bytes.Buffer
	// kernel takes something of the kernel from netd and what it starts; nil: it has all.
	kernel func() error
}

// newNode starts a netd, whose flags name its run directory as RUN; at the test's end nothing of it may be left.
func newNode(t *testing.T, flags ...string) *node {
	t.Helper()
	return newNodeOn(t, nil, flags...)
}

// newNodeOn starts a netd on a kernel that has less.
func newNodeOn(t *testing.T, kernel func() error, flags ...string) *node {
	t.Helper()
	n := &node{Env: kerntest.New(t), t: t, root: t.TempDir(), log: &bytes.Buffer{}, gone: make(chan error, 1),
		kernel: kernel}
	n.sock = filepath.Join(n.RunDir, "netd.sock")
	if err := os.Chmod(filepath.Dir(n.root), 0o711); err != nil { // for root of containers with user namespaces
		t.Fatal(err)
	}
	n.flags = []string{"--root", n.root, "--run", n.RunDir, "--http", "", "--bridge-netfilter", "off",
		"--fastpath", kerntest.FastPath()}
	for _, f := range flags {
		n.flags = append(n.flags, strings.ReplaceAll(f, "RUN/", n.RunDir+"/"))
	}
	n.start()
	t.Cleanup(n.leave)
	return n
}

// start starts netd and waits until it answers.
func (n *node) start() {
	t := n.t
	t.Helper()
	n.netd = exec.Command(program(t, "netd"), n.flags...)
	n.netd.Stderr = n.log
	if err := n.Start("", n.kernel, n.netd); err != nil {
		t.Fatal(err)
	}
	go func(netd *exec.Cmd) { n.gone <- netd.Wait() }(n.netd)
	await.True(t, "netd answers", func() bool {
		select {
		case err := <-n.gone:
			n.gone <- err
			t.Fatalf("netd ended: %v\n%s", err, n.log)
		default:
		}
		return strings.Contains(n.net("version").out, "netd:")
	})
}

// restart kills netd and starts it again: it looks at everything there is.
func (n *node) restart() {
	n.t.Helper()
	if err := n.netd.Process.Kill(); err != nil {
		n.t.Fatal(err)
	}
	<-n.gone
	n.start()
}

// leave removes what the test has made, as a user would, and finds what is left of it.
func (n *node) leave() {
	t := n.t
	if ids := strings.Fields(n.net("ps", "-aq").out); len(ids) > 0 {
		n.ok(append([]string{"rm", "-f"}, ids...)...)
	}
	n.ok("network", "prune", "--force")
	if d := n.ok("diff"); d != "" {
		t.Errorf("not as recorded:\n%s", d)
	}
	// A pair of links goes with its namespace, in the kernel's own time.
	n.eventually("nothing is left behind", func() bool {
		left := n.Sh("ip -o link | grep -o 'vle-[0-9a-f]*' || true; find " + n.RunDir + "/containers " + n.RunDir +
			"/netns -mindepth 1")
		return strings.TrimSpace(left) == ""
	})
	if err := n.netd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if err := <-n.gone; err != nil {
		t.Errorf("netd ended with %v", err)
	}
	if left := n.Sh("ss -Hltnu; ip -o link | grep -o 'vle-[0-9a-f]*' || true"); left != "" {
		t.Errorf("left behind: %s", left)
	}
	n.Sh(`for l in $(ip -o link | grep -o 'vlb-[0-9a-f]*' | sort -u); do ip link del $l; done`)
	if t.Failed() {
		t.Logf("log of netd:\n%s", n.log)
	}
}

// inside runs scripts with the host's programs in a container's network.
func (n *node) inside(container string) func(script string) string {
	pid := n.ok("inspect", "-f", "{{.State.Pid}}", container)
	return func(script string) string {
		n.t.Helper()
		return n.Run("nsenter", "--net=/proc/"+pid+"/ns/net", "sh", "-c", script)
	}
}

// result is what one invocation of a program gave.
type result struct {
	out, err string
	code     int
}

// net runs net, without input.
func (n *node) net(args ...string) result { return n.pipe("", args...) }

// pipe runs net with input.
func (n *node) pipe(input string, args ...string) result {
	n.t.Helper()
	return n.call(input, []string{"VETHLOOM_HOST=unix://" + n.sock}, program(n.t, "net"), args...)
}

// call runs a program in the node's namespace to its end.
func (n *node) call(input string, env []string, name string, args ...string) result {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = time.Second
	cmd.Env = append(os.Environ(), env...)
	cmd.Dir = n.root
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if input != "" {
		cmd.Stdin = strings.NewReader(input)
	}
	err := n.Do("", cmd.Run)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		n.t.Fatalf("%s %s: %v %v\n%s%s", filepath.Base(name), strings.Join(args, " "), err, ctx.Err(), &out, &errs)
	}
	return result{strings.TrimSuffix(out.String(), "\n"), strings.TrimSuffix(errs.String(), "\n"),
		cmd.ProcessState.ExitCode()}
}

// ok runs net, which must succeed, and returns its output.
func (n *node) ok(args ...string) string {
	n.t.Helper()
	r := n.net(args...)
	if r.code != 0 {
		n.t.Fatalf("net %s: exit code %d: %s%s", strings.Join(args, " "), r.code, r.err, r.out)
	}
	return r.out
}

// refusal is a command line that must fail in a way that helps.
type refusal struct {
	args  string // split at spaces
	code  int
	words string // a regular expression for standard error
}

// refuses runs command lines one by one. Each must fail with one line for people.
func (n *node) refuses(list ...refusal) {
	n.t.Helper()
	for _, c := range list {
		r := n.net(strings.Fields(c.args)...)
		if r.code != c.code {
			n.t.Errorf("net %s: exit code %d, want %d: %s", c.args, r.code, c.code, r.err)
		}
		if !regexp.MustCompile(c.words).MatchString(r.err) {
			n.t.Errorf("net %s:\n got  %s\n want %s", c.args, r.err, c.words)
		}
		if strings.Count(r.err, "\n") > 0 || !strings.HasPrefix(r.err, "net: ") {
			n.t.Errorf("net %s: not one line of net's: %s", c.args, r.err)
		}
	}
}

// is fails the test when got is not want.
func is(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s:\n got  %q\n want %q", what, got, want)
	}
}

// matches fails the test when the regular expression is not in got.
func matches(t *testing.T, what, got, want string) {
	t.Helper()
	if !regexp.MustCompile(want).MatchString(got) {
		t.Errorf("%s:\n got  %s\n want %s", what, got, want)
	}
}

// eventually waits for what another process brings about.
func (n *node) eventually(what string, cond func() bool) {
	n.t.Helper()
	await.True(n.t, what, cond)
}

// rootfs is a tar of a root filesystem with busybox.
func rootfs(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "rootfs.tar")
	if out, err := exec.Command("tar", "-C", shimtest.Rootfs(t), "-cf", path, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return path
}

// withImage is a node that has the image bb.
func withImage(t *testing.T, flags ...string) *node {
	t.Helper()
	return withImageOn(t, nil, flags...)
}

// withImageOn is a node on a kernel that has less.
func withImageOn(t *testing.T, kernel func() error, flags ...string) *node {
	t.Helper()
	tar := rootfs(t)
	n := newNodeOn(t, kernel, flags...)
	n.ok("import", tar, "bb")
	return n
}

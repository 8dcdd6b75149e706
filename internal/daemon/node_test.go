package daemon_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vethloom/vethloom/api/client"
	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/engine/shim/shimtest"
	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/internal/daemon"
	"github.com/vethloom/vethloom/internal/kern/kerntest"
)

// asNetd makes this test binary run as netd, with the configuration in the
// variable and, when KillAt is not 0, an end at that step.
const asNetd = "VETHLOOM_TEST_NETD"

type netdConfig struct {
	daemon.Config
	KillAt int
}

func TestMain(m *testing.M) {
	if text, ok := os.LookupEnv(asNetd); ok {
		os.Exit(beNetd(text))
	}
	code := m.Run()
	shimtest.Cleanup()
	os.Exit(code)
}

func beNetd(text string) int {
	var c netdConfig
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	if c.KillAt > 0 {
		c.Faults = (&killer{at: int64(c.KillAt)}).faults()
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := daemon.Run(ctx, c.Config); err != nil {
		fmt.Fprintln(os.Stderr, "netd:", err)
		return 1
	}
	return 0
}

// node is a host of its own: a fresh network namespace, directories, and a
// netd that can be started, stopped and killed again and again.
type node struct {
	*kerntest.Env
	t      *testing.T
	cfg    netdConfig
	root   string
	place  string // path of the namespace that netd is started in; "": the test's
	cmd    *exec.Cmd
	gone   chan error
	log    *transcript
	arm    *os.File
	armed  *os.File
	client *client.Client
	ready  func() // waits for more than an answer after a start; may be nil
	// kernel takes something of the kernel from netd; nil: it has all. See [kerntest.Env.Start].
	kernel func() error
}

// transcript is what a process has written so far, to be read while it writes.
type transcript struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (t *transcript) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.text.Write(b)
}

func (t *transcript) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.text.String()
}

func newNode(t *testing.T) *node {
	t.Helper()
	n := &node{Env: kerntest.New(t), t: t, root: t.TempDir()}
	n.cfg.Config = daemon.Defaults()
	n.cfg.Root, n.cfg.Run = n.root, n.RunDir
	n.cfg.Host = "unix://" + filepath.Join(n.RunDir, "netd.sock")
	n.cfg.HTTP, n.cfg.LogLevel = "", "debug"
	n.cfg.Shim, n.cfg.Resolver = shimtest.Binary(t), shimtest.Resolver(t)
	n.cfg.BridgeNetfilter, n.cfg.FastPath = "off", kerntest.FastPath()
	t.Cleanup(n.leave)
	return n
}

// leave takes away what a node has by right when it is switched off: netd,
// and the links of the builtin networks.
func (n *node) leave() {
	n.stop()
	for _, l := range strings.Fields(n.Sh("ip -o link | awk -F': ' '$2 ~ /^vlb-/ {print $2}'")) {
		n.Run("ip", "link", "del", strings.TrimSuffix(l, ":"))
	}
	if n.t.Failed() && n.log != nil {
		n.t.Logf("log of netd:\n%s", tail(n.log.String(), 8000))
	}
}

func tail(s string, size int) string {
	if len(s) > size {
		return "…" + s[len(s)-size:]
	}
	return s
}

// start starts netd and waits until it answers.
func (n *node) start() {
	n.t.Helper()
	if err := n.tryStart(); err != nil {
		n.t.Fatalf("start netd: %v\n%s", err, n.log)
	}
	if n.ready != nil {
		n.ready()
	}
}

func (n *node) tryStart() error {
	cfg, err := json.Marshal(n.cfg)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	n.log = &transcript{}
	n.cmd = exec.Command(self)
	n.cmd.Env = append(os.Environ(), asNetd+"="+string(cfg))
	n.cmd.Stderr = n.log
	armR, armW, err := os.Pipe()
	if err != nil {
		return err
	}
	ackR, ackW, err := os.Pipe()
	if err != nil {
		return err
	}
	n.cmd.ExtraFiles = []*os.File{armR, ackW}
	if err := n.Start(n.place, n.kernel, n.cmd); err != nil {
		return err
	}
	armR.Close()
	ackW.Close()
	n.arm, n.armed = armW, ackR
	n.gone = make(chan error, 1)
	go func() { n.gone <- n.cmd.Wait() }()
	return n.dial()
}

// dial connects once the socket is there; netd's own end, before that, is the error.
func (n *node) dial() error {
	ctx, cancel := context.WithTimeout(n.t.Context(), await.Patience)
	defer cancel()
	for {
		c, err := client.Dial(ctx, n.cfg.Host, client.Options{})
		if err == nil {
			n.client = c
			return nil
		}
		select {
		case died := <-n.gone:
			n.gone <- died
			n.release()
			return fmt.Errorf("netd ended: %w: %s", died, lastLine(n.log.String()))
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-time.After(await.Pause): // the next try, not a wait for a state
		}
	}
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}

// release lets go of what belongs to a netd that has ended.
func (n *node) release() {
	if n.client != nil {
		n.client.Close()
		n.client = nil
	}
	if n.arm != nil {
		n.arm.Close()
		n.armed.Close()
		n.arm, n.armed = nil, nil
	}
	n.cmd = nil
}

// stop ends netd as an operator does.
func (n *node) stop() { n.end(syscall.SIGTERM) }

// kill ends netd as a crash does.
func (n *node) kill() { n.end(syscall.SIGKILL) }

func (n *node) end(s syscall.Signal) {
	n.t.Helper()
	if n.cmd == nil {
		return
	}
	if err := n.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		n.t.Errorf("end netd: %v", err)
	}
	err := <-n.gone
	if s == syscall.SIGTERM && err != nil {
		n.t.Errorf("netd ended badly: %v: %s", err, lastLine(n.log.String()))
	}
	n.release()
}

// died waits for the end of a netd that is about to kill itself.
func (n *node) died() {
	<-n.gone
	n.release()
}

// armKiller begins the count of steps.
func (n *node) armKiller() {
	n.t.Helper()
	if _, err := n.arm.Write([]byte{1}); err != nil {
		n.t.Fatal(err)
	}
	if _, err := io.ReadFull(n.armed, make([]byte, 1)); err != nil {
		n.t.Fatalf("netd did not arm: %v", err)
	}
}

func (n *node) restart() {
	n.t.Helper()
	n.kill()
	n.start()
}

// converged fails the test when the kernel differs from the records. What comes by etcd is waited for: news of other
// nodes come at any time, and a pass follows them.
func (n *node) converged() {
	n.t.Helper()
	var ops []*apiv1.Op
	agrees := func() bool {
		ops = n.differences()
		return len(ops) == 0
	}
	if n.cfg.Etcd == daemon.Defaults().Etcd { // nobody else changes anything
		agrees()
	} else {
		await.Holds(agrees)
	}
	for _, op := range ops {
		n.t.Errorf("not as recorded: %s %s (was %s)", op.Verb, op.Object, op.Old)
	}
}

// differences are what is not as recorded in the kernel.
func (n *node) differences() []*apiv1.Op {
	n.t.Helper()
	d, err := n.client.System.Diff(n.t.Context(), &apiv1.DiffRequest{})
	if err != nil {
		n.t.Fatalf("diff: %v", err)
	}
	return d.Ops
}

func (n *node) network(name string, edit ...func(*apiv1.CreateNetworkRequest)) *apiv1.Network {
	n.t.Helper()
	r := &apiv1.CreateNetworkRequest{Name: name, Ipv6: true}
	for _, e := range edit {
		e(r)
	}
	net, err := n.client.Networks.Create(n.t.Context(), r)
	if err != nil {
		n.t.Fatalf("create network %s: %v", name, err)
	}
	return net
}

func (n *node) removeNetwork(name string) {
	n.t.Helper()
	if _, err := n.client.Networks.Remove(n.t.Context(), &apiv1.RemoveNetworkRequest{Network: name}); err != nil {
		n.t.Fatalf("remove network %s: %v", name, err)
	}
}

// image imports a busybox root filesystem.
func (n *node) image() {
	n.t.Helper()
	var tar []byte
	err := n.Do("", func() (err error) {
		tar, err = exec.Command("tar", "-C", shimtest.Rootfs(n.t), "-c", ".").Output()
		return err
	})
	if err != nil {
		n.t.Fatal(err)
	}
	s, err := n.client.Images.Import(n.t.Context())
	if err != nil {
		n.t.Fatal(err)
	}
	send := func(r *apiv1.ImportRequest) {
		if err := s.Send(r); err != nil {
			n.t.Fatal(err)
		}
	}
	send(&apiv1.ImportRequest{
		Message: &apiv1.ImportRequest_Options{Options: &apiv1.ImportOptions{Reference: "busybox"}}})
	for len(tar) > 0 {
		part := tar[:min(len(tar), 1<<20)]
		tar = tar[len(part):]
		send(&apiv1.ImportRequest{Message: &apiv1.ImportRequest_Data{Data: part}})
	}
	if _, err := s.CloseAndRecv(); err != nil {
		n.t.Fatalf("import: %v", err)
	}
}

// run starts a container in the background.
func (n *node) run(spec *apiv1.ContainerSpec) string {
	n.t.Helper()
	id, err := n.tryRun(spec)
	if err != nil {
		n.t.Fatalf("run %s: %v", spec.Name, err)
	}
	return id
}

func (n *node) tryRun(spec *apiv1.ContainerSpec) (string, error) {
	spec.Image = "busybox"
	c, err := n.client.Containers.Create(n.t.Context(), &apiv1.CreateContainerRequest{Spec: spec})
	if err != nil {
		return "", err
	}
	_, err = n.client.Containers.Start(n.t.Context(), &apiv1.StartContainerRequest{Container: c.Id})
	return c.Id, err
}

func (n *node) inspect(container string) *apiv1.Container {
	n.t.Helper()
	c, err := n.client.Containers.Inspect(n.t.Context(), &apiv1.InspectContainerRequest{Container: container})
	if err != nil {
		n.t.Fatalf("inspect %s: %v", container, err)
	}
	return c
}

func (n *node) removeContainer(container string) {
	n.t.Helper()
	if _, err := n.client.Containers.Remove(n.t.Context(), &apiv1.RemoveContainerRequest{Container: container,
		Force: true}); err != nil {
		n.t.Fatalf("remove %s: %v", container, err)
	}
}

// traces lists everything that exists because of sandboxes and containers; an
// idle node has none of it.
func (n *node) traces() string {
	n.t.Helper()
	var out []string
	add := func(kind, s string) {
		for _, line := range strings.Split(strings.TrimSpace(s), "\n") {
			if line != "" {
				out = append(out, kind+" "+strings.TrimSpace(line))
			}
		}
	}
	add("link", n.Sh(`ip -o link | grep -o 'vle-[0-9a-f]*' | sort -u || true`))
	pins, _ := filepath.Glob(filepath.Join(n.RunDir, "netns", "*"))
	add("netns", strings.Join(pins, "\n"))
	add("element", n.Sh(`nft list ruleset | grep -o 'comment "endpoint/[^"]*"' | sort -u || true`))
	// not those of tunnels, nor of the names at gateways
	add("socket", n.Sh(`ss -Hltnu | awk '{print $1, $5}' | grep -v '^udp .*:\(4789\|8285\|8472\)$' |
		grep -v '%vl[a-z]-[0-9a-f]*\]*:53$' || true`))
	add("process", strings.Join(n.shims(), "\n"))
	dirs, _ := filepath.Glob(filepath.Join(n.RunDir, "containers", "*"))
	add("directory", strings.Join(dirs, "\n"))
	return strings.Join(out, "\n")
}

// shims are the supervisors of this node, by process ID.
func (n *node) shims() (pids []string) {
	n.t.Helper()
	var here string
	if err := n.Do("", func() (err error) {
		here,
			err = os.Readlink("/proc/thread-self/ns/net")
		return err
	}); err != nil {
		n.t.Fatal(err)
	}
	exes, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, exe := range exes {
		if to, err := os.Readlink(exe); err != nil || to != n.cfg.Shim {
			continue
		}
		if args, err := os.ReadFile(filepath.Join(filepath.Dir(exe), "cmdline")); err != nil ||
			bytes.Contains(args, []byte("\x00hold\x00")) { // it holds tunnels, and supervises nothing
			continue
		}
		if ns, err := os.Readlink(filepath.Join(filepath.Dir(exe), "ns/net")); err == nil && ns == here {
			pids = append(pids, filepath.Base(filepath.Dir(exe)))
		}
	}
	return pids
}

// idle fails the test when something stays of sandboxes or containers. Links take
// the kernel a moment after their namespace has gone.
func (n *node) idle() {
	n.t.Helper()
	await.Value(n.t, "nothing is left behind", "", n.traces)
}

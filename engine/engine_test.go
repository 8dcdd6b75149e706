package engine_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine"
	"github.com/vethloom/vethloom/engine/image"
	"github.com/vethloom/vethloom/engine/shim/shimtest"
	"github.com/vethloom/vethloom/engine/snapshot"
	"github.com/vethloom/vethloom/engine/volume"
	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/internal/store/mem"
	"github.com/vethloom/vethloom/plan"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(victimDir); dir != "" {
		if err := victim(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	code := m.Run()
	shimtest.Cleanup()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// images has one image, "busybox".
type images struct {
	root   string
	config ocispec.ImageConfig
	health []byte
	gone   bool // it is removed after it was found
}

func (i *images) Resolve(_ context.Context, ref string) (image.Image, error) {
	if ref != "busybox" && ref != "sha256:b" {
		return image.Image{}, &image.NotFoundError{Ref: ref}
	}
	return image.Image{ID: "sha256:b", Config: i.config, Healthcheck: i.health}, nil
}

func (i *images) Confirm(_ context.Context, id string) error {
	if i.gone {
		return &image.NotFoundError{Ref: id}
	}
	return nil
}

func (i *images) LayerDirs(image.Image) []string { return []string{i.root} }

func (i *images) CheckLayers(image.Image) error { return nil }

// networks makes namespaces with nothing in them but loopback, and outlives engines.
type networks struct {
	mu    sync.Mutex
	held  map[string]*os.File
	calls []string // of Attach, Detach and Publish
	fail  error
	hook  func()

	endpoints []cnm.Endpoint // of every sandbox
}

func (n *networks) CreateSandbox(_ context.Context, r cnm.SandboxRequest) (cnm.Sandbox, []cnm.Endpoint, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.fail != nil {
		return cnm.Sandbox{}, nil, n.fail
	}
	if n.hook != nil {
		n.hook()
	}
	if len(r.Attach) == 1 && r.Attach[0].Network == "host" {
		return cnm.Sandbox{ID: r.ID, Host: true}, nil, nil
	}
	if n.held[r.ID] == nil {
		f, err := newNetNS()
		if err != nil {
			return cnm.Sandbox{}, nil, err
		}
		n.held[r.ID] = f
	}
	return cnm.Sandbox{ID: r.ID, NetNS: plan.NetNS(r.ID)}, nil, nil
}

func (n *networks) DeleteSandbox(_ context.Context, id string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if f := n.held[id]; f != nil {
		f.Close()
		delete(n.held, id)
	}
	return nil
}

func (n *networks) Sandbox(_ context.Context, id string) (cnm.Sandbox, []cnm.Endpoint, error) {
	return cnm.Sandbox{ID: id, NetNS: plan.NetNS(id)}, n.endpoints, nil
}

func (n *networks) Network(_ context.Context, ref string) (cnm.Network, error) {
	return cnm.Network{ID: ref, Name: ref, Driver: "bridge"}, nil
}

func (n *networks) Attach(_ context.Context, sandbox string, r cnm.AttachRequest) (cnm.Endpoint, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.calls = append(n.calls, "attach "+r.Network)
	return cnm.Endpoint{ID: "e", Sandbox: sandbox, Network: r.Network}, n.fail
}

func (n *networks) Detach(_ context.Context, _, network string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.calls = append(n.calls, "detach "+network)
	return nil
}

func (n *networks) Publish(_ context.Context, _ string, ports []cnm.PortMapping) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.calls = append(n.calls, fmt.Sprintf("publish %d", len(ports)))
	return n.fail
}

func (n *networks) Settled() {}

func (n *networks) NetNSPath(s cnm.Sandbox) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.held[string(s.NetNS)].Fd())
}

func (n *networks) count() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.held)
}

func newNetNS() (f *os.File, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // the thread ends with the goroutine
		if err = unix.Unshare(unix.CLONE_NEWNET); err == nil {
			f, err = os.Open("/proc/thread-self/ns/net")
		}
	}()
	<-done
	return f, err
}

// world is what outlives one engine.
type world struct {
	t      testing.TB
	dir    string
	store  cnm.Store
	nets   *networks
	images *images
	snaps  *snapshot.Snapshots
	vols   *volume.Volumes
	e      *engine.Engine
	boot   string
	resolv []string
	cgroup string
	mu     sync.Mutex
	events []string
	seen   func(engine.Event) // besides; nil: nobody
	logged bytes.Buffer
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{
		t: t, dir: t.TempDir(), store: mem.New(), nets: &networks{held: map[string]*os.File{}}, boot: "boot-1",
		images: &images{root: shimtest.Rootfs(t), config: ocispec.ImageConfig{Env: []string{"PATH=/bin", "FROM=image"},
			Cmd: []string{"sh"}}},
	}
	w.cgroup = fmt.Sprintf("/vethloom-test-%d-%s", os.Getpid(), strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-")))
	// A container's root in a user namespace is nobody here: it must get through.
	if err := os.Chmod(filepath.Dir(w.dir), 0o711); err != nil {
		t.Fatal(err)
	}
	var err error
	if w.snaps, err = snapshot.Open(filepath.Join(w.dir, "snapshots")); err != nil {
		t.Fatal(err)
	}
	if w.vols, err = volume.Open(filepath.Join(w.dir, "volumes"), w.store); err != nil {
		t.Fatal(err)
	}
	w.open()
	t.Cleanup(w.tearDown)
	return w
}

func (w *world) config() engine.Config {
	return engine.Config{
		Store: w.store, Networks: w.nets, Images: w.images, Snapshots: w.snaps, Volumes: w.vols,
		Root: filepath.Join(w.dir, "root"), Run: filepath.Join(w.dir, "run"), ShimPath: shimtest.Binary(w.t),
		CgroupParent: w.cgroup, BootID: w.boot, Resolv: w.resolv,
		Events: func(e engine.Event) {
			w.mu.Lock()
			w.events = append(w.events, e.Action)
			seen := w.seen
			w.mu.Unlock()
			if seen != nil {
				seen(e)
			}
		},
		Log: slog.New(slog.NewTextHandler(&lockedWriter{w: w}, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
}

type lockedWriter struct{ w *world }

func (l *lockedWriter) Write(b []byte) (int, error) {
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	return l.w.logged.Write(b)
}

func (w *world) open() {
	w.t.Helper()
	var err error
	if w.e, err = engine.New(w.t.Context(), w.config()); err != nil {
		w.t.Fatal(err)
	}
	w.e.Resume()
}

// restart is a netd that stops and another that starts.
func (w *world) restart() {
	w.t.Helper()
	if err := w.e.Close(); err != nil {
		w.t.Fatal(err)
	}
	w.open()
}

// tearDown removes all containers and looks for what is left.
func (w *world) tearDown() {
	t := w.t
	ctx, cancel := context.WithTimeout(context.Background(), await.Patience)
	defer cancel()
	list, err := w.e.List(ctx, true)
	if err != nil {
		t.Error(err)
	}
	for _, c := range list {
		if _, err := w.e.Remove(ctx, c.ID, true, true); err != nil {
			t.Errorf("remove %s: %v", c.Spec.Name, err)
		}
	}
	if err := w.e.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if n := w.nets.count(); n != 0 {
		t.Errorf("%d sandboxes are left", n)
	}
	for _, kind := range []cnm.Kind{cnm.KindContainer} {
		if left, _ := w.store.List(ctx, kind); len(left) != 0 {
			t.Errorf("%d %s records are left", len(left), kind)
		}
	}
	for _, dir := range []string{"root/containers/*", "run/containers/*", "snapshots/[^.]*"} {
		if entries, _ := filepath.Glob(filepath.Join(w.dir, dir)); len(entries) != 0 {
			t.Errorf("left in %s: %v", dir, entries)
		}
	}
	if left := cgroupsOf(w.cgroup); len(left) != 0 {
		t.Errorf("cgroups are left: %v", left)
	}
	mounts, _ := os.ReadFile("/proc/self/mounts")
	if bytes.Contains(mounts, []byte(w.dir)) {
		t.Error("mounts are left")
	}
	if left := shimsOf(w.dir); len(left) != 0 {
		t.Errorf("processes are left: %v", left)
	}
	if t.Failed() {
		w.mu.Lock()
		t.Logf("log:\n%s", w.logged.String())
		w.mu.Unlock()
	}
}

func (w *world) create(s engine.Spec) engine.Container {
	w.t.Helper()
	if s.Image == "" {
		s.Image = "busybox"
	}
	if len(s.Networks) == 0 {
		s.Networks = []cnm.AttachRequest{{Network: "none"}}
	}
	c, _, err := w.e.Create(w.t.Context(), s)
	if err != nil {
		w.t.Fatalf("create: %v", err)
	}
	return c
}

type result struct {
	out, err string
	engine.ExitStatus
}

// run is net run in the foreground.
func (w *world) run(s engine.Spec, stdin string) (result, error) {
	w.t.Helper()
	c := w.create(s)
	var out, errOut bytes.Buffer
	stdio := engine.Stdio{Stdout: &out, Stderr: &errOut}
	if s.OpenStdin {
		stdio.Stdin = strings.NewReader(stdin)
	}
	st, err := w.e.Attach(w.t.Context(), c.ID, true, stdio)
	return result{out.String(), errOut.String(), st}, err
}

func (w *world) mustRun(s engine.Spec, stdin string) result {
	w.t.Helper()
	r, err := w.run(s, stdin)
	if err != nil {
		w.t.Fatalf("run %v: %v", s.Command, err)
	}
	return r
}

// start runs a container in the background.
func (w *world) start(s engine.Spec) engine.Container {
	w.t.Helper()
	c := w.create(s)
	if err := w.e.Start(w.t.Context(), c.ID); err != nil {
		w.t.Fatalf("start: %v", err)
	}
	return w.inspect(c.ID)
}

func (w *world) inspect(ref string) engine.Container {
	w.t.Helper()
	d, err := w.e.Inspect(w.t.Context(), ref)
	if err != nil {
		w.t.Fatalf("inspect %s: %v", ref, err)
	}
	return d.Container
}

func (w *world) exec(ref string, args ...string) result {
	w.t.Helper()
	var out, errOut bytes.Buffer
	st, err := w.e.Exec(w.t.Context(), engine.ExecRequest{Container: ref, Command: args},
		engine.Stdio{Stdout: &out, Stderr: &errOut})
	if err != nil {
		w.t.Fatalf("exec %v: %v", args, err)
	}
	return result{out.String(), errOut.String(), st}
}

func (w *world) logs(ref string) string {
	w.t.Helper()
	var b strings.Builder
	err := w.e.Logs(w.t.Context(), engine.LogsRequest{Container: ref, Tail: -1}, func(l engine.LogLine) error {
		if l.Stderr {
			b.WriteString("E:")
		}
		b.Write(l.Line)
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return b.String()
}

func (w *world) wait(ref string) engine.ExitStatus {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), await.Patience)
	defer cancel()
	st, err := w.e.Wait(ctx, ref, engine.WaitNotRunning, nil)
	if err != nil {
		w.t.Fatalf("wait for %s: %v", ref, err)
	}
	return st
}

func sh(script string) []string { return []string{"sh", "-c", script} }

func TestForegroundRun(t *testing.T) {
	w := newWorld(t)
	tests := []struct {
		name      string
		spec      engine.Spec
		stdin     string
		code      int
		out, err2 string
	}{
		{name: "exit code", spec: engine.Spec{Command: sh("exit 42")}, code: 42},
		{name: "signal", spec: engine.Spec{Command: sh("trap '' TERM; kill -TERM 1; exit 3")}, code: 3},
		{name: "streams", spec: engine.Spec{Command: sh("echo a; echo b >&2; exit 1")}, out: "a\n", err2: "b\n",
			code: 1},
		{name: "stdin", spec: engine.Spec{Command: []string{"cat"}, OpenStdin: true}, stdin: "x\ny\n", out: "x\ny\n"},
		{name: "no stdin", spec: engine.Spec{Command: []string{"cat"}}},
		{name: "environment", spec: engine.Spec{Command: sh("echo $FROM $MORE"), Env: []string{"MORE=request"}},
			out: "image request\n"},
		{name: "environment replaced", spec: engine.Spec{Command: sh("echo $FROM"), Env: []string{"FROM=request"}},
			out: "request\n"},
		{name: "entrypoint", spec: engine.Spec{Entrypoint: []string{"echo"}, Command: []string{"hi"}}, out: "hi\n"},
		{name: "work directory", spec: engine.Spec{Command: []string{"pwd"}, WorkDir: "/made/up"}, out: "/made/up\n"},
		{name: "hostname", spec: engine.Spec{Command: sh("hostname; cat /etc/hostname"), Hostname: "loom"},
			out: "loom\nloom\n"},
		{name: "user by name", spec: engine.Spec{Command: []string{"id"}, User: "ann"},
			out: "uid=1000(ann) gid=1000(ann) groups=1000(ann),2000(lamps)\n"},
		{name: "user by number", spec: engine.Spec{Command: sh("id -u; id -g"), User: "77:88"}, out: "77\n88\n"},
		{name: "user writes to stdout", spec: engine.Spec{Command: sh("echo x > /dev/stdout"), User: "ann"},
			out: "x\n"},
		{name: "no capabilities for users",
			spec: engine.Spec{Command: sh("grep -E 'Cap(Eff|Prm|Inh)' /proc/self/status"), User: "ann"},
			out:  "CapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\n"},
		{name: "default capabilities", spec: engine.Spec{Command: sh("grep CapEff /proc/self/status")},
			out: "CapEff:\t00000000a80425fb\n"},
		{name: "dropped capabilities", spec: engine.Spec{Command: sh("grep CapEff /proc/self/status"),
			CapDrop: []string{"all"}, CapAdd: []string{"chown"}}, out: "CapEff:\t0000000000000001\n"},
		{name: "seccomp", spec: engine.Spec{Command: sh("grep Seccomp: /proc/self/status")}, out: "Seccomp:\t2\n"},
		{name: "privileged", spec: engine.Spec{
			Command: sh("grep Seccomp: /proc/self/status; mount -t tmpfs x /tmp && echo mounted"),
			Options: engine.Options{Privileged: true}},
			out: "Seccomp:\t0\nmounted\n"},
		{name: "not privileged", spec: engine.Spec{Command: sh("mount -t tmpfs x /tmp 2>/dev/null || echo refused")},
			out: "refused\n"},
		{name: "read-only", spec: engine.Spec{
			Command: sh("touch /x 2>/dev/null || echo refused; touch /dev/shm/x && echo shm"),
			Options: engine.Options{ReadOnly: true}},
			out: "refused\nshm\n"},
		{name: "masked", spec: engine.Spec{
			Command: sh("wc -c < /proc/interrupts; echo 1 2>/dev/null > /proc/sys/kernel/panic || echo refused")},
			out: "0\nrefused\n"},
		{name: "own processes", spec: engine.Spec{Command: sh("echo $$; grep NSpid /proc/self/status | wc -w")},
			out: "1\n2\n"},
		{name: "own links", spec: engine.Spec{Command: sh("ls /sys/class/net")}, out: "lo\n"},
		{name: "no new session keys needed", spec: engine.Spec{Command: sh("ls /proc/self/fd | tr '\\n' ' '")},
			out: "0 1 2 3 \n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.spec.Remove = true
			got := w.mustRun(tt.spec, tt.stdin)
			if strings.TrimSpace(got.out) != strings.TrimSpace(tt.out) || got.err != tt.err2 || got.Code != tt.code {
				t.Errorf("got %q, %q, code %d (%s)\nwant %q, %q, code %d", got.out, got.err, got.Code, got.Error,
					tt.out, tt.err2, tt.code)
			}
		})
	}
	if list, _ := w.e.List(t.Context(), true); len(list) != 0 {
		t.Errorf("%d containers that were to be removed are left", len(list))
	}
}

func TestBackgroundLife(t *testing.T) {
	w := newWorld(t)
	c := w.start(engine.Spec{Name: "web",
		Command: sh("trap 'echo bye; exit 5' TERM; echo started; while :; do sleep 0.05; done")})
	if c.Status != engine.Running || c.Pid == 0 || c.Started.IsZero() {
		t.Fatalf("after start: %+v", c)
	}
	for _, ref := range []string{"web", c.ID, c.ID[:5]} {
		if got := w.inspect(ref); got.ID != c.ID {
			t.Errorf("%s is %s", ref, got.ID)
		}
	}
	if _, err := w.e.Inspect(t.Context(), c.ID[:3]); !errors.Is(err, cnm.ErrNotFound) {
		t.Errorf("three digits: %v", err)
	}
	if _, _, err := w.e.Create(t.Context(), engine.Spec{Name: "web", Image: "busybox"}); !errors.Is(err,
		cnm.ErrExists) {
		t.Errorf("a second web: %v", err)
	}
	if got := w.exec("web", "sh", "-c", "echo $FROM; cat; exit 9"); got.out != "image\n" || got.Code != 9 {
		t.Errorf("exec: %+v", got)
	}
	if _, err := w.e.Remove(t.Context(), "web", false, false); !errors.Is(err, cnm.ErrInUse) {
		t.Errorf("remove while running: %v", err)
	}
	await.True(t, "it can be stopped", func() bool { return w.logs("web") == "started\n" })
	if err := w.e.Stop(t.Context(), "web", engine.StopOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := w.inspect("web"); got.Status != engine.Exited || got.ExitCode != 5 || got.Pid != 0 ||
		got.Finished.IsZero() {
		t.Errorf("after stop: %+v", got)
	}
	if got := w.logs("web"); got != "started\nbye\n" {
		t.Errorf("logs: %q", got)
	}
	// Again, with what it wrote still there.
	if err := w.e.Start(t.Context(), "web"); err != nil {
		t.Fatal(err)
	}
	if err := w.e.Kill(t.Context(), "web", ""); err != nil {
		t.Fatal(err)
	}
	if st := w.wait("web"); st.Code != 137 {
		t.Errorf("after kill: %+v", st)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	const want = "[create start exec_create: sh -c echo $FROM; cat; exit 9 exec_start: sh -c echo $FROM; cat; exit 9 " +
		"exec_die kill die stop start kill die]"
	if got := fmt.Sprint(w.events); got != want {
		t.Errorf("events %s, want %s", got, want)
	}
}

func TestCommandsThatCannotRun(t *testing.T) {
	w := newWorld(t)
	tests := []struct {
		name string
		args []string
		kind error
		code int
	}{
		{"missing", []string{"nonesuch"}, engine.ErrCommandNotFound, 127},
		{"missing path", []string{"/bin/nonesuch"}, engine.ErrCommandNotFound, 127},
		{"not executable", []string{"/etc/plain"}, engine.ErrCommandNotExec, 126},
		{"directory", []string{"/etc"}, engine.ErrCommandNotExec, 126},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := w.create(engine.Spec{Command: tt.args})
			_, err := w.e.Attach(t.Context(), c.ID, true, engine.Stdio{Stdout: io.Discard, Stderr: io.Discard})
			command, ok := errors.AsType[*engine.CommandError](err)
			if !ok || !errors.Is(err, tt.kind) || command.ExitCode() != tt.code {
				t.Fatalf("got %v, want %v with code %d", err, tt.kind, tt.code)
			}
			got := w.inspect(c.ID)
			if got.Status != engine.Created || got.ExitCode != tt.code || got.Error == "" {
				t.Errorf("record: %+v", got)
			}
		})
		t.Run(tt.name+" in exec", func(t *testing.T) {
			c := w.start(engine.Spec{Command: []string{"sleep", "100"}})
			_, err := w.e.Exec(t.Context(), engine.ExecRequest{Container: c.ID, Command: tt.args}, engine.Stdio{})
			command, ok := errors.AsType[*engine.CommandError](err)
			if !ok || !errors.Is(err, tt.kind) || command.ExitCode() != tt.code {
				t.Errorf("got %v, want %v with code %d", err, tt.kind, tt.code)
			}
			if _, err := w.e.Remove(t.Context(), c.ID, true, false); err != nil {
				t.Error(err)
			}
		})
	}
}

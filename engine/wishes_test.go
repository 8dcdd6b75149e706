package engine_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine"
)

func TestLimits(t *testing.T) {
	w := newWorld(t)
	t.Run("memory", func(t *testing.T) {
		c := w.create(engine.Spec{Command: sh("head -c 200000000 /dev/zero | tail | wc -c"),
			Options:    limits(engine.Resources{Memory: 32 << 20}),
			Entrypoint: nil})
		// The shell survives its children; tail is the one killed.
		if _, err := w.e.Attach(t.Context(), c.ID, true, engine.Stdio{}); err != nil {
			t.Fatal(err)
		}
		if got := w.inspect(c.ID); !got.OOM {
			t.Errorf("no word of the memory: %+v", got)
		}
	})
	t.Run("memory of the first process", func(t *testing.T) {
		c := w.create(engine.Spec{Command: []string{"sort", "/dev/zero"},
			Options: limits(engine.Resources{Memory: 32 << 20})})
		st, err := w.e.Attach(t.Context(), c.ID, true, engine.Stdio{})
		if err != nil || st.Code != 137 || !st.OOM {
			t.Errorf("got %+v, %v", st, err)
		}
	})
	t.Run("processes", func(t *testing.T) {
		got := w.mustRun(engine.Spec{Command: sh("for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 10 & done 2>&1"),
			Options: limits(engine.Resources{PidsLimit: 8})}, "")
		if !strings.Contains(got.out, "can't fork") {
			t.Errorf("got %q, code %d", got.out, got.Code)
		}
	})
	t.Run("processors", func(t *testing.T) {
		c := w.start(engine.Spec{Command: []string{"sleep", "1000"},
			Options: limits(engine.Resources{NanoCPUs: 250_000_000})})
		var have []string
		for _, dir := range cgroupsOf(w.cgroup + "/" + c.ID) {
			for _, file := range []string{"cpu.cfs_quota_us", "cpu.max"} {
				if b, err := os.ReadFile(filepath.Join(dir, file)); err == nil {
					have = append(have, strings.TrimSpace(string(b)))
				}
			}
		}
		if len(have) != 1 || have[0] != "25000" && have[0] != "25000 100000" {
			t.Errorf("quota %q", have)
		}
	})
}

func TestMounts(t *testing.T) {
	w := newWorld(t)
	host := filepath.Join(w.dir, "host")
	missing := filepath.Join(w.dir, "not", "there")
	if err := os.MkdirAll(host, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Run("host directory", func(t *testing.T) {
		got := w.mustRun(engine.Spec{Command: sh("echo hello > /mnt/deep/file; cat /mnt/deep/file"), Remove: true,
			Mounts: []engine.Mount{{Source: host, Target: "/mnt/deep"}}}, "")
		if b, err := os.ReadFile(filepath.Join(host, "file")); got.out != "hello\n" || err != nil ||
			string(b) != "hello\n" {
			t.Errorf("%+v, %q, %v", got, b, err)
		}
	})
	t.Run("read-only", func(t *testing.T) {
		got := w.mustRun(engine.Spec{Command: sh("cat /m/file; touch /m/x 2>/dev/null || echo refused"), Remove: true,
			Mounts: []engine.Mount{{Source: host, Target: "/m", ReadOnly: true}}}, "")
		if got.out != "hello\nrefused\n" {
			t.Errorf("%+v", got)
		}
	})
	t.Run("missing source is made", func(t *testing.T) {
		got := w.mustRun(engine.Spec{Command: sh("touch /m/x"), Remove: true,
			Mounts: []engine.Mount{{Source: missing, Target: "/m"}}}, "")
		if _, err := os.Stat(filepath.Join(missing, "x")); err != nil || got.Code != 0 {
			t.Errorf("%+v, %v", got, err)
		}
	})
	t.Run("volume gets what the image has", func(t *testing.T) {
		spec := engine.Spec{Command: sh("cat /data/seed; echo changed > /data/seed"), Remove: true,
			Mounts: []engine.Mount{{Source: "keep", Target: "/data", Volume: true}}}
		if got := w.mustRun(spec, ""); got.out != "from the image\n" {
			t.Errorf("first: %+v", got)
		}
		if got := w.mustRun(spec, ""); got.out != "changed\n" {
			t.Errorf("second: %+v", got)
		}
	})
	t.Run("anonymous volume goes with --rm", func(t *testing.T) {
		w.images.config.Volumes = map[string]struct{}{"/data": {}, "/data/": {}, "//data": {}} // one
		defer func() { w.images.config.Volumes = nil }()
		got := w.mustRun(engine.Spec{Command: sh("cat /data/seed; grep -c ' /data ' /proc/mounts"), Remove: true}, "")
		if got.out != "from the image\n1\n" {
			t.Errorf("%+v", got)
		}
		w.restart() // waits for what is being removed
		all, err := w.vols.List(t.Context())
		if err != nil || len(all) != 1 || all[0].Name != "keep" {
			t.Errorf("volumes %+v, %v", all, err)
		}
	})
	t.Run("what a container wrote stays its own", func(t *testing.T) {
		c := w.create(engine.Spec{Command: sh("cat /mine 2>/dev/null; echo kept > /mine")})
		for range 2 {
			if _, err := w.e.Attach(t.Context(), c.ID, true, engine.Stdio{}); err != nil {
				t.Fatal(err)
			}
		}
		if got := w.logs(c.ID); got != "kept\n" {
			t.Errorf("log %q", got)
		}
		if _, err := os.Stat(filepath.Join(w.images.root, "mine")); err == nil {
			t.Error("it wrote into the image")
		}
	})
}

func TestUserNamespace(t *testing.T) {
	w := newWorld(t)
	host := filepath.Join(w.dir, "host")
	if err := os.MkdirAll(host, 0o755); err != nil {
		t.Fatal(err)
	}
	script := "id -u; cat /proc/self/uid_map | tr -s ' '; echo x > /file && echo wrote; stat -c %u:%g " +
		"/bin/busybox /file /v; echo y > /v/y && echo shared; cat /etc/hostname"
	got := w.mustRun(engine.Spec{Command: sh(script), UserNS: "auto", Hostname: "inside",
		Mounts: []engine.Mount{{Source: host, Target: "/v"}}}, "")
	want := "0\n 0 1073741824 65536\nwrote\n0:0\n0:0\n0:0\nshared\ninside\n"
	if got.out != want || got.Code != 0 {
		t.Errorf("got %q %q, code %d %s\nwant %q", got.out, got.err, got.Code, got.Error, want)
	}
	if info, err := os.Stat(filepath.Join(host, "y")); err != nil || fmt.Sprint(owner(info)) != "0" {
		t.Errorf("the shared file's owner on the host: %v, %v", info, err)
	}
	c := w.start(engine.Spec{Command: []string{"sleep", "1000"}, UserNS: "auto", Remove: true})
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.Pid))
	if err != nil || !strings.Contains(string(text), "Uid:\t10738") {
		t.Errorf("its root is somebody on the host: %s, %v", text, err)
	}
	if got := w.exec(c.ID, "id", "-u"); got.out != "0\n" {
		t.Errorf("exec: %+v", got)
	}
}

func TestMtab(t *testing.T) {
	w := newWorld(t)
	for name, s := range map[string]engine.Spec{
		"plain": {}, "read-only": {Options: engine.Options{ReadOnly: true}}, "user namespace": {UserNS: "auto"},
	} {
		s.Command = sh("readlink /etc/mtab; df -P / | tail -n 1 | grep -o '/$'; stat -c %u:%a /etc")
		if got := w.mustRun(s, ""); got.out != "/proc/mounts\n/\n0:755\n" || got.Code != 0 {
			t.Errorf("%s: %q %q, code %d %s", name, got.out, got.err, got.Code, got.Error)
		}
	}
}

func TestGeneratedFiles(t *testing.T) {
	w := newWorld(t)
	c := w.start(engine.Spec{Command: []string{"sleep", "1000"}, Hostname: "loom",
		ExtraHosts: []string{"db:10.9.8.7", "six:[fd00::7]"},
		DNS:        []netip.Addr{netip.MustParseAddr("10.0.0.53")}})
	cat := func(file string) string { return w.exec(c.ID, "cat", "/etc/"+file).out }
	if got := cat("resolv.conf"); !strings.HasPrefix(got, "nameserver 127.0.0.11\n") ||
		strings.Count(got, "nameserver") != 1 {
		t.Errorf("resolv.conf: %q", got)
	}
	if got := cat("hosts"); !strings.Contains(got, "10.9.8.7\tdb\nfd00::7\tsix\n") ||
		!strings.Contains(got, "127.0.0.1\tlocalhost") {
		t.Errorf("hosts: %q", got)
	}
	changed := func(addr string) string {
		t.Helper()
		if err := w.e.NetworksChanged(t.Context(), c.Sandbox,
			[]cnm.Endpoint{{Addrs: []netip.Prefix{netip.MustParsePrefix(addr)}}}); err != nil {
			t.Fatal(err)
		}
		return cat("hosts")
	}
	if got := changed("10.1.2.3/24"); !strings.Contains(got, "10.1.2.3\tloom\n") {
		t.Errorf("after a connect: %q", got)
	}
	if got := changed("10.1.2.4/24"); !strings.Contains(got, "10.1.2.4\tloom\n") || strings.Contains(got, "10.1.2.3") {
		t.Errorf("after another: %q", got)
	}
	w.exec(c.ID, "sh", "-c", "echo 1.1.1.1 mine >> /etc/hosts")
	if got := changed("10.1.2.5/24"); !strings.Contains(got, "mine") || strings.Contains(got, "10.1.2.5") {
		t.Errorf("an edited file was written over: %q", got)
	}
}

// Containers ask the resolver of their sandbox, whatever the host's servers are. That there is none is said when one is
// made.
func TestNameServers(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	main, upstream := filepath.Join(dir, "resolv.conf"), filepath.Join(dir, "upstream")
	w.resolv = []string{main, upstream}
	w.restart()
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	const (
		ours = "nameserver 127.0.0.11\n"
		stub = "nameserver 127.0.0.53\nnameserver nonsense\ndomain old\nsearch example.org lab\noptions ndots:3 edns0\n"
		kept = ours + "search example.org lab\noptions edns0 ndots:0\n"
	)
	given := engine.Spec{DNS: []netip.Addr{netip.MustParseAddr("10.0.0.53")}}
	own := engine.Spec{DNSSearch: []string{"mine"}, DNSOptions: []string{"ndots:2"}}
	for name, c := range map[string]struct {
		main, upstream, network string
		spec                    engine.Spec
		warned                  bool
		want                    string
	}{
		"on loopback": {stub, "", "front", engine.Spec{}, false, kept},
		"none at all": {"", "", "front", engine.Spec{}, true, ours + "options ndots:0\n"},
		"in the second file": {"", "nameserver fd00::53\nsearch up\n", "front", engine.Spec{}, false,
			ours + "search up\noptions ndots:0\n"},
		"given":          {"", "", "front", given, false, ours + "options ndots:0\n"},
		"its own search": {stub, "", "front", own, false, ours + "search mine\noptions edns0 ndots:2\n"},
		"no search": {stub, "", "front", engine.Spec{DNSSearch: []string{"."}}, false,
			ours + "options edns0 ndots:0\n"},
		"no network": {stub, "", "none", engine.Spec{}, false, kept},
		"the host's": {stub, "", "host", engine.Spec{}, false, stub},
		"the host's, but one's own": {stub, "", "host", given, false,
			"nameserver 10.0.0.53\nsearch example.org lab\noptions ndots:3 edns0\n"},
	} {
		write(main, c.main)
		write(upstream, c.upstream)
		spec := c.spec
		spec.Image, spec.Command = "busybox", []string{"sleep", "1000"}
		spec.Networks = []cnm.AttachRequest{{Network: c.network}}
		made, warnings, err := w.e.Create(t.Context(), spec)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(strings.Join(warnings, "\n"), "no name server: "+main); got != c.warned ||
			len(warnings) > 1 {
			t.Errorf("%s: warnings %q", name, warnings)
		}
		if err := w.e.Start(t.Context(), made.ID); err != nil {
			t.Fatal(err)
		}
		if got := w.exec(made.ID, "cat", "/etc/resolv.conf").out; got != c.want {
			t.Errorf("%s: resolv.conf %q, want %q", name, got, c.want)
		}
		if _, err := w.e.Remove(t.Context(), made.ID, true, false); err != nil {
			t.Error(err)
		}
	}
}

// Nothing waits for what the host has in the place of a file with its servers.
func TestNameServersThatAreNoFile(t *testing.T) {
	w := newWorld(t)
	pipe := filepath.Join(t.TempDir(), "resolv.conf")
	if err := unix.Mkfifo(pipe, 0o644); err != nil {
		t.Fatal(err)
	}
	loop := filepath.Join(t.TempDir(), "loop")
	if err := os.Symlink(loop, loop); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, path := range []string{pipe, t.TempDir(), loop, socket, filepath.Join(socket, "below")} {
		w.resolv = []string{path}
		w.restart()
		c := w.start(engine.Spec{Command: []string{"sleep", "1000"}})
		if got := w.exec(c.ID, "cat", "/etc/resolv.conf").out; got != "nameserver 127.0.0.11\noptions ndots:0\n" {
			t.Errorf("with %s: %q", path, got)
		}
	}
}

func TestRefusals(t *testing.T) {
	w := newWorld(t)
	port := []cnm.PortMapping{{HostPort: 80, Port: 80, Count: 1}}
	none := []cnm.AttachRequest{{Network: "none"}}
	w.create(engine.Spec{Name: "there"})
	tests := []struct {
		name string
		spec engine.Spec
		kind error
		part string
	}{
		{"name", engine.Spec{Name: "no/good"}, cnm.ErrInvalid, "no/good"},
		{"image", engine.Spec{Image: "nonesuch"}, cnm.ErrNotFound, "net import"},
		{"memory", engine.Spec{Options: limits(engine.Resources{Memory: 1000})}, cnm.ErrInvalid, "6m"},
		{"cpus", engine.Spec{Options: limits(engine.Resources{NanoCPUs: 1})}, cnm.ErrInvalid, "0.01"},
		{"runtime", engine.Spec{Runtime: "crun"}, errors.ErrUnsupported, "its own runtime"},
		{"pids", engine.Spec{Options: limits(engine.Resources{PidsLimit: -7})}, cnm.ErrInvalid, "-7"},
		{"capability", engine.Spec{CapAdd: []string{"FLY"}}, cnm.ErrInvalid, "FLY"},
		{"signal", engine.Spec{StopSignal: "HELLO"}, cnm.ErrInvalid, "HELLO"},
		{"environment", engine.Spec{Env: []string{"=x"}}, cnm.ErrInvalid, "NAME=value"},
		{"work directory", engine.Spec{WorkDir: "here"}, cnm.ErrInvalid, "here"},
		{"user namespace", engine.Spec{UserNS: "mine"}, cnm.ErrInvalid, "auto"},
		{"extra host", engine.Spec{ExtraHosts: []string{"a:b"}}, cnm.ErrInvalid, "NAME:ADDRESS"},
		{"port with none", engine.Spec{Networks: none, Ports: port}, cnm.ErrInvalid, "bridge"},
		{"port with host", engine.Spec{Networks: []cnm.AttachRequest{{Network: "host"}}, Ports: port},
			cnm.ErrInvalid, "leave the ports out"},
		{"hostname with container", engine.Spec{Networks: []cnm.AttachRequest{{Network: "container:there"}},
			Hostname: "x"}, cnm.ErrInvalid, "leave it out"},
		{"name server with container", engine.Spec{Networks: []cnm.AttachRequest{{Network: "container:there"}},
			DNS: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}, cnm.ErrInvalid, "set it there"},
		{"host with container", engine.Spec{Networks: []cnm.AttachRequest{{Network: "container:there"}},
			ExtraHosts: []string{"a:192.0.2.1"}}, cnm.ErrInvalid, "set it there"},
		{"port with container", engine.Spec{Networks: []cnm.AttachRequest{{Network: "container:there"}},
			Ports: port}, cnm.ErrInvalid, "publish them there"},
		{"two modes", engine.Spec{Networks: append(none, cnm.AttachRequest{Network: "host"})}, cnm.ErrInvalid,
			"combined"},
		{"relative mount", engine.Spec{Mounts: []engine.Mount{{Source: "x/y", Target: "/z"}}}, cnm.ErrInvalid, "x/y"},
		{"mount on root", engine.Spec{Mounts: []engine.Mount{{Source: "/tmp", Target: "/"}}}, cnm.ErrInvalid,
			"below /"},
		{"one target twice", engine.Spec{Mounts: []engine.Mount{{Source: "/tmp", Target: "/z"},
			{Source: "/opt", Target: "/z/"}}}, cnm.ErrInvalid, "two mounts"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.spec.Image == "" {
				tt.spec.Image = "busybox"
			}
			_, _, err := w.e.Create(t.Context(), tt.spec)
			if !errors.Is(err, tt.kind) || !strings.Contains(err.Error(), tt.part) {
				t.Errorf("got %v, want %v with %q", err, tt.kind, tt.part)
			}
		})
	}
	if _, err := w.e.Inspect(t.Context(), "nobody"); !errors.Is(err, cnm.ErrNotFound) {
		t.Errorf("inspect: %v", err)
	}
	if err := w.e.Kill(t.Context(), "there", "TERM"); !errors.Is(err, engine.ErrNotRunning) {
		t.Errorf("kill: %v", err)
	}
	if got := w.inspect("there"); got.Status != engine.Created {
		t.Errorf("%+v", got)
	}
}

func TestImageThatGoesMeanwhile(t *testing.T) {
	w := newWorld(t)
	w.images.gone = true
	_, _, err := w.e.Create(t.Context(), engine.Spec{Name: "late", Image: "busybox",
		Networks: []cnm.AttachRequest{{Network: "none"}}})
	if !errors.Is(err, cnm.ErrNotFound) {
		t.Errorf("create: %v, want that there is no such image", err)
	}
	if users := w.e.ImageUsers("sha256:b"); len(users) > 0 {
		t.Errorf("%v are left", users)
	}
	w.images.gone = false
	w.create(engine.Spec{Name: "late"})
}

func TestUnknownUserIsAClearError(t *testing.T) {
	w := newWorld(t)
	_, err := w.run(engine.Spec{Command: []string{"true"}, User: "nobody-here", Remove: true}, "")
	if !errors.Is(err, cnm.ErrInvalid) || !strings.Contains(err.Error(), "nobody-here") {
		t.Errorf("got %v", err)
	}
}

func TestHostNetwork(t *testing.T) {
	w := newWorld(t)
	got := w.mustRun(engine.Spec{Command: []string{"readlink", "/proc/self/ns/net"},
		Networks: []cnm.AttachRequest{{Network: "host"}}, Remove: true}, "")
	own, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil || strings.TrimSpace(got.out) != own {
		t.Errorf("got %q, want %s, %v", got.out, own, err)
	}
}

func owner(info os.FileInfo) uint32 { return info.Sys().(*syscall.Stat_t).Uid }

func limits(r engine.Resources) engine.Options { return engine.Options{Resources: r} }

package migration

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/engine/shim/shimtest"
	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/internal/kern/kerntest"
)

const guide = "../../../docs/migration.md"

// In a mount namespace of the test's own the daemons can have the paths that a host gives them.
func TestMain(m *testing.M) {
	kerntest.MountMain(m, func(m *testing.M) {
		code := 1
		if err := private(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		} else {
			code = m.Run()
		}
		os.Exit(code)
	})
}

func private() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep mounts from the machine: %w", err)
	}
	for _, dir := range []string{"/run", "/opt", "/etc/cni", "/var/lib", "/srv"} {
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=755"); err != nil {
			return fmt.Errorf("mount %s: %w", dir, err)
		}
	}
	return nil
}

// block is what the guide has between fences.
type block struct {
	line int
	text string
	want []string // what its output has
}

// sections are the blocks below each heading of the second level.
func sections(t *testing.T) map[string][]block {
	t.Helper()
	text, err := os.ReadFile(guide)
	if err != nil {
		t.Fatal(err)
	}
	out, heading, kind, indent := map[string][]block{}, "", "", ""
	for i, line := range strings.Split(string(text), "\n") {
		fence, found := strings.CutPrefix(strings.TrimLeft(line, " "), "```")
		switch all := out[heading]; {
		case kind == "" && strings.HasPrefix(line, "## "):
			heading = line[3:]
		case found && kind == "":
			kind, indent = fence, line[:strings.Index(line, "```")]
			if kind == "sh" {
				out[heading] = append(all, block{line: i + 2})
			}
		case found:
			kind = ""
		case kind == "sh":
			all[len(all)-1].text += strings.TrimPrefix(line, indent) + "\n"
		case kind == "text":
			all[len(all)-1].want = append(all[len(all)-1].want, strings.TrimPrefix(line, indent))
		}
	}
	return out
}

// host has netd, dockerd and the reference plugins, as an operator's has.
type host struct {
	*kerntest.Env
	t   *testing.T
	bin string
}

func newHost(t *testing.T) *host {
	t.Helper()
	bin := programs(t)
	tools := t.TempDir()
	if out, err := exec.Command("go", "build", "-o", tools,
		"github.com/containernetworking/cni/cnitool").CombinedOutput(); err != nil {
		t.Fatalf("build cnitool: %v\n%s", err, out)
	}
	root := shimtest.Rootfs(t)
	h := &host{Env: kerntest.New(t), t: t, bin: bin + ":" + tools}
	h.Sh("mkdir -p /opt/cni/bin /etc/cni/net.d /run/docker/plugins " + root + "/www && cp /usr/lib/cni/* " + bin +
		"/vethloom-cni /opt/cni/bin && echo hello >" + root + "/www/index.html && tar -C " + root +
		" -cf /run/rootfs.tar . && cp " + root + "/www/index.html /srv && " +
		// Docker asks for the registry of an image that it has.
		"echo nameserver 127.0.0.1 >/run/resolv.conf && mount --bind /run/resolv.conf $(readlink -f /etc/resolv.conf)")
	h.Sh("ip link add up0 type veth peer name up1 && ip link set up1 up && ip addr add 192.0.2.1/24 dev up0 && " +
		"ip link set up0 up && ip route add default via 192.0.2.254")
	t.Cleanup(func() {
		h.Sh("for l in $(ip -o link | sed -n 's/^[0-9]*: \\([^:@]*\\)[:@].*/\\1/p' | grep -v '^lo$'); do " +
			"ip link del $l 2>/dev/null || true; done; find /sys/fs/cgroup -depth -type d -path '*" + h.cgroup() +
			"*' -exec rmdir {} + 2>/dev/null || true")
	})
	h.daemon("netd", "--log-level", "warn")
	h.daemon("dockerd", "--cgroup-parent", "/"+h.cgroup(), "--log-level", "warn")
	t.Cleanup(h.leave)
	h.eventually("the daemons answer", "docker version && net node ls | grep ready")
	h.sh("docker import -c 'ENV PATH=/bin' /run/rootfs.tar busybox")
	return h
}

// programs is the folder of vethloom's programs.
func programs(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("VETHLOOM_BIN")
	if dir == "" {
		dir = t.TempDir()
		args := []string{"build", "-tags", "seccomp runc_nocriu", "-o", dir}
		for _, name := range []string{"net", "netd", "net-shim", "net-copy", "net-resolver", "net-relay",
			"vethloom-cni"} {
			args = append(args, "github.com/vethloom/vethloom/cmd/"+name)
		}
		if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
			t.Fatalf("build the programs: %v\n%s", err, out)
		}
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// leave removes what the guide has made, and finds what is not as recorded.
func (h *host) leave() {
	h.sh("docker swarm leave --force || true; docker ps -aq | xargs -r docker rm -f; " +
		"net ps -aq | xargs -r net rm -f; ip netns pids pod1 | xargs -r kill; ip netns del pod1; " +
		"docker network prune -f; net network prune -f")
	if out, err := h.try("net diff"); err != nil || out != "" {
		h.t.Errorf("not as recorded: %v\n%s", err, out)
	}
	if out := h.sh("net endpoint ls -q"); out != "" {
		h.t.Errorf("endpoints are left: %s", out)
	}
}

func (h *host) cgroup() string { return fmt.Sprintf("docker-migration-%d", os.Getpid()) }

// daemon starts a daemon, and ends it with the test.
func (h *host) daemon(name string, args ...string) {
	h.t.Helper()
	log, err := os.Create("/run/" + name + ".log")
	if err != nil {
		h.t.Fatal(err)
	}
	path, err := exec.LookPath(name)
	if name == "netd" {
		path, err = filepath.Join(strings.Split(h.bin, ":")[0], name), nil
	}
	if err != nil {
		h.t.Fatal(err)
	}
	cmd := exec.Command(path, args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = h.env(), log, log
	if err := h.Do("", cmd.Start); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		_ = cmd.Wait()
		log.Close()
		if text, err := os.ReadFile(log.Name()); h.t.Failed() {
			h.t.Logf("log of %s: %v\n%s", name, err, text)
		}
	})
}

func (h *host) env() []string { return append(os.Environ(), "PATH="+h.bin+":"+os.Getenv("PATH")) }

// try runs a script.
func (h *host) try(script string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), await.Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", script)
	cmd.Env = h.env()
	var out []byte
	err := h.Do("", func() (err error) { out, err = cmd.CombinedOutput(); return err })
	return string(out), err
}

func (h *host) sh(script string) string {
	h.t.Helper()
	out, err := h.try(script)
	if err != nil {
		h.t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return out
}

func (h *host) eventually(what, script string) {
	h.t.Helper()
	await.True(h.t, what, func() bool { _, err := h.try(script); return err == nil })
}

// looking are the commands that change nothing: what they show may take a moment.
var looking = regexp.MustCompile(
	`^(curl|ls|docker exec|docker( network| service)? inspect|net endpoint ls|net run --rm) `)

// looks reports whether a block can be run again.
func (b block) looks() bool {
	for line := range strings.Lines(b.text) {
		if !looking.MatchString(line) {
			return false
		}
	}
	return true
}

// lacks is what the output of a block should have and has not.
func (b block) lacks(out string) string {
	for _, w := range b.want {
		if !strings.Contains(out, w) {
			return w
		}
	}
	return ""
}

// Everything that the guide says is done in its order, and what it shows comes true.
func TestGuide(t *testing.T) {
	all := sections(t)
	h := newHost(t)
	for _, heading := range []string{"From Docker's bridge networks", "From docker0",
		"From the CNI plugins bridge, host-local and portmap", "From a Swarm's overlay", "From Weave"} {
		blocks := all[heading]
		if len(blocks) < 4 {
			t.Fatalf("%s: %d blocks", heading, len(blocks))
		}
		delete(all, heading)
		for _, b := range blocks {
			var out string
			var err error
			once := func() bool { out, err = h.try(b.text); return err == nil && b.lacks(out) == "" }
			if ok := once() || b.looks() && await.Holds(once); !ok {
				t.Fatalf("migration.md:%d: %v, without %q:\n%s%s", b.line, err, b.lacks(out), b.text, out)
			}
		}
		if heading == "From a Swarm's overlay" { // what comes next is another host's
			h.sh("docker swarm leave --force")
		}
	}
	for heading, blocks := range all {
		if len(blocks) > 0 {
			t.Errorf("%s: its blocks are not run", heading)
		}
	}
}

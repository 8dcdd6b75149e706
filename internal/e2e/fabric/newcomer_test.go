package fabric_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/internal/lab/labtest"
)

// newcomer is a host as the guide means it: with the usual paths, and a network to another one.
type newcomer struct {
	t    *testing.T
	pid  int
	path string
}

// hosts makes two of them. All they run ends with the test.
func hosts(t *testing.T) map[string]*newcomer {
	t.Helper()
	all := map[string]*newcomer{}
	for i, name := range []string{"n1", "n2"} {
		dir := t.TempDir()
		cmd := exec.Command("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh",
			"-ec",
			`
			mount --make-rprivate /
			for d in /run /var/lib /etc/docker; do mkdir -p "$d" && mount -t tmpfs tmpfs "$d"; done
			mkdir -p /run/docker
			ip link set lo up
			echo $$
			exec cat`)
		cmd.Dir = dir
		cmd.Stderr = os.Stderr
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			in.Close()
			_ = cmd.Wait()
		})
		if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", cmd.Process.Pid))
		h := &newcomer{t: t, path: labtest.Bin(t)}
		if _, e := fmt.Sscan(string(children), &h.pid); err != nil || e != nil {
			t.Fatalf("%v %v", err, e)
		}
		all[name] = h
		if i == 0 {
			continue
		}
		link, err := exec.Command("ip", "link", "add", "eth0", "netns", fmt.Sprint(all["n1"].pid), "type", "veth",
			"peer", "name", "eth0", "netns", fmt.Sprint(h.pid)).CombinedOutput()
		if err != nil {
			t.Fatalf("a link between the hosts: %v: %s", err, link)
		}
		for host, addr := range map[string]string{"n1": "192.0.2.1", "n2": "192.0.2.2"} {
			all[host].run("ip link set eth0 up && ip addr add " + addr + "/24 dev eth0 && " +
				"ip route add default via 192.0.2.254")
		}
	}
	return all
}

// command runs a script on the host.
func (h *newcomer) command(script string) *exec.Cmd {
	cmd := exec.CommandContext(h.t.Context(), "nsenter", "--target", fmt.Sprint(h.pid), "--net", "--mount", "--pid",
		"sh", "-c", script)
	cmd.Env = append(os.Environ(), "PATH="+h.path+":"+os.Getenv("PATH"), "VETHLOOM_HOST=")
	cmd.Dir = "/tmp"
	return cmd
}

func (h *newcomer) run(script string) string {
	h.t.Helper()
	out, err := h.command(script).CombinedOutput()
	if err != nil {
		h.t.Fatalf("%s: %v: %s", script, err, out)
	}
	return string(out)
}

// begin runs what goes on.
func (h *newcomer) begin(name, script string) {
	h.t.Helper()
	log, err := os.Create(filepath.Join(h.t.TempDir(), "log"))
	if err != nil {
		h.t.Fatal(err)
	}
	cmd := h.command("exec " + strings.TrimSuffix(script, "&"))
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if h.t.Failed() {
			text, _ := os.ReadFile(log.Name())
			h.t.Logf("%s: %s\n%s", name, script, text)
		}
		log.Close()
	})
}

// The commands of docs/engines.md that lead from Docker on two hosts to one network, as they are there.
func TestFromDockerOnTwoHosts(t *testing.T) {
	text, err := os.ReadFile("../../../docs/engines.md")
	if err != nil {
		t.Fatal(err)
	}
	_, block, _ := strings.Cut(string(text), "```console\nn1# etcd")
	block, _, found := strings.Cut("n1# etcd"+block, "```")
	if !found {
		t.Fatal("docs/engines.md has no such commands")
	}
	all := hosts(t)
	image := filepath.Join(t.TempDir(), "bb.tar")
	all["n1"].run("mkdir -p /run/bb/bin && cp $(command -v busybox) /run/bb/bin/ && for a in ping sleep; do " +
		"ln -s busybox /run/bb/bin/$a; done && tar -C /run/bb -cf " + image + " .")
	group := labtest.Name()
	t.Cleanup(func() { // those of processes that end with their host, in their own time
		await.True(t, "the containers' cgroups are gone", func() bool {
			left, err := exec.Command("find", "/sys/fs/cgroup", "-depth", "-path", "*/"+group+"*", "-type", "d",
				"-print", "-exec", "rmdir", "{}", ";").Output()
			return err == nil && len(left) == 0
		})
	})
	for name, h := range all {
		h.begin(name, "dockerd --bridge none --cgroup-parent /"+group+" --log-level warn")
		await.True(t, "dockerd answers", func() bool { return h.command("docker version").Run() == nil })
		h.run("docker import -c 'ENV PATH=/bin' " + image + " bb")
	}
	line := regexp.MustCompile(`^(n[12])# (.*)$`)
	for l := range strings.Lines(block) {
		m := line.FindStringSubmatch(strings.TrimSpace(l))
		switch {
		case m == nil: // what was answered
		case strings.HasSuffix(m[2], "&"):
			all[m[1]].begin(m[1], m[2])
		default:
			h := all[m[1]]
			if strings.HasPrefix(m[2], "net ") { // it was typed when netd had started
				await.True(t, "netd answers", func() bool {
					return h.command("net node ls | grep -q 192.0.2.2").Run() == nil
				})
			} else {
				await.True(t, "Docker has the network", func() bool {
					return h.command("docker network ls | grep -q ' web '").Run() == nil
				})
			}
			out := h.run(m[2])
			t.Logf("%s\n%s", m[0], out)
			if strings.Contains(m[2], "ping") && !strings.Contains(out, "64 bytes from 10.9.") {
				t.Errorf("%s: %s", m[2], out)
			}
		}
	}
	all["n1"].run("docker rm -f shop && net network rm web")
}

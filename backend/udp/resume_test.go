package udp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/internal/descriptor"
	"github.com/vethloom/vethloom/internal/handover"
	"github.com/vethloom/vethloom/internal/numbered"
	"github.com/vethloom/vethloom/plan"
)

// holder runs this test binary as the process that holds open files.
func holder(path string) *exec.Cmd {
	exe, err := os.Executable()
	if err != nil {
		panic(err)
	}
	cmd := exec.Command(exe, path)
	cmd.Env = []string{childEnv + "=hold"}
	return cmd
}

func beHolder(path string) error {
	conn, err := net.FileConn(os.NewFile(handover.ControlFD, "netd"))
	if err != nil {
		return err
	}
	return handover.Run(context.Background(), conn.(*net.UnixConn), path, handover.Patience)
}

// child is a netd in a process of its own.
type child struct {
	tb    testing.TB
	cmd   *exec.Cmd
	stdin io.Closer
	said  string
}

// netd starts a netd of a side's, with a socket for the next one at a path, and waits until it has said a word.
func (s *side) netd(word, path string, other *side) *child {
	s.tb.Helper()
	exe, err := os.Executable()
	if err != nil {
		s.tb.Fatal(err)
	}
	c := &child{tb: s.tb, cmd: exec.Command(exe)}
	c.cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s %s %s %s %t", childEnv, path, s.outer, s.net4, other.net4,
		other.outer, s.tunnel.Plain))
	if c.stdin, err = c.cmd.StdinPipe(); err != nil {
		s.tb.Fatal(err)
	}
	c.cmd.Stderr = os.Stderr
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		s.tb.Fatal(err)
	}
	if err := s.start(c.cmd); err != nil {
		s.tb.Fatal(err)
	}
	s.tb.Cleanup(c.kill)
	line, _ := bufio.NewReader(stdout).ReadString('\n')
	if c.said = strings.TrimSpace(line); c.said != word {
		s.tb.Fatalf("the other process said %q, want %q", c.said, word)
	}
	return c
}

func (c *child) kill() {
	if c.cmd.ProcessState == nil {
		_ = c.cmd.Process.Kill()
		_ = c.cmd.Wait()
	}
}

// stop ends it in order.
func (c *child) stop() {
	c.tb.Helper()
	c.stdin.Close()
	if err := c.cmd.Wait(); err != nil {
		c.tb.Errorf("the other process ended with %v", err)
	}
}

// newStream sends numbered packets from one box to another.
func newStream(from, to *side) *numbered.Stream {
	from.tb.Helper()
	l := to.box.packetConn(netip.AddrPortFrom(to.inner4, 0))
	return numbered.New(from.tb, from.box.dial("udp", l.LocalAddr().String()), l)
}

// TestNothingIsLost kills, stops and replaces a netd eight times under streams both ways. What is in netd's own hands
// when it is killed is lost, so then nothing is under way; what comes while there is no netd waits for the next one.
func TestNothingIsLost(t *testing.T) {
	for name, cfg := range map[string]labConfig{
		"IPv4": {}, "IPv6": {outer6: true}, "plain": {plain: [2]bool{true, true}},
	} {
		t.Run(name, func(t *testing.T) {
			lab := newLab(t, cfg)
			a, b := lab[0], lab[1]
			a.host.Shutdown()
			path := filepath.Join(t.TempDir(), "sock")
			netd := a.netd("opened", path, b)
			reaches(t, a, b)
			out, in := newStream(a, b), newStream(b, a)
			for round := range 8 {
				out.More(20)
				if round%2 == 0 {
					out.Pause()
					in.Pause()
					netd.kill()
					out.Go()
					in.Go()
				} else {
					netd.stop()
				}
				out.More(50)
				in.More(50)
				netd = a.netd("resumed", path, b)
			}
			out.End()
			in.End()
			a.nothingLeft(netd, path)
		})
	}
}

// nothingLeft has the link deleted under a netd: it gives everything up, and so does the holder.
func (s *side) nothingLeft(netd *child, path string) {
	s.tb.Helper()
	s.ip("link del " + testLink)
	await.True(s.tb, "the holder ends, as it has nothing", func() bool {
		_, err := os.Lstat(path)
		return os.IsNotExist(err)
	})
	if out := s.run("ss", "-Hlnu"); out != "" {
		s.tb.Errorf("sockets are left:\n%s", out)
	}
	netd.stop()
}

// TestLinkDeletedMeanwhile deletes the link while there is no netd: the next one gives up what is left of it.
func TestLinkDeletedMeanwhile(t *testing.T) {
	lab := newLab(t, labConfig{})
	a, b := lab[0], lab[1]
	a.host.Shutdown()
	path := filepath.Join(t.TempDir(), "sock")
	a.netd("opened", path, b).kill()
	if out := a.run("ss", "-Hlnu"); !strings.Contains(out, "192.0.2.1:8285") {
		t.Errorf("nobody holds the socket:\n%s", out)
	}
	a.ip("link del " + testLink)
	a.makeTUN(labConfig{mtu: 1500})
	a.netd("opened", path, b)
	reaches(t, a, b)
}

// TestStoppedHolder has the holder hang: the next netd ends it, and opens a tunnel anew.
func TestStoppedHolder(t *testing.T) {
	lab := newLab(t, labConfig{})
	a, b := lab[0], lab[1]
	a.host.Shutdown()
	path := filepath.Join(t.TempDir(), "sock")
	netd := a.netd("opened", path, b)
	pid := a.holders(path)
	if len(pid) != 1 {
		t.Fatalf("holders: %v", pid)
	}
	if err := unix.Kill(pid[0], unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	await.True(t, "it has stopped", func() bool {
		all, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid[0]))
		return err == nil && !slices.ContainsFunc(all, func(file string) bool {
			text, err := os.ReadFile(file)
			return err != nil || !strings.Contains(string(text), ") T ")
		})
	})
	netd.kill()
	next := a.netd("opened", path, b)
	reaches(t, a, b)
	if now := a.holders(path); len(now) != 1 || now[0] == pid[0] {
		t.Errorf("holders %v, was %v", now, pid)
	}
	a.nothingLeft(next, path)
}

// TestKilledHolder has another holder go on.
func TestKilledHolder(t *testing.T) {
	lab := newLab(t, labConfig{})
	a, b := lab[0], lab[1]
	a.host.Shutdown()
	path := filepath.Join(t.TempDir(), "sock")
	netd := a.netd("opened", path, b)
	s := newStream(a, b)
	was := a.holders(path)[0]
	if err := unix.Kill(was, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	await.True(t, "there is another holder", func() bool {
		now := a.holders(path)
		return len(now) == 1 && now[0] != was
	})
	await.True(t, "it has the socket", func() bool {
		return strings.Count(a.run("ss", "-Hlnup"), "fd=") == 3 // netd's two, and the holder's
	})
	netd.stop()
	s.More(50)
	next := a.netd("resumed", path, b)
	s.End()
	a.nothingLeft(next, path)
}

// holders are the processes that hold files with a socket at a path.
func (s *side) holders(path string) (pids []int) {
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		s.tb.Fatal(err)
	}
	for _, file := range all {
		text, _ := os.ReadFile(file)
		var pid int
		if _, err := fmt.Sscanf(file, "/proc/%d/", &pid); err == nil && strings.HasSuffix(string(text), path+"\x00") {
			pids = append(pids, pid)
		}
	}
	return pids
}

// TestResumeRefuses is given items that are not what they are noted as.
func TestResumeRefuses(t *testing.T) {
	lab := newLab(t, labConfig{})
	a := lab[0]
	inner := a.host.links[testLink].tunnel
	good := note{Tunnel: a.tunnel, Remotes: map[netip.Prefix]netip.Addr{lab[1].net4: lab[1].outer}}
	for name, change := range map[string]func(*note){
		"another port":    func(n *note) { n.Tunnel.Port++ },
		"another address": func(n *note) { n.Tunnel.Local = lab[1].outer },
		"another link":    func(n *note) { n.Tunnel.Link = "vlt-other" },
		"no offloads":     func(n *note) { n.Tunnel.Plain = true },
		"no tunnel":       func(n *note) { n.Tunnel = plan.Tunnel{} },
		"a bad remote": func(n *note) {
			n.Remotes = map[netip.Prefix]netip.Addr{netip.MustParsePrefix("10.9.2.1/24"): lab[1].outer}
		},
		"elsewhere": func(*note) {},
	} {
		n := good
		change(&n)
		in := a.space
		if name == "elsewhere" {
			in = a.box
		}
		k := &one{tunnel: inner, note: n}
		h := New(Config{Keeper: k})
		before := openFiles(t)
		in.do(h.Resume)
		if k.err == nil {
			t.Errorf("%s: taken over", name)
		}
		if tunnels, remotes := h.List(); len(tunnels)+len(remotes) > 0 {
			t.Errorf("%s: has %v %v", name, tunnels, remotes)
		}
		h.Shutdown()
		if after := openFiles(t); after != before {
			t.Errorf("%s: %d files are open, %d were", name, after, before)
		}
	}
	reaches(t, a, lab[1])
}

// one has what a tunnel has open, and a note that somebody wrote.
type one struct {
	nobody
	tunnel *tunnel
	note   note
	err    error
}

func (k *one) Resume(use func(handover.Item) error) {
	text, err := json.Marshal(k.note)
	dev, sock, e := k.tunnel.duplicate()
	if k.err = errors.Join(err, e); k.err == nil {
		k.err = use(handover.Item{Key: k.note.Tunnel.Link, Note: text, Files: []descriptor.Descriptor{dev, sock}})
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

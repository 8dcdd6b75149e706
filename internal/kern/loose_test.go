package kern_test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/internal/kern/kerntest"
	"github.com/vethloom/vethloom/plan"
)

// handed is a pair on the bridge whose other end somebody takes away.
func handed() plan.State {
	s := plan.State{Links: endpoint().Links}
	s.Links[0].Peer = plan.VethPeer{Name: "vlp-1", MAC: plan.MAC{2, 0x42, 10, 1, 0, 2}, Loose: true}
	return plan.Union(network(), s)
}

// The other end of a handed pair is made once, and whoever takes it may do with it as they like.
func TestLooseEnds(t *testing.T) {
	env := kerntest.New(t)
	k := open(t, env)
	want := handed()
	converge(t, k, want)
	settled(t, k, want)
	if out := env.Run("ip", "-d", "link", "show", "vlp-1"); !strings.Contains(out, "02:42:0a:01:00:02") {
		t.Errorf("the end to be taken: %s", out)
	}
	box := newBox(t, env)
	box.take("vlp-1")
	settled(t, k, want)
	box.run("ip", "link", "set", "eth0", "down")
	box.run("ip", "link", "set", "eth0", "name", "vlp-1")
	box.run("ip", "link", "set", "vlp-1", "netns", fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), env.NetNS()))
	settled(t, k, want) // brought back, as Docker does it
	box.take("vlp-1")

	env.Run("ip", "link", "set", "vle-1", "nomaster")
	if ops := converge(t, k, want); len(ops) == 0 || ops[0].Verb != plan.Modify {
		t.Errorf("repairing the host's end took\n%s", lines(ops))
	}
	box.run("ip", "link", "show", "eth0")
	env.Run("ip", "link", "del", "vle-1")
	converge(t, k, want)
	settled(t, k, want)
	box.take("vlp-1")
	box.end()
	if !await.Holds(func() bool { return len(plan.Diff(want, observe(t, k, want.Sysctls))) > 0 }) {
		t.Fatal("the pair outlives the namespace of an end")
	}
	converge(t, k, want)
	settled(t, k, want)

	box = newBox(t, env)
	box.take("vlp-1")
	converge(t, k, plan.State{})
	if out := box.run("ip", "-o", "link"); strings.Contains(out, "eth0") {
		t.Errorf("left behind: %s", out)
	}
}

// box is a network namespace that somebody else holds.
type box struct {
	t   *testing.T
	env *kerntest.Env
	cmd *exec.Cmd
}

func newBox(t *testing.T, env *kerntest.Env) *box {
	b := &box{t: t, env: env, cmd: exec.Command("unshare", "-n", "sh", "-c", "echo; exec sleep 1000")}
	out, err := b.cmd.StdoutPipe()
	if err == nil {
		err = b.cmd.Start()
	}
	if err == nil {
		_, err = out.Read(make([]byte, 1))
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.end)
	return b
}

// end lets the namespace go.
func (b *box) end() {
	_ = b.cmd.Process.Kill()
	_ = b.cmd.Wait()
}

// take moves a link into the box, and makes it the box's own in every way.
func (b *box) take(link string) {
	b.t.Helper()
	b.env.Run("ip", "link", "set", link, "netns", fmt.Sprint(b.cmd.Process.Pid))
	b.run("ip", "link", "set", link, "name", "eth0", "address", "02:00:00:00:00:99")
	b.run("ip", "link", "set", "eth0", "mtu", "1400", "up")
}

func (b *box) run(args ...string) string {
	b.t.Helper()
	return b.env.Run("nsenter", append([]string{fmt.Sprintf("--net=/proc/%d/ns/net", b.cmd.Process.Pid)}, args...)...)
}

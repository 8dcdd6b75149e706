package single

import (
	"os"
	"strings"
	"syscall"
	"testing"
)

// dockerd comes up while netd hangs: it gets an error about each call in time. Both go on together afterwards.
func TestDockerStartsWhileNetdHangs(t *testing.T) {
	n := withImage(t, asksNetd...)
	d := newDockerd(n)
	n.ok("network", "create", "--subnet", "10.7.0.0/24", "--subnet", "fd07::/64", "web")
	d.Docker(strings.Fields(createWeb)...)
	d.Docker("run", "-d", "--name", "shop", "--network", "web", "--restart", "always", "bb", "sleep", "1000")
	d.End(os.Kill)
	n.signal(syscall.SIGSTOP)
	d.Begin()
	_, errs, err := d.Try("run", "--rm", "--network", "web", "bb", "true")
	if err == nil || !strings.Contains(errs, "netd") {
		t.Errorf("a container while netd hangs: %v, %s", err, errs)
	}
	n.signal(syscall.SIGCONT)
	d.Docker("run", "--rm", "--network", "web", "bb", "true")
	d.Docker("rm", "-f", "shop")
	d.Docker("network", "rm", "web")
	n.eventually("nothing is left on the network", func() bool { return n.attached() == "0" })
}

func (n *node) signal(s os.Signal) {
	n.t.Helper()
	if err := n.netd.Process.Signal(s); err != nil {
		n.t.Fatal(err)
	}
}

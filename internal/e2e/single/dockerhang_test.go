package single

import (
	"fmt"
	"os"
	"path/filepath"
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

// A container outlives dockerd with --live-restore. A dockerd that hangs keeps nobody from anything. What it has
// forgotten is removed within a minute.
func TestDockerdGoesAndComes(t *testing.T) {
	n := withImage(t, asksNetd...)
	d := newDockerd(n, "--live-restore")
	n.ok("network", "create", "--subnet", "10.7.0.0/24", "--subnet", "fd07::/64", "web")
	d.Docker(strings.Fields(createWeb)...)
	n.ok("run", "-d", "--name", "db", "--network", "web", "bb", "sleep", "1000")
	d.Docker("run", "-d", "--name", "shop", "--network", "web", "--network-alias", "cart", "bb", "sleep", "1000")
	reach := func(when string) {
		t.Helper()
		for _, name := range []string{"shop", "cart"} {
			n.eventually(when+": "+name+" is reached", func() bool {
				return n.net("exec", "db", "ping", "-c1", "-W1", name).code == 0
			})
		}
	}
	reach("at first")
	d.End(os.Kill)
	reach("without dockerd")
	d.Begin()
	d.Docker("exec", "shop", "ping", "-c1", "-W3", "10.7.0.1")
	reach("with another dockerd")
	d.Signal(syscall.SIGSTOP)
	n.ok("run", "--rm", "--network", "web", "bb", "true")
	n.restart()
	reach("while dockerd hangs")
	d.Signal(syscall.SIGCONT)
	d.Docker("rename", "shop", "store")
	n.eventually("the new name is known", func() bool { return n.net("exec", "db", "nslookup", "store").code == 0 })
	d.End(os.Kill)
	for _, f := range []string{"network/files/local-kv.db", "containers"} {
		if err := os.RemoveAll(filepath.Join(d.Dir(), f)); err != nil {
			t.Fatal(err)
		}
	}
	d.Begin()
	n.eventually("what was forgotten is gone", func() bool { return n.attached() == "1" })
	is(t, "what differs", n.ok("diff"), "")
}

// Containers start while netd is killed: each call is answered by the next netd.
func TestContainersOfDockerStartWhileNetdIsKilled(t *testing.T) {
	n := withImage(t, asksNetd...)
	d := newDockerd(n)
	n.ok("network", "create", "--subnet", "10.7.0.0/24", "--subnet", "fd07::/64", "web")
	d.Docker(strings.Fields(createWeb)...)
	const many = 8
	failed := make(chan string, many)
	for i := range many {
		go func() {
			_, errs, err := d.Try("run", "-d", "--name", fmt.Sprintf("c%d", i), "--network", "web", "-p", "80", "bb",
				"sleep", "1000")
			if err == nil {
				errs = ""
			}
			failed <- errs
		}()
	}
	for up := 0; up < many; up++ {
		if up%3 == 0 {
			n.restart()
		}
		if errs := <-failed; errs != "" {
			t.Error(errs)
		}
	}
	is(t, "containers on the network", n.attached(), fmt.Sprint(many))
	for i := range many {
		d.Docker("rm", "-f", fmt.Sprintf("c%d", i))
	}
	is(t, "containers left", n.attached(), "0")
	is(t, "what differs", n.ok("diff"), "")
}

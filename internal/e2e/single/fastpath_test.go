package single

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/internal/kern/fastpath"
	"github.com/vethloom/vethloom/internal/kern/kerntest"
	"github.com/vethloom/vethloom/internal/kern/rtnetlink"
)

// TestFastPathOnOneHost has containers of one network meet on the fast path, and finds the rest of what they do as it
// is without: a published port, and the end of everything.
func TestFastPathOnOneHost(t *testing.T) {
	t.Run("tcx", func(t *testing.T) { fastPathOnOneHost(t, nil) })
	t.Run("filters", func(t *testing.T) { fastPathOnOneHost(t, kerntest.WithoutTCX) })
}

func fastPathOnOneHost(t *testing.T, kernel func() error) {
	n := withImageOn(t, kernel, "--fastpath", "auto")
	n.ok("network", "create", "--ipv6", "web")
	n.ok("network", "create", "-o", "fastpath=off", "slow")
	n.ok("run", "-d", "--name", "a", "--network", "web", "--network", "slow", "bb", "sleep", "1000")
	n.ok("run", "-d", "--name", "b", "--network", "web", "--network", "slow", "-p", "8080:80", "bb", "sh", "-c",
		"echo hello >/index.html && exec httpd -f -p 80")
	programs := func() (count int) {
		n.t.Helper()
		if kernel != nil { // a link may go between the two commands
			_, err := fmt.Sscan(n.Sh("for l in $(ip -o link | grep -o 'vle-[0-9a-f]*'); do "+
				"tc filter show dev $l ingress 2>/dev/null; done | grep -c 'name vethloom_leave' || true"), &count)
			if err != nil {
				t.Fatal(err)
			}
			return count
		}
		n.FastPath(t, "", func(p *fastpath.Path, links map[uint32]string) error {
			all, err := p.Programs(links)
			count = len(all)
			return err
		})
		return count
	}
	n.eventually("two endpoints have programs", func() bool { return programs() == 2 })
	for _, when := range []string{"at first", "after netd was killed"} {
		matches(t, when, n.ok("exec", "a", "ping", "-c", "3", "-i", "0.05", "b"), "3 packets received")
		is(t, when+", by name", n.ok("exec", "a", "wget", "-qO-", "http://b/"), "hello")
		is(t, when+", published", strings.TrimSpace(n.Sh("curl -s http://127.0.0.1:8080/")), "hello")
		is(t, when+", published on IPv6", strings.TrimSpace(n.Sh("curl -s http://[::1]:8080/")), "hello")
		is(t, when+", net diff", n.ok("diff"), "")
		n.restart()
	}
	for network, want := range map[string]string{"web": "fast:", "slow": "slow:the network has fastpath=off"} {
		is(t, "the path on "+network, strings.TrimSpace(n.ok("inspect", "-f", `{{with .NetworkSettings.Networks.`+
			network+`}}{{.Path}}:{{.PathReason}}{{end}}`, "a")), want)
	}
	matches(t, "the members' paths", n.ok("network", "inspect", "-f",
		`{{range .Containers}}{{.Path}} {{.PathReason}};{{end}}`, "slow"), `^(slow the network has fastpath=off;){2}$`)
	matches(t, "the paths of endpoints", n.ok("endpoint", "ls", "web", "--format", "{{.Name}} {{.Path}}"),
		`^a fast\nb fast$`)
	matches(t, "status", n.ok("status"), `Fast path: +on\n(.*\n)*web: [1-9][0-9]* packets \(.*\) took the fast path, `+
		`[1-9][0-9]* the slow one \(.*published`)
	is(t, "the other network's", n.ok("status", "-f",
		`{{range .FastPath.Counts}}{{if eq .Network "slow"}}{{.}}{{end}}{{end}}`), "")
	n.internal()
	n.ok("network", "update", "-o", "fastpath=off", "web")
	n.eventually("an update takes the programs off", func() bool { return programs() == 0 })
	n.ok("network", "update", "-o", "fastpath=auto", "web")
	n.eventually("and puts them on", func() bool { return programs() == 2 })
	n.ok("network", "disconnect", "web", "a")
	n.eventually("one is left", func() bool { return programs() == 1 })
	n.ok("rm", "-f", "a", "b")
	if left := programs(); left != 0 {
		t.Errorf("%d programs are left", left)
	}
}

// TestNoFastPathHasAReason asks containers for it: each has that of its own network.
func TestNoFastPathHasAReason(t *testing.T) {
	n := withImage(t, "--fastpath", "off")
	n.ok("run", "-d", "--name", "a", "bb", "sleep", "1000")
	n.ok("run", "-d", "--name", "b", "--network", "host", "bb", "sleep", "1000")
	path := func(name string) string {
		return n.ok("inspect", "-f", "{{range .NetworkSettings.Networks}}{{.Path}}: {{.PathReason}}{{end}}", name)
	}
	is(t, "switched off", path("a"), "slow: this host has no fast path: it was switched off (netd --fastpath off)")
	matches(t, "no network of its own", path("b"), "^(|: |slow: networks of driver host have no fast path)$")
	is(t, "members", n.ok("network", "inspect", "-f", "{{range .Containers}}{{.Path}}{{end}}", "bridge"), "slow")
	n.ok("rm", "-f", "a", "b")
}

// TestWithoutBPF has bpf(2) denied to netd: everything works as without a fast path, and both say why there is none.
func TestWithoutBPF(t *testing.T) {
	n := withImageOn(t, func() error { return kerntest.DenyBPF(unix.EPERM) }, "--fastpath", "auto")
	n.ok("network", "create", "--ipv6", "web")
	n.ok("run", "-d", "--name", "a", "--network", "web", "bb", "sleep", "1000")
	n.ok("run", "-d", "--name", "b", "--network", "web", "-p", "8080:80", "bb", "sh", "-c",
		"echo hello >/index.html && exec httpd -f -p 80")
	for _, when := range []string{"at first", "after netd was killed"} {
		is(t, when+", by name", n.ok("exec", "a", "wget", "-qO-", "http://b/"), "hello")
		is(t, when+", published", strings.TrimSpace(n.Sh("curl -s http://127.0.0.1:8080/")), "hello")
		is(t, when+", net diff", n.ok("diff"), "")
		matches(t, when+", status", n.ok("status"), `Fast path: +none: .*refuses bpf\(2\).*want CAP_BPF`)
		matches(t, when+", doctor", n.net("doctor").out, `fast path(.*\n)*.*everything takes the slow path: .*bpf\(2\)`)
		n.restart()
	}
}

// internal has two containers on a network that leads nowhere else, whose links take more from TCP at once.
func (n *node) internal() {
	n.t.Helper()
	n.ok("network", "create", "--internal", "--ipv6", "db")
	n.ok("run", "-d", "--name", "server", "--network", "db", "bb", "sh", "-c",
		"dd if=/dev/zero of=/file bs=1M count=32 && exec httpd -f -p 80")
	n.ok("run", "-d", "--name", "client", "--network", "db", "bb", "sleep", "1000")
	fetch := []string{"exec", "client", "sh", "-c", "wget -qO- http://server/file | wc -c"}
	n.eventually("the server has its file", func() bool { return n.net(fetch...).out == "33554432" })
	n.eventually("its links take more", func() bool { return n.largest() == 185000 && n.net("diff").code == 0 })
	n.ok("network", "update", "-o", "fastpath=off", "db")
	is(n.t, "on links as others have them", n.ok(fetch...), "33554432")
	if got := n.largest(); got > 65536 {
		n.t.Errorf("without a fast path, links take %d bytes at once", got)
	}
	n.ok("rm", "-f", "server", "client")
	n.ok("network", "rm", "db")
}

// largest is the most that TCP hands to the host's end of an endpoint's link at once.
func (n *node) largest() (most int) {
	n.t.Helper()
	err := n.Do("", func() error {
		c, err := rtnetlink.Dial(0)
		if err != nil {
			return err
		}
		defer c.Close()
		return c.DumpLinks(func(l rtnetlink.Link) {
			if strings.HasPrefix(l.Name, "vle-") {
				most = max(most, l.GSO)
			}
		})
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return most
}

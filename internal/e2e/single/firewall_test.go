package single

import (
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vethloom/vethloom/internal/await"
)

// echoes sends back what comes to a port in a namespace, until the test ends.
func (n *node) echoes(ns, addr string) {
	n.t.Helper()
	var l net.Listener
	if err := n.Do(ns, func() (err error) { l, err = net.Listen("tcp", addr); return err }); err != nil {
		n.t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed
			}
			all.Go(func() { _, _ = io.Copy(c, c); c.Close() })
		}
	})
	n.t.Cleanup(func() { l.Close(); all.Wait() })
}

// streams sends without a pause until stop is called, which tells whether all came back.
func (c *talk) streams() (stop func() error) {
	ended := make(chan error, 1)
	quit := make(chan struct{})
	go func() {
		for {
			select {
			case <-quit:
				ended <- nil
				return
			default:
			}
			if err := c.echo(); err != nil {
				ended <- err
				return
			}
		}
	}()
	return func() error { close(quit); return <-ended }
}

// withFirewall kills netd and starts it with another firewall.
func (n *node) withFirewall(firewall string) {
	n.t.Helper()
	n.end(syscall.SIGKILL)
	n.flags = append(n.flags, "--firewall", firewall)
	n.start()
	n.settled()
}

// settled waits until all is as recorded.
func (n *node) settled() {
	n.t.Helper()
	await.True(n.t, "all is as recorded", func() bool { return n.net("diff").code == 0 })
}

// rulesIn reports where rules of ours are.
func (n *node) rulesIn() string {
	n.t.Helper()
	var in []string
	if strings.Contains(n.Sh("nft list tables"), "vethloom") {
		in = append(in, "nftables")
	}
	for _, v := range []string{"nft", "legacy"} {
		if strings.Contains(n.Sh("for t in iptables ip6tables; do $t-"+v+"-save; done"), ":VETHLOOM") {
			in = append(in, "iptables ("+v+")")
		}
	}
	return strings.Join(in, ", ")
}

// The firewall is changed by a restart: nothing of the old one stays, and no connection is lost.
func TestSwitchingTheFirewall(t *testing.T) {
	n := withImage(t)
	ns := n.outside("192.0.2.2/24", "2001:db8::2/64")
	n.ok("network", "create", "--ipv6", "--subnet", "10.7.0.0/24", "--subnet", "fd00:7::/64", "-o",
		"source-validation=false", "web")
	n.ok("network", "create", "--subnet", "10.8.0.0/24", "other")
	n.ok("run", "-d", "--name", "s", "--network", "web", "-p", "8080:80", "bb", "sh", "-c", echoServer)
	n.ok("run", "-d", "--name", "o", "--network", "other", "bb", "sleep", "1000")
	n.echoes(ns, "192.0.2.2:90")
	box := "/proc/" + n.ok("inspect", "-f", "{{.State.Pid}}", "s") + "/ns/net"
	is(t, "auto", n.ok("status", "--format", "{{.Firewall}}"), "nftables")
	connections := map[string]*talk{
		"in":            n.talks(ns, "192.0.2.1:8080"),
		"in, by IPv6":   n.talks(ns, "[2001:db8::1]:8080"),
		"from loopback": n.talks("", "127.0.0.1:8080"),
		"out":           n.talks(box, "192.0.2.2:90"),
	}
	stop := n.talks(ns, "192.0.2.1:8080").streams()
	other := n.inside("o")
	for _, c := range []struct{ asked, has string }{
		{"iptables", "iptables (nft)"}, {"auto", "nftables"},
	} {
		n.withFirewall(c.asked)
		is(t, "status", n.ok("status", "--format", "{{.Firewall}}"), c.has)
		is(t, "rules", n.rulesIn(), c.has)
		n.talks(ns, "192.0.2.1:8080")
		n.talks(box, "192.0.2.2:90")
		for name, connection := range connections {
			connection.lives(name)
		}
		if got := other("ping -c1 -W0.3 10.7.0.2 >/dev/null && echo reached || echo not"); got != "not\n" {
			t.Errorf("with %s another network is %s", c.has, got)
		}
	}
	if err := stop(); err != nil {
		t.Errorf("a connection was lost: %v", err)
	}
}

// Whoever empties the firewall, it is filled again, and connections go on.
func TestAnEmptiedFirewallIsFilledAgain(t *testing.T) {
	for firewall, harms := range map[string][]string{
		"nftables": {"nft flush ruleset", "nft delete table inet vethloom"},
		"iptables": {"iptables -F; iptables -t nat -F", "nft flush ruleset", "iptables -F; iptables -X",
			"ebtables -t nat -F"},
	} {
		t.Run(firewall, func(t *testing.T) {
			n := withImage(t, "--firewall", firewall)
			ns := n.outside("192.0.2.2/24")
			n.ok("network", "create", "--subnet", "10.7.0.0/24", "web")
			n.ok("run", "-d", "--name", "s", "--network", "web", "-p", "8080:80", "bb", "sh", "-c", echoServer)
			c := n.talks(ns, "192.0.2.1:8080")
			show := "nft -s list table inet vethloom; nft -s list table bridge vethloom"
			if firewall == "iptables" {
				show = "iptables-save; ip6tables-save; ebtables-save"
			}
			dump := func() []string { return rulesOf(n.call("", nil, "sh", "-c", show).out) }
			whole := dump()
			for _, harm := range harms {
				n.Sh(harm)
				n.settledAfter(harm, whole, dump)
				n.talks(ns, "192.0.2.1:8080")
				c.lives(harm)
			}
		})
	}
}

// settledAfter waits, without asking netd, until the rules are what they were.
func (n *node) settledAfter(harm string, whole []string, dump func() []string) {
	n.t.Helper()
	await.Done(n.t, "what it was before "+harm, func() error {
		if d := cmp.Diff(whole, dump()); d != "" {
			return errors.New(d)
		}
		return nil
	})
}

// rulesOf are the words of a dump, but for comments and counters, in order of the alphabet: sets and chains have none
// of their own.
func rulesOf(dump string) (out []string) {
	for line := range strings.Lines(dump) {
		if line[0] == '#' || line[0] == ':' {
			continue
		}
		for word := range strings.FieldsSeq(line) {
			out = append(out, strings.Trim(word, ",{}"))
		}
	}
	slices.Sort(out)
	return out
}

// What iptables cannot do is refused: to whoever asks for it, and at the start where it is in the records.
func TestIptablesRefuses(t *testing.T) {
	n := withImage(t)
	n.ok("network", "create", "--ipv6", "--subnet", "10.7.0.0/24", "--subnet", "fd00:7::/64", "six")
	n.ok("run", "-d", "--name", "s", "--network", "six", "bb", "sleep", "1000")
	n.end(syscall.SIGTERM)
	flags := n.flags
	r := n.call("", nil, program(t, "netd"), append(slices.Clone(flags), "--firewall", "iptables")...)
	matches(t, "start", r.err, `netd: --firewall iptables: .*endpoint.*source validation of IPv6.*--firewall nftables`)
	is(t, "rules", n.rulesIn(), "nftables") // they stay, with what goes by them
	n.start()
	n.ok("rm", "-f", "s")
	n.ok("network", "rm", "six")
	n.withFirewall("iptables")
	n.refuses(refusal{"network create --ipv6 six", 1,
		`source-validation "true".*iptables \(nft\).*--firewall nftables.*-o source-validation=false`})
	n.ok("network", "create", "--ipv6", "-o", "source-validation=false", "six")
}

// What net firewall tells an administrator to do has the effect that it tells of, before netd's own rules.
func TestTheUsersRulesComeFirst(t *testing.T) {
	for _, firewall := range []string{"nftables", "iptables"} {
		t.Run(firewall, func(t *testing.T) {
			n := withImage(t, "--firewall", firewall)
			ns := n.outside("192.0.2.2/24", "10.99.0.2/24")
			n.Sh("ip route add 10.99.0.0/24 via 192.0.2.2")
			n.echoes(ns, "0.0.0.0:90")
			n.ok("network", "create", "--subnet", "10.7.0.0/24", "web")
			n.ok("run", "-d", "--name", "s", "--network", "web", "-p", "8080:80", "bb", "sh", "-c", echoServer)
			box := "/proc/" + n.ok("inspect", "-f", "{{.State.Pid}}", "s") + "/ns/net"
			answered := func(ns, from, to string) string {
				c, err := n.dial(ns, from, to)
				if err != nil {
					return "silence"
				}
				c.lives(to)
				c.Close() // before a rule stops its end, too
				return "an answer"
			}
			n.talks(ns, "192.0.2.1:8080").Close()
			is(t, "before", answered(box, "", "10.99.0.2:90"), "an answer")
			is(t, "before", answered(ns, "10.99.0.2", "192.0.2.1:8080"), "an answer")
			for _, part := range []string{"Forwarded", "Published"} {
				n.Sh(n.ok("firewall", "-f", `{{range .`+part+`.Example}}{{println .}}{{end}}`))
			}
			is(t, "to what is forbidden", answered(box, "", "10.99.0.2:90"), "silence")
			is(t, "to what is not", answered(box, "", "192.0.2.2:90"), "an answer")
			is(t, "from where it is forbidden", answered(ns, "10.99.0.2", "192.0.2.1:8080"), "silence")
			is(t, "from where it is not", answered(ns, "192.0.2.2", "192.0.2.1:8080"), "an answer")
		})
	}
}

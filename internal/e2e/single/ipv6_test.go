package single

import (
	"strings"
	"testing"
)

// Containers without IPv4, on a bridge and on a LAN: neighbours, the outside and published ports are reached by IPv6.
func TestIPv6OnlyContainers(t *testing.T) {
	n, far := withLAN(t)
	n.ok("network", "create", "--ipv4=false", "--ipv6", "six")
	n.ok("network", "create", "-d", "macvlan", "-o", "parent=lan0", "--ipv4=false", "--subnet", "2001:db8::/64",
		"--gateway", "2001:db8::100", "--ip-range", "2001:db8::200/120", "lan")
	n.ok("run", "-d", "--name", "a", "--network", "six", "-p", "8080:80", "bb", "httpd", "-f", "-p", "80")
	n.ok("run", "-d", "--name", "b", "--network", "six", "bb", "sleep", "1000")
	n.ok("run", "-d", "--name", "l", "--network", "lan", "bb", "sleep", "1000")
	for _, name := range []string{"a", "b", "l"} {
		is(t, name+"'s IPv4", n.inside(name)("ip -4 addr show eth0"), "")
	}
	a := n.ok("inspect", "-f", "{{.NetworkSettings.Networks.six.GlobalIPv6Address}}", "a")
	is(t, "IPv4", n.ok("inspect", "-f", "{{.NetworkSettings.Networks.six.IPAddress}}", "a"), "")
	n.ok("exec", "b", "ping", "-c1", "-W5", a)
	n.ok("exec", "b", "ping", "-c1", "-W5", "2001:db8::100")
	n.ok("exec", "l", "ping", "-c1", "-W5", "2001:db8::100")
	far.Run("ping", "-c1", "-W5", n.ok("inspect", "-f", "{{.NetworkSettings.Networks.lan.GlobalIPv6Address}}", "l"))
	for _, from := range []func(string) string{far.Sh, n.Sh, n.inside("b")} {
		out := from("wget -T 10 -q -S -O - http://[2001:db8::1]:8080/ 2>&1 || true")
		if !strings.Contains(out, "404") {
			t.Errorf("the published port answers %q, want that there is no such file", out)
		}
	}
	n.restart()
	n.ok("exec", "b", "ping", "-c1", "-W5", a)
	is(t, "net diff", n.ok("diff"), "")
}

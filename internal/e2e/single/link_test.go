package single

import (
	"testing"
)

// A container's link to a network has the name and the sysctls that were asked for, by our words and by Docker's, and
// again after a stop.
func TestLinksAsAskedFor(t *testing.T) {
	n := withImage(t)
	n.ok("network", "create", "--ipv6", "--subnet", "10.7.0.0/24", "--subnet", "fd00:7::/64", "front")
	n.ok("network", "create", "--subnet", "10.8.0.0/24", "back")
	n.ok("network", "create", "--subnet", "10.9.0.0/24", "third")
	n.ok("run", "-d", "--name", "c", "--network",
		"name=front,ifname=web0,sysctl=net.ipv4.conf.IFNAME.log_martians=1,sysctl=net.ipv6.conf.IFNAME.accept_ra=2",
		"--network", `name=back,"driver-opt=com.docker.network.endpoint.sysctls=net.ipv4.conf.IFNAME.rp_filter=2,`+
			`net.ipv4.conf.IFNAME.log_martians=1",driver-opt=com.docker.network.endpoint.ifname=eth0`,
		"bb", "sleep", "1000")
	n.refuses(
		refusal{"network connect --ifname web0 third c", 1, `ifname "web0".*network front.*choose another name`},
		refusal{"network connect --ifname lo third c", 1, `kernel uses this name`},
		refusal{"network connect --sysctl net.ipv4.ip_forward=1 third c", 1, `not one of a link.*--sysctl`},
		refusal{"network connect --driver-opt x=y third c", 1, `driver-opt "x": unknown`},
		refusal{"network connect --sysctl net.ipv4.conf.IFNAME.nosuch=1 third c", 1,
			`net/ipv4/conf/eth\d/nosuch(.|\n)*kernel`},
		refusal{"run --network name=front,ifname=x0 --network name=back,ifname=x0 bb true", 125, `ifname "x0"`},
		refusal{"run --network name=host,ifname=x0 bb true", 125, `link options cannot be chosen`},
	)
	n.ok("network", "connect", "--ifname", "third0", "--sysctl", "net.ipv4.conf.IFNAME.log_martians=1", "third", "c")
	for _, when := range []string{"at first", "after a stop"} {
		inside := n.inside("c")
		is(t, when, inside("ip -br link | cut -d@ -f1 | cut -d' ' -f1 | sort | xargs"), "eth0 lo third0 web0\n")
		is(t, when, inside("cd /proc/sys/net; cat ipv4/conf/web0/log_martians ipv6/conf/web0/accept_ra "+
			"ipv4/conf/eth0/rp_filter ipv4/conf/eth0/log_martians ipv4/conf/third0/log_martians"), "1\n2\n2\n1\n1\n")
		matches(t, when, inside("ip route show default"), "^default via 10.7.0.1 dev web0")
		matches(t, when, n.ok("inspect", "-f", "{{json .NetworkSettings.Networks.front}}", "c"),
			`"InterfaceName":"web0".*"net.ipv6.conf.IFNAME.accept_ra":"2"`)
		n.ok("stop", "-t", "0", "c")
		n.ok("start", "c")
	}
	is(t, "net diff", n.ok("diff"), "")
}

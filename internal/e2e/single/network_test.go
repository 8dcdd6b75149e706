package single

import (
	"encoding/json"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/internal/kern/kerntest"
)

func TestNetworkCreateRefuses(t *testing.T) {
	n := newNode(t)
	n.ok("network", "create", "--subnet", "10.7.0.0/24", "-o", "bridge-name=br-taken", "web")
	n.Run("ip", "link", "add", "br-foreign", "type", "bridge")
	defer n.Run("ip", "link", "del", "br-foreign")
	n.refuses(
		refusal{"network create web", 1, `a network of this name exists.*choose another name`},
		refusal{"network create host", 1, `builtin`},
		refusal{"network create a/b", 1, `has '/' in it`},
		refusal{"network create", 1, `1 arg`},
		refusal{"network create -d weave x", 1, `driver "weave".*"bridge"`},
		refusal{"network create -o mtv=1 x", 1, `unknown option "mtv" \(did you mean "mtu"\?\)`},
		refusal{"network create -o mtu=big x", 1, `68 to 65535`},
		refusal{"network create -o bridge-name=br-taken x", 1, `"br-taken".*network "web"`},
		refusal{"network create -o bridge-name=br-foreign x", 1, `"br-foreign".*netd did not make`},
		refusal{"network create -o bridge-name=vlb-12345678 x", 1, `made from IDs`},
		refusal{"network create --subnet 10.7.0.128/25 x", 1, `overlaps 10.7.0.0/24 of network "web"`},
		refusal{"network create --subnet 10.8.0.5/24 x", 1, `did you mean 10.8.0.0/24`},
		refusal{"network create --subnet 10.8.0.0/32 x", 1, `/31`},
		refusal{"network create --subnet 10.8.0.0/16 --subnet 10.8.9.0/24 x", 1, `overlaps 10.8.0.0/16 of the same`},
		refusal{"network create --subnet 10.8.0.0/24 --gateway 10.9.0.1 x", 1, `"10.9.0.1" is in no --subnet`},
		refusal{"network create --subnet 10.8.0.0/24 --ip-range 10.9.0.0/25 x", 1, `choose an address inside`},
		refusal{"network create --subnet 10.8.0.0/24 --aux-address 10.8.0.5 x", 1, `NAME=ADDRESS`},
		refusal{"network create --subnet garbage x", 1, `not a subnet`},
		refusal{"network create --subnet 127.0.0.0/24 x", 1, `loopback`},
		refusal{"network create --subnet 0.0.0.0/0 x", 1, `0.0.0.0/8`},
		refusal{"network create --subnet fe80::/64 x", 1, `link-local`},
		refusal{"network rm host", 1, `builtin`},
		refusal{"network rm wbe", 1, `did you mean "web"`},
	)
	is(t, "networks", n.ok("network", "ls", "--format", "{{.Name}}"), "bridge\nhost\nnone\nweb")
}

func TestNetworksOfEveryShape(t *testing.T) {
	n := withImage(t)
	for _, c := range []struct{ flags, want string }{
		{"--subnet 10.8.0.0/31", "10.8.0.1/31"},
		{"--ipv4=false --subnet fd00:9::/127", "fd00:9::/127|fd00:9::1/127"},
		{"--subnet 10.9.0.0/24 --ip-range 10.9.0.64/26 --aux-address r=10.9.0.64 --gateway 10.9.0.254", "10.9.0.65/24"},
		{"--subnet /28", `/28`},
		{"--subnet 10.10.0.0/24 --subnet fd00:10::/64", `10\.10\.0\.2/24(.|\n)*fd00:10::2/64`},
		{"--internal --subnet 10.11.0.0/24", "10.11.0.2/24"},
		{"-o mtu=1400 --subnet 10.12.0.0/24", "mtu 1400(.|\n)*10.12.0.2/24"},
	} {
		n.ok(append(append([]string{"network", "create"}, strings.Fields(c.flags)...), "x")...)
		matches(t, c.flags, n.ok("run", "--rm", "--network", "x", "bb", "ip", "addr", "show", "eth0"), c.want)
		is(t, "network rm", n.ok("network", "rm", "x"), "x")
	}
}

func TestAddressesAreGivenOnce(t *testing.T) {
	n := withImage(t)
	n.ok("network", "create", "--subnet", "10.7.0.0/30", "tiny")
	n.ok("run", "-d", "--name", "a", "--network", "tiny", "--ip", "10.7.0.2", "--mac-address", "02:00:00:00:00:07",
		"bb", "sleep", "1000")
	n.refuses(
		refusal{"run --rm --network tiny --ip 10.7.0.2 bb true", 125, `"10.7.0.2": taken by a on network "tiny"`},
		refusal{"run --rm --network tiny --ip 10.7.0.1 bb true", 125, `taken by the gateway`},
		refusal{"run --rm --network tiny --ip 10.7.0.3 bb true", 125, `taken by the broadcast address`},
		refusal{"run --rm --network tiny bb true", 125, `tiny.*(no|every|full|free)`},
		refusal{"run --rm --name a bb true", 125, `name "a": container .* has it`},
		refusal{"network rm tiny", 1, `in use by a`},
	)
	n.ok("rm", "-f", "a")
	is(t, "the address again", n.ok("run", "--rm", "--network", "tiny", "bb", "hostname", "-i"), "10.7.0.2")
	n.ok("run", "-d", "--name", "m", "--mac-address", "02:00:00:00:00:08", "bb", "sleep", "1000")
	n.refuses(refusal{"run --rm --mac-address 02:00:00:00:00:08 bb true", 125,
		`MAC address "02:00:00:00:00:08": taken by m`})
}

// Of several subnets containers get addresses of the first that has any, and are neighbours across them.
func TestSeveralSubnetsOfANetwork(t *testing.T) {
	n := withImage(t)
	n.ok("network", "create", "--subnet", "10.7.0.0/30", "--subnet", "10.8.0.0/24", "--gateway", "10.8.0.254",
		"--ip-range", "10.8.0.128/25", "--subnet", "fd00:7::/64", "--subnet", "fd00:8::/64", "--route",
		"10.99.0.0/16,via=10.8.0.5", "wide")
	for _, name := range []string{"a", "b"} {
		n.ok("run", "-d", "--name", name, "--network", "wide", "bb", "sleep", "1000")
	}
	n.ok("run", "-d", "--name", "c", "--network", "wide", "--ip", "10.8.0.9", "--ip6", "fd00:8::9", "bb", "sleep",
		"1000")
	of := func(name string) string {
		const e = ".NetworkSettings.Networks.wide."
		return n.ok("inspect", "-f", "{{"+e+"IPAddress}} {{"+e+"Gateway}} {{"+e+"GlobalIPv6Address}} {{"+e+
			"IPv6Gateway}}", name)
	}
	is(t, "the first", of("a"), "10.7.0.2 10.7.0.1 fd00:7::2 fd00:7::1")
	is(t, "when the first subnet is full", of("b"), "10.8.0.128 10.8.0.254 fd00:7::3 fd00:7::1")
	is(t, "as asked for", of("c"), "10.8.0.9 10.8.0.254 fd00:8::9 fd00:8::1")
	n.ok("exec", "a", "ping", "-c1", "-W5", "10.8.0.9")
	n.ok("exec", "c", "ping", "-c1", "-W5", "fd00:7::2")
	matches(t, "routes", n.ok("exec", "b", "ip", "route"),
		`10\.7\.0\.0/30 dev eth0(.|\n)*10\.99\.0\.0/16 via 10\.8\.0\.5 dev eth0`)
	n.ok("network", "update", "-o", "routes=10.98.0.0/16,via=10.8.0.6", "wide")
	routes := n.inside("b")("ip route show proto 117 | grep via | grep -v default")
	is(t, "routes after an update", strings.TrimSpace(routes),
		"10.98.0.0/16 via 10.8.0.6 dev eth0 metric 32001 onlink")
	n.ok("stop", "-t", "0", "b")
	n.ok("start", "b")
	is(t, "after a stop", of("b"), "10.8.0.128 10.8.0.254 fd00:7::3 fd00:7::1")
	is(t, "net diff", n.ok("diff"), "")
}

// A container has the addresses that it had the last time, on every network, while nobody else has them.
func TestAddressesAreKeptOverStops(t *testing.T) {
	n := withImage(t)
	n.ok("network", "create", "--ipv6", "--subnet", "10.7.0.0/24", "--subnet", "fd00:7::/64", "front")
	n.ok("network", "create", "--subnet", "10.8.0.0/24", "back")
	n.ok("run", "-d", "--name", "a", "--network", "front", "bb", "sleep", "1000")
	n.ok("network", "connect", "back", "a")
	of := func(name string) string {
		return n.ok("inspect", "-f", "{{range $n, $e := .NetworkSettings.Networks}}"+
			"{{$n}} {{$e.IPAddress}} {{$e.GlobalIPv6Address}} {{$e.MacAddress}} {{end}}", name)
	}
	had := of("a")
	n.ok("stop", "-t", "0", "a")
	n.ok("run", "-d", "--name", "b", "--network", "front", "bb", "sleep", "1000")
	n.ok("stop", "-t", "0", "b")
	n.ok("start", "b")
	n.ok("start", "a")
	is(t, "after its stop", of("a"), had)
	n.ok("stop", "-t", "0", "a")
	n.ok("run", "-d", "--name", "c", "--network", "front", "--ip", "10.7.0.2", "bb", "sleep", "1000")
	n.ok("start", "a")
	is(t, "with its address taken", n.ok("inspect", "-f", "{{.NetworkSettings.Networks.front.IPAddress}} "+
		"{{.NetworkSettings.Networks.back.IPAddress}}", "a"), "10.7.0.4 10.8.0.2")
}

// A default route belongs to whoever administers the container from when it was made: what a VPN's client puts in its
// place is not undone, and when the VPN ends nothing leaves in the clear. What the kernel dropped comes back.
func TestADefaultRouteOfTheContainersOwn(t *testing.T) {
	n := withImage(t)
	n.ok("network", "create", "--ipv6", "--subnet", "10.7.0.0/24", "--subnet", "fd00:7::/64", "front")
	n.ok("run", "-d", "--name", "c", "--network", "front", "--cap-add", "NET_ADMIN", "bb", "sleep", "1000")
	inside := n.inside("c")
	routes := func() string { return inside("ip route show default; ip -6 route show default") }
	plain := "default via 10.7.0.1 dev eth0 proto 117 onlink \n" +
		"default via fd00:7::1 dev eth0 proto 117 metric 1024 onlink pref medium\n"
	is(t, "at first", routes(), plain)
	inside("ip link add t0 type veth peer name t1; ip link set t1 up; ip link set t0 up; " +
		"ip route replace default dev t0; ip -6 route replace default dev t0 metric 1024")
	pass := func() {
		t.Helper()
		is(t, "net diff", n.ok("diff"), "")
		n.restart()
	}
	pass()
	is(t, "with a VPN", routes(), "default dev t0 scope link \ndefault dev t0 metric 1024 pref medium\n")
	inside("ip link del t0")
	pass()
	is(t, "when it has gone", routes(), "")
	inside("ip link set eth0 down; ip link set eth0 up")
	n.restart()
	await.True(t, "the link's routes are back", func() bool { return routes() == plain })
	inside("ip route flush table main; ip route flush table 11700")
	n.restart()
	await.True(t, "a way out without a way to its own subnet", func() bool { return routes() == plain })
	n.ok("port", "add", "c", "-p", "8080:80")
}

// A network can be left by a container that lives on in the sandbox of one that was removed, and then be removed.
func TestDisconnectWhoseOwnerIsGone(t *testing.T) {
	n := withImage(t)
	n.ok("network", "create", "web")
	n.ok("run", "-d", "--name", "o", "--network", "web", "bb", "sleep", "1000")
	n.ok("run", "-d", "--name", "s", "--network", "container:o", "bb", "sleep", "1000")
	n.ok("rm", "-f", "o")
	n.refuses(refusal{"network connect bridge s", 1, "was removed"})
	matches(t, "before", n.inside("s")("ip -o link"), `(.|\n)*eth0(.|\n)*`)
	n.ok("network", "disconnect", "web", "s")
	is(t, "links", n.inside("s")("ip -o link | grep -c eth0 || true"), "0\n")
	n.ok("network", "rm", "web")
}

// Answers leave by the network that was asked, whichever provides the default route.
func TestAnswersLeaveByTheNetworkThatWasAsked(t *testing.T) {
	n := withImage(t)
	n.ok("network", "create", "--ipv6", "--subnet", "10.7.0.0/24", "--subnet", "fd00:7::/64", "front")
	n.ok("network", "create", "--ipv6", "--subnet", "10.8.0.0/24", "--subnet", "fd00:8::/64", "-o", "masquerade=false",
		"back")
	n.ok("run", "-d", "--name", "c", "--network", "front", "bb", "sleep", "1000")
	n.ok("network", "connect", "back", "c")
	inside := n.inside("c")
	way := func(from, want string) {
		t.Helper()
		for _, to := range []string{"192.0.2.1", "2001:db8::1"} {
			if strings.Contains(from, ":") == strings.Contains(to, ":") {
				is(t, "the way from "+from, inside("ip route get "+to+" from "+from+
					" | grep -o 'dev eth[0-9]'"), "dev "+want+"\n")
			}
		}
	}
	way("10.7.0.2", "eth0")
	way("fd00:7::2", "eth0")
	way("10.8.0.2", "eth1")
	way("fd00:8::2", "eth1")
	n.ok("network", "disconnect", "back", "c")
	n.ok("network", "connect", "--gw-priority", "1", "back", "c") // it provides the default route
	way("10.7.0.2", "eth0")
	way("10.8.0.2", "eth1")
	is(t, "default", inside("ip route get 192.0.2.1 | grep -o 'dev eth[0-9]'"), "dev eth1\n")
	is(t, "metrics", inside("ip route show default"),
		"default via 10.8.0.1 dev eth1 proto 117 onlink \n"+
			"default via 10.7.0.1 dev eth0 proto 117 metric 32001 onlink \n")
	n.ok("network", "disconnect", "front", "c")
	is(t, "rules left", inside("ip rule | grep -c 32000 || true"), "0\n")
}

func TestConnectAndDisconnectARunningContainer(t *testing.T) {
	n := withImage(t)
	n.ok("network", "create", "--subnet", "10.7.0.0/24", "front")
	n.ok("network", "create", "--subnet", "10.8.0.0/24", "back")
	n.ok("network", "create", "--subnet", "10.9.0.0/24", "--internal", "inside")
	n.ok("run", "-d", "--name", "c", "--network", "front", "bb", "sleep", "1000")
	gateway := func(want string) {
		t.Helper()
		is(t, "default route", n.ok("exec", "c", "sh", "-c", "ip route get 192.0.2.1 | head -1 | cut -d' ' -f3"), want)
	}
	gateway("10.7.0.1")
	n.ok("network", "connect", "inside", "c")
	n.ok("network", "connect", "back", "c")
	gateway("10.7.0.1")
	n.ok("network", "disconnect", "back", "c")
	n.ok("network", "connect", "--gw-priority", "5", "--ip", "10.8.0.9", "back", "c")
	gateway("10.8.0.1")
	n.refuses(
		refusal{"network connect back c", 1, `on it already`},
		refusal{"network connect host c", 1, `when the container is made`},
		refusal{"network disconnect nope c", 1, `network "nope": not found`},
		refusal{"network connect back nope", 1, `no such container`},
	)
	is(t, "hosts", n.ok("exec", "c", "sh", "-c", "grep -c ^10 /etc/hosts"), "3")
	n.ok("network", "disconnect", "back", "c")
	gateway("10.7.0.1")
	n.refuses(refusal{"network disconnect back c", 1, `not connected`})
	is(t, "networks of c", n.ok("inspect", "-f",
		"{{range $n, $e := .NetworkSettings.Networks}}{{$n}}={{$e.IPAddress}} {{end}}", "c"),
		"front=10.7.0.2 inside=10.9.0.2 ")
}

func TestWhoReachesWhom(t *testing.T) {
	n := withImage(t)
	n.ok("network", "create", "--ipv6", "--subnet", "10.7.0.0/24", "--subnet", "fd00:7::/64", "front")
	n.ok("network", "create", "--subnet", "10.8.0.0/24", "back")
	n.ok("network", "create", "--subnet", "10.9.0.0/24", "-o", "icc=false", "quiet")
	for name, network := range map[string]string{"f1": "front", "f2": "front", "b": "back", "q1": "quiet",
		"q2": "quiet"} {
		n.ok("run", "-d", "--name", name, "--network", network, "bb", "sleep", "1000")
	}
	f1 := n.ok("inspect", "-f", "{{.Config.Hostname}}", "f1")
	address := func(name, field string) string {
		return n.ok("inspect", "-f", "{{range .NetworkSettings.Networks}}{{."+field+"}}{{end}}", name)
	}
	for _, c := range []struct {
		from, to, field string
		code            int
	}{
		{"f1", "f2", "IPAddress", 0}, {"f1", "f2", "GlobalIPv6Address", 0}, {"f1", "b", "IPAddress", 1},
		{"q1", "q2", "IPAddress", 1}, {"q1", "q1", "IPAddress", 0},
	} {
		r := n.net("exec", c.from, "ping", "-c1", "-W1", address(c.to, c.field))
		is(t, fmt.Sprintf("%s pings %s by %s: %s", c.from, c.to, c.field, r.out), fmt.Sprint(r.code),
			fmt.Sprint(c.code))
	}
	is(t, "in the stack of f1", n.ok("run", "--rm", "--network", "container:f1", "bb", "sh", "-c",
		"exec 2>&1; hostname -i || cat /etc/hosts; cat /etc/hostname; hostname"),
		strings.Join([]string{address("f1", "IPAddress"), f1, f1}, "\n"))
	matches(t, "on none", n.ok("run", "--rm", "--network", "none", "bb", "ip", "-o", "link"), `^1: lo:.*$`)
	is(t, "on host", n.ok("run", "--rm", "--network", "host", "bb", "readlink", "/proc/self/ns/net"),
		strings.TrimSpace(n.Run("readlink", "/proc/self/ns/net")))
}

func TestPublishedPorts(t *testing.T) {
	n := withImage(t)
	n.ok("network", "create", "--ipv6", "web")
	n.ok("run", "-d", "--name", "s", "--network", "web", "-p", "8080:80", "-p", "80", "-p", "127.0.0.1:9000:80", "-p",
		"[::1]:9001:80",
		"-p", "7000-7002:90-92/udp", "bb", "httpd", "-f", "-h", "/data")
	picked := n.ok("port", "s", "80/tcp")
	matches(t, "ports", picked, `0\.0\.0\.0:8080(.|\n)*\[::\]:8080`)
	matches(t, "ps", n.ok("ps", "--format", "{{.Ports}}"),
		`127\.0\.0\.1:9000->80/tcp.*\[::1\]:9001->80/tcp.*7000-7002->90-92/udp`)
	get := func(url string) string {
		var got string
		n.eventually(url, func() bool {
			err := n.Do("", func() error {
				out, err := exec.Command("curl", "-sS", "-m5", url).Output()
				got = string(out)
				return err
			})
			return err == nil
		})
		return strings.TrimSpace(got)
	}
	for _, at := range []string{"127.0.0.1:8080", "[::1]:8080", "127.0.0.1:9000", "[::1]:9001"} {
		is(t, at, get("http://"+at+"/seed"), "from the image")
	}
	n.Sh("ip link add d0 type bridge && ip addr add 192.0.2.1/24 dev d0 && ip link set d0 up")
	defer n.Run("ip", "link", "del", "d0")
	is(t, "by the host's address", get("http://192.0.2.1:8080/seed"), "from the image")
	is(t, "from a container", n.ok("run", "--rm", "bb", "wget", "-qO-", "http://192.0.2.1:8080/seed"), "from the image")
	is(t, "from itself", n.ok("exec", "s", "wget", "-qO-", "http://192.0.2.1:8080/seed"), "from the image")
	n.refuses(
		refusal{"run --rm -p 8080:80 bb true", 125, `8080/tcp: taken by s on network web`},
		refusal{"run --rm -p 7001:1/udp bb true", 125, `7001/udp: taken by s`},
		refusal{"run --rm -p 8081:80 -p 8081:81 bb true", 125, `publish each host port once`},
		refusal{"port s 81", 1, `not published`},
	)
	pid := n.netd.Process.Pid
	n.Run("prlimit", "--pid", fmt.Sprint(pid), "--nofile=500:")
	n.refuses(refusal{"run --rm -p 10000-14000:10000-14000 bb true", 125,
		`"10000-14000": netd cannot hold that many ports.*LimitNOFILE=`})
	n.Run("prlimit", "--pid", fmt.Sprint(pid), "--nofile=10000:")
	is(t, "ports after the refusal", n.Sh("ss -Hltn | grep -c ':1[0-4][0-9][0-9][0-9] ' || true"), "0\n")
	// A foreign program's port: refused at once, by name.
	var l net.Listener
	if err := n.Do("", func() (err error) { l, err = net.Listen("tcp", "127.0.0.1:8090"); return err }); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	n.refuses(refusal{"run --rm -p 8090:80 bb true", 125, `8090.*(taken|in use) by single\.test \(pid \d+\)`})
}

func TestInspectHasDockersFields(t *testing.T) {
	n := withImage(t)
	n.ok("network", "create", "--subnet", "10.7.0.0/24", "front")
	id := n.ok("run", "-d", "--name", "c", "--network", "front", "-p", "8080:80", "-e", "A=1", "-v", "vol:/v", "-l",
		"k=v", "bb", "sleep", "1000")
	defer n.ok("volume", "rm", "vol")
	defer n.ok("rm", "-f", "c")
	for template, want := range map[string]string{
		"{{.Id}} {{.Name}} {{.Path}} {{index .Args 0}}":                                 id + " /c sleep 1000",
		"{{.State.Status}} {{.State.Running}} {{.State.ExitCode}} {{.State.OOMKilled}}": "running true 0 false",
		"{{.Config.Image}} {{.Config.Env}} {{.Config.Labels.k}} {{.Config.Cmd}}":        "bb [A=1] v [sleep 1000]",
		"{{.Config.Hostname}}": id[:12],
		"{{.NetworkSettings.Networks.front.IPAddress}} " +
			"{{.NetworkSettings.Networks.front.Gateway}}": "10.7.0.2 10.7.0.1",
		`{{(index (index .NetworkSettings.Ports "80/tcp") 0).HostPort}}`:       "8080",
		"{{range .Mounts}}{{.Type}} {{.Name}} {{.Destination}} {{.RW}}{{end}}": "volume vol /v true",
		"{{.HostConfig.NetworkMode}} {{.HostConfig.AutoRemove}}":               "front false",
	} {
		is(t, template, n.ok("inspect", "-f", template, "c"), want)
	}
	n.refuses(refusal{"inspect -f {{.Nope}} c", 1, `Nope`}, refusal{"inspect nope", 1, `nothing|"nope"`})
	for _, args := range [][]string{{"ps", "-a"}, {"network", "ls"}, {"images"}, {"volume", "ls"}, {"status"},
		{"version"}, {"doctor"}} {
		r := n.net(append(args, "--format", "json")...)
		for line := range strings.Lines(r.out) {
			if !json.Valid([]byte(line)) {
				t.Errorf("net %s --format json: %s", strings.Join(args, " "), line)
			}
		}
		if r.out == "" {
			t.Errorf("net %s --format json: nothing", strings.Join(args, " "))
		}
	}
}

func TestMetricsAndHealth(t *testing.T) {
	n := newNode(t, "--http", "127.0.0.1:7999")
	get := func(path string) string {
		return n.Run("curl", "-sS", "-m5", "-w", " %{http_code}", "http://127.0.0.1:7999"+path)
	}
	n.eventually("ready", func() bool { return strings.HasSuffix(get("/readyz"), " 200") })
	matches(t, "healthz", get("/healthz"), "^ok\n 200$")
	n.ok("network", "create", "x")
	m := get("/metrics")
	for _, want := range []string{`vethloom_objects{kind="network"} 4`, `vethloom_build_info{`,
		`vethloom_passes_total{result="ok"}`,
		`vethloom_api_calls_total{code="OK",method="vethloom.v1.Networks/Create"} 1`} {
		if !strings.Contains(m, want) {
			t.Errorf("metrics lack %s", want)
		}
	}
}

// tellsWhoAsks answers connections in a namespace with the address that they come from, until the test ends.
func (n *node) tellsWhoAsks(ns, at string) {
	n.t.Helper()
	var l net.Listener
	if err := n.Do(ns, func() (err error) { l, err = net.Listen("tcp", at); return err }); err != nil {
		n.t.Fatal(err)
	}
	var done sync.WaitGroup
	n.t.Cleanup(func() { l.Close(); done.Wait() })
	done.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed
			}
			fmt.Fprint(c, kerntest.PlainAddr(c.RemoteAddr()))
			c.Close()
		}
	})
}

// What leaves the host carries the address that was chosen, and the host must have it.
func TestOutboundAddresses(t *testing.T) {
	n := withImage(t)
	ns := n.outside("192.0.2.2/24", "2001:db8::2/64")
	n.Sh("ip addr add 192.0.2.9/24 dev o0; ip addr add 192.0.2.10/24 dev o0; ip addr add 2001:db8::9/64 dev o0 nodad")
	n.tellsWhoAsks(ns, "192.0.2.2:80")
	n.tellsWhoAsks(ns, "[2001:db8::2]:80")
	from := func(container, to string) string { return n.ok("exec", container, "nc", to, "80") }
	n.refuses(
		refusal{"network create -o outbound-ip=198.51.100.1 web", 1, `"198.51.100.1": the host does not have`},
		refusal{"network create -o outbound-ip=127.0.0.1 web", 1, `want an IPv4 address of this host`},
	)
	n.ok("network", "create", "--ipv6", "-o", "com.docker.network.host_ipv4=192.0.2.9", "-o",
		"outbound-ip6=2001:db8::9", "web")
	n.ok("run", "-d", "--name", "a", "--network", "web", "bb", "sleep", "1000")
	n.ok("run", "-d", "--name", "b", "--network", "name=web,outbound-ip=192.0.2.10", "bb", "sleep", "1000")
	n.refuses(
		refusal{"run --rm --network name=web,outbound-ip=198.51.100.1 bb true", 125, `the host does not have`},
		refusal{"run --rm --network name=web,outbound-ip=::1 bb true", 125, `not an IPv4 address`},
		refusal{"network update -o outbound-ip=198.51.100.1 web", 1, `the host does not have`},
		refusal{"network update -o masquerade=false web", 1, `what leaves keeps its address`},
	)
	is(t, "the network's", from("a", "192.0.2.2")+from("a", "2001:db8::2"), "192.0.2.92001:db8::9")
	is(t, "the container's", from("b", "192.0.2.2")+from("b", "2001:db8::2"), "192.0.2.102001:db8::9")
	n.ok("network", "update", "-o", "outbound-ip=192.0.2.10", "web")
	is(t, "after an update", from("a", "192.0.2.2"), "192.0.2.10")
	n.ok("stop", "-t", "0", "b")
	n.ok("start", "b")
	is(t, "after a start", from("b", "192.0.2.2"), "192.0.2.10")
	n.ok("network", "update", "--opt-rm", "outbound-ip", "web")
	is(t, "without", from("a", "192.0.2.2"), "192.0.2.1")
	n.Sh("ip addr del 192.0.2.10/24 dev o0")
	matches(t, "net doctor", n.net("doctor").out, `192\.0\.2\.10, which "b" is to leave by`)
}

func TestConfigOnlyNetworks(t *testing.T) {
	n := withImage(t)
	n.ok("network", "create", "--config-only", "--subnet", "10.7.0.0/24", "--gateway", "10.7.0.254", "-o", "mtu=1400",
		"cfg")
	n.refuses(
		refusal{"run --rm --network cfg bb true", 125, `only holds the configuration of others.*--config-from cfg`},
		refusal{"network create --config-from cfg --subnet 10.8.0.0/24 web", 1, `subnets, families and options`},
	)
	n.ok("network", "create", "--config-from", "cfg", "web")
	is(t, "a container's way out", n.ok("run", "--rm", "--network", "web", "bb", "sh", "-c",
		"ip route | grep default; cat /sys/class/net/eth0/mtu"), "default via 10.7.0.254 dev eth0 onlink \n1400")
	is(t, "inspect", n.ok("network", "inspect", "-f", "{{.ConfigOnly}} {{.ConfigFrom.Network}} {{.Driver}} "+
		"{{range .IPAM.Config}}{{.Subnet}} {{.Gateway}}{{end}}", "cfg", "web"),
		"true  null 10.7.0.0/24 10.7.0.254\nfalse cfg bridge 10.7.0.0/24 10.7.0.254")
	n.restart()
	n.refuses(
		refusal{"network rm cfg", 1, `made from it is web; remove`},
		refusal{"network create --config-from cfg other", 1, `overlaps 10.7.0.0/24 of network "web"`},
	)
	n.ok("network", "rm", "web", "cfg")
}

// A container's rates are there after each start, and go with it.
func TestRatesOfAContainer(t *testing.T) {
	n := withImage(t)
	n.ok("network", "create", "--subnet", "10.7.0.0/24", "web")
	n.ok("network", "create", "--subnet", "10.8.0.0/24", "back")
	n.refuses(
		refusal{"run --rm --network name=web,rate-in=1 bb true", 125, `from 8kbit to 1000gbit`},
		refusal{"run --rm --network name=none,rate-in=1mbit bb true", 125, `link options cannot be chosen`},
	)
	queues := func() string {
		return n.Sh("tc qdisc show | grep -o 'tbf.* rate [^ ]*' | grep -o 'rate .*' | sort || true")
	}
	n.ok("run", "-d", "--name", "c", "--network", "name=web,rate-in=100mbit,rate-out=2.5gbit", "bb", "sleep", "1000")
	is(t, "queues", queues(), "rate 100Mbit\nrate 2500Mbit\n")
	n.ok("network", "connect", "--rate-out", "512kbit", "back", "c")
	is(t, "queues of both networks", queues(), "rate 100Mbit\nrate 2500Mbit\nrate 512Kbit\n")
	is(t, "net diff", n.ok("diff"), "")
	n.Sh("tc qdisc del dev $(tc qdisc show | grep -o 'vle-[0-9a-f]* root.*rate 100Mbit' | cut -d' ' -f1) root")
	n.eventually("the queue is back", func() bool { return queues() == "rate 100Mbit\nrate 2500Mbit\nrate 512Kbit\n" })
	n.restart()
	is(t, "net diff after a restart", n.ok("diff"), "")
	n.ok("stop", "-t", "0", "c")
	// Links go with their namespace, in the kernel's own time; tc says so when one does while it looks.
	n.eventually("the queues are gone", func() bool { return queues() == "" })
	n.ok("start", "c")
	is(t, "queues after a start", queues(), "rate 100Mbit\nrate 2500Mbit\nrate 512Kbit\n")
	n.ok("rm", "-f", "c")
	is(t, "links left", n.Sh("ip -o link show type ifb"), "")
}

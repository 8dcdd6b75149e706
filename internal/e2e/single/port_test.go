package single

import (
	"bufio"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vethloom/vethloom/internal/await"
)

// outside is a host that reaches the node at 192.0.2.1 and 2001:db8::1, and has these addresses of its own. It returns
// the path of its namespace.
func (n *node) outside(addrs ...string) string {
	n.t.Helper()
	host := exec.Command("unshare", "-n", "sh", "-c", "echo; exec sleep 1000")
	out, err := host.StdoutPipe()
	if err == nil {
		err = host.Start()
	}
	if err == nil {
		_, err = bufio.NewReader(out).ReadByte() // it has its namespace
	}
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() {
		n.Sh("ip link del o0")
		if err := host.Process.Kill(); err != nil {
			n.t.Error(err)
		}
		_ = host.Wait() // killed
	})
	n.Sh(fmt.Sprintf("ip link add o0 type veth peer name o1 netns %d && ip link set o0 up && "+
		"ip addr add 192.0.2.1/24 dev o0 && ip addr add 2001:db8::1/64 dev o0 nodad", host.Process.Pid))
	in := fmt.Sprintf("nsenter -t %d -n ", host.Process.Pid)
	for _, a := range addrs {
		nodad := ""
		if strings.Contains(a, ":") {
			nodad = " nodad"
		}
		n.Sh(in + "ip addr add " + a + " dev o1" + nodad)
	}
	n.Sh(in + "ip link set o1 up")
	path := fmt.Sprintf("/proc/%d/ns/net", host.Process.Pid)
	return path
}

// talk is a connection to a server that sends back what it gets.
type talk struct {
	net.Conn
	t *testing.T
}

// dial connects from an address of a namespace; nil when that fails.
func (n *node) dial(ns, from, to string) (*talk, error) {
	d := net.Dialer{Timeout: 2 * time.Second}
	if from != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	}
	var c net.Conn
	err := n.Do(ns, func() (err error) { c, err = d.DialContext(n.t.Context(), "tcp", to); return err })
	if err != nil {
		return nil, err
	}
	n.t.Cleanup(func() {
		_ = c.(*net.TCPConn).SetLinger(0) // what waits for the other end's word keeps its namespace
		c.Close()
	})
	return &talk{c, n.t}, nil
}

// talks connects, and sees that it is answered.
func (n *node) talks(ns, to string) *talk {
	n.t.Helper()
	var c *talk
	await.True(n.t, "an answer at "+to, func() bool {
		var err error
		if c, err = n.dial(ns, "", to); err != nil {
			return false
		}
		return c.echo() == nil
	})
	return c
}

// echo sends a line and reads it back.
func (c *talk) echo() error {
	c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := fmt.Fprintln(c, "still there"); err != nil {
		return err
	}
	line := make([]byte, len("still there\n"))
	for got := 0; got < len(line); {
		n, err := c.Read(line[got:])
		if err != nil {
			return err
		}
		got += n
	}
	return nil
}

func (c *talk) lives(what string) {
	c.t.Helper()
	if err := c.echo(); err != nil {
		c.t.Errorf("%s: the connection ended: %v", what, err)
	}
}

// ends waits until the connection is cut: connections are forgotten a moment after a change.
func (c *talk) ends(what string) {
	c.t.Helper()
	await.True(c.t, what+": its end", func() bool { return c.echo() != nil })
}

// echoServer answers on ports 80 and 81 of a container.
const echoServer = "nc -ll -p 80 -e cat & nc -ll -p 81 -e cat & wait"

func TestPortsOfARunningContainer(t *testing.T) {
	n := withImage(t)
	ns := n.outside("192.0.2.2/24", "2001:db8::2/64")
	n.ok("network", "create", "--ipv6", "--subnet", "10.7.0.0/24", "--subnet", "fd00:7::/64", "web")
	n.ok("run", "-d", "--name", "s", "--network", "web", "-p", "8080:80", "bb", "sh", "-c", echoServer)
	n.ok("run", "-d", "--name", "other", "--network", "web", "-p", "8090:80", "bb", "sleep", "1000")
	refused := func(at string) {
		t.Helper()
		if c, err := n.dial(ns, "", at); err == nil && c.echo() == nil {
			t.Errorf("%s answers", at)
		}
	}
	first := n.talks(ns, "192.0.2.1:8080")
	is(t, "added", n.ok("port", "add", "s", "-p", "8081:81", "-p", "[::]:8082:81"),
		"81/tcp -> 0.0.0.0:8081\n81/tcp -> [::]:8081\n81/tcp -> [::]:8082")
	second, third := n.talks(ns, "192.0.2.1:8081"), n.talks(ns, "[2001:db8::1]:8082")
	local := n.talks("", "127.0.0.1:8081")
	first.lives("ports were added")

	had := n.ok("port", "ls", "s")
	var l net.Listener
	if err := n.Do("", func() (err error) { l, err = net.Listen("tcp", "127.0.0.1:8091"); return err }); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	n.refuses(
		refusal{"port add s -p 8084:80 -p 8090:80", 1, `8090/tcp: taken by other on network web`},
		refusal{"port add s -p 8084:80 -p 8091:80", 1, `8091.*(taken|in use) by single\.test \(pid \d+\)`},
		refusal{"port add s 8080:81", 1, `"8080:81/tcp": container s publishes 8080:80/tcp already`},
		refusal{"port add s 8086:80 8086:81", 1, `publish each host port once`},
		refusal{"port rm s 8080:80 8099:80", 1, `"8099:80/tcp": container s does not publish it`},
		refusal{"port add nope 80", 1, `no such container`},
	)
	is(t, "after what was refused", n.ok("port", "ls", "s"), had)
	refused("192.0.2.1:8084")

	n.ok("port", "rm", "s", "8081:81")
	second.ends("by a removed port")
	local.ends("by a removed port, from the host")
	first.lives("another port was removed")
	third.lives("another port was removed")
	refused("192.0.2.1:8081")
	refused("[2001:db8::1]:8081")

	n.restart()
	first.lives("netd was killed")
	third.lives("netd was killed")
	n.ok("stop", "-t", "0", "s")
	is(t, "while it does not run", n.ok("port", "ls", "s", "--format", "{{.Port}} {{.Address}} {{.State}}"),
		"80/tcp 0.0.0.0:8080 waits for the start\n80/tcp [::]:8080 waits for the start\n"+
			"81/tcp [::]:8082 waits for the start")
	n.ok("port", "rm", "s", "80")
	n.ok("port", "add", "s", "8085:80")
	n.ok("start", "s")
	n.talks(ns, "192.0.2.1:8085")
	n.talks(ns, "[2001:db8::1]:8082")
	refused("192.0.2.1:8080")
	is(t, "all ports", n.ok("port", "ls", "-q"), "0.0.0.0:8090\n[::]:8090\n0.0.0.0:8085\n[::]:8085\n[::]:8082")
}

// Wherever netd is killed in a change of ports, the container's record and the kernel agree when it is back.
func TestPortsAreAsRecordedAfterACrash(t *testing.T) {
	n := withImage(t)
	n.ok("run", "-d", "--name", "s", "-p", "8080:80", "bb", "sh", "-c", echoServer)
	for i := range 8 {
		var change sync.WaitGroup
		change.Go(func() {
			if i%2 == 0 {
				n.net("port", "add", "s", "8081-8089:81-89")
			} else {
				n.net("port", "rm", "s", "8081-8089:81-89")
			}
		})
		time.Sleep(time.Duration(i) * 4 * time.Millisecond) // somewhere in it
		n.restart()
		change.Wait()
		keys := func(of string) string {
			return n.ok("inspect", "-f", "{{range $k, $v := ."+of+".Port"+map[string]string{"HostConfig": "Bindings",
				"NetworkSettings": "s"}[of]+"}}{{$k}} {{end}}", "s")
		}
		is(t, "published", keys("NetworkSettings"), keys("HostConfig"))
		is(t, "net diff", n.ok("diff"), "")
	}
	n.talks("", "127.0.0.1:8080")
}

// A port with sources answers these alone, of both families; to all others it is as one that is not published.
func TestPortsForSomeSources(t *testing.T) {
	n := withImage(t)
	ns := n.outside("192.0.2.2/24", "192.0.2.3/24", "2001:db8::2/64", "2001:db8::3/64")
	n.ok("network", "create", "--ipv6", "--subnet", "10.7.0.0/24", "--subnet", "fd00:7::/64", "web")
	n.ok("network", "create", "--subnet", "10.8.0.0/24", "back")
	n.ok("run", "-d", "--name", "s", "--network", "web", "-p", "8080:80,from=192.0.2.2,from=2001:db8::2/127",
		"--publish", "target=81,published=8081,from=192.0.2.0/24,from=10.8.0.0/16,from=127.0.0.0/8",
		"-p", "80-82:80-82,from=192.0.2.3", "-p", "8083:80", "bb", "sh", "-c", echoServer)
	n.ok("run", "-d", "--name", "peer", "--network", "back", "bb", "sleep", "1000")
	n.talks(ns, "192.0.2.1:8083") // the servers listen
	reach := func(what string, all map[string]string) {
		t.Helper()
		for way, want := range all {
			from, to, _ := strings.Cut(way, " ")
			in := ns
			if from == "host" {
				in, from = "", ""
			}
			got := "refused"
			if c, err := n.dial(in, from, to); err == nil && c.echo() == nil {
				got = "answered"
			}
			if got != want {
				t.Errorf("%s: %s is %s, want %s", what, way, got, want)
			}
		}
	}
	reach("at first", map[string]string{
		"192.0.2.2 192.0.2.1:8080": "answered", "192.0.2.3 192.0.2.1:8080": "refused",
		"2001:db8::2 [2001:db8::1]:8080": "answered", "2001:db8::3 [2001:db8::1]:8080": "answered",
		"192.0.2.2 192.0.2.1:8081": "answered", "192.0.2.3 192.0.2.1:8081": "answered",
		"2001:db8::2 [2001:db8::1]:8081": "refused", // none of IPv6 is named
		"192.0.2.2 192.0.2.1:81":         "refused", "192.0.2.3 192.0.2.1:81": "answered",
		"192.0.2.2 192.0.2.1:8083": "answered", "2001:db8::2 [2001:db8::1]:8083": "answered",
		"host 127.0.0.1:8080": "refused", "host 127.0.0.1:8081": "answered", "host [::1]:8081": "refused",
		"host 127.0.0.1:8083": "answered",
	})
	for port, want := range map[string]string{"8081": "0", "8080": "1"} {
		r := n.net("exec", "peer", "sh", "-c", "echo x | nc -w 2 192.0.2.1 "+port+" | grep -q x")
		is(t, "a container of another network at port "+port, fmt.Sprint(r.code), want)
	}
	is(t, "sources", n.ok("port", "ls", "s", "--format", "{{.Port}} {{.Address}} {{.From}}"),
		"80/tcp 0.0.0.0:8080 192.0.2.2/32,2001:db8::2/127\n80/tcp [::]:8080 192.0.2.2/32,2001:db8::2/127\n"+
			"80-82/tcp 0.0.0.0:80-82 192.0.2.3/32\n80-82/tcp [::]:80-82 192.0.2.3/32\n"+
			"80/tcp 0.0.0.0:8083 \n80/tcp [::]:8083 \n"+
			"81/tcp 0.0.0.0:8081 10.8.0.0/16,127.0.0.0/8,192.0.2.0/24\n"+
			"81/tcp [::]:8081 10.8.0.0/16,127.0.0.0/8,192.0.2.0/24")
	n.refuses(
		refusal{"port add s -p 8084:80,from=10.0.0.1/8", 1, `did you mean 10.0.0.0/8`},
		refusal{"port add s -p [::1]:8084:80,from=10.0.0.0/8", 1, `not of the family of the host address ::1`},
		refusal{"run --rm -p 8080:80,from=192.0.2.9 bb true", 125, `8080/tcp: taken by s`}, // one container a port
	)
	// Sources that are taken away are cut off; what they were is gone for others too.
	open := n.talks(ns, "192.0.2.1:8083")
	n.ok("port", "rm", "s", "8083:80")
	n.ok("port", "add", "s", "-p", "8083:80,from=192.0.2.3")
	open.ends("a connection of a source that is none any more")
	n.restart()
	reach("after a restart", map[string]string{
		"192.0.2.2 192.0.2.1:8083": "refused", "192.0.2.3 192.0.2.1:8083": "answered",
		"192.0.2.2 192.0.2.1:8080": "answered", "192.0.2.3 192.0.2.1:8080": "refused",
	})
	n.ok("stop", "-t", "0", "s")
	n.ok("start", "s")
	await.True(t, "it listens", func() bool {
		c, err := n.dial(ns, "192.0.2.3", "192.0.2.1:8083")
		return err == nil && c.echo() == nil
	})
	reach("after a start", map[string]string{
		"192.0.2.2 192.0.2.1:8083": "refused", "192.0.2.2 192.0.2.1:8080": "answered",
		"192.0.2.3 192.0.2.1:8080": "refused",
	})
}

// Where ten thousand ports are published, one more comes and goes as the first did.
func TestOneOfTenThousandPorts(t *testing.T) {
	n := withImage(t)
	ns := n.outside("192.0.2.2/24")
	n.ok("run", "-d", "--name", "s", "bb", "sh", "-c", echoServer)
	change := func(what string) {
		t.Helper()
		const rounds = 3
		var add, remove time.Duration
		for range rounds {
			start := time.Now()
			n.ok("port", "add", "s", "8080:80")
			add += time.Since(start)
			c := n.talks(ns, "192.0.2.1:8080")
			start = time.Now()
			n.ok("port", "rm", "s", "8080:80")
			remove += time.Since(start)
			c.ends(what)
		}
		t.Logf("%s: added in %v, removed in %v", what, add/rounds, remove/rounds)
	}
	change("alone")
	n.ok("run", "-d", "--name", "many", "-p", "0.0.0.0:20000-29999:30000-39999/udp", "bb", "sleep", "1000")
	change("beside 10000 of another container")
	start := time.Now()
	n.ok("port", "rm", "many", "30000-39999/udp")
	t.Logf("10000 removed in %v", time.Since(start))
	var single []string
	for i := range 10000 {
		single = append(single, fmt.Sprintf("0.0.0.0:%d:%d/udp", 20000+i, 30000+i))
	}
	start = time.Now()
	n.ok(append([]string{"port", "add", "many"}, single...)...)
	t.Logf("10000 single ones added in %v", time.Since(start))
	change("beside 10000 single ones of another container")
	start = time.Now()
	n.ok("port", "add", "many", "8081:81")
	n.ok("port", "rm", "many", "8081:81")
	t.Logf("one more of that container came and went in %v", time.Since(start))
}

// A port on an address that the host gets later waits for it, over a restart of netd too, and is nobody else's
// meanwhile.
func TestPortsThatWaitForAnAddress(t *testing.T) {
	n := withImage(t)
	ns := n.outside("192.0.2.2/24", "2001:db8::2/64")
	n.ok("network", "create", "--ipv6", "web")
	made := n.net("create", "--name", "s", "--network", "web", "-p", "192.0.2.77:8080:80",
		"-p", "[2001:db8::77]:8080:80", "bb", "nc", "-ll", "-p", "80", "-e", "cat")
	matches(t, "the warning", made.err, `(?s)no address 192\.0\.2\.77: .*waits.*no address 2001:db8::77`)
	n.ok("start", "s")
	states := func() string { return n.ok("port", "ls", "s", "--format", "{{.Address}} {{.State}}") }
	waiting := "192.0.2.77:8080 waits for the address\n[2001:db8::77]:8080 waits for the address"
	is(t, "without the address", states(), waiting)
	n.restart()
	is(t, "after a restart", states(), waiting)
	matches(t, "the same port again", n.net("run", "--rm", "-p", "192.0.2.77:8080:80", "bb", "true").err,
		`8080.*s`)
	n.Sh("ip addr add 192.0.2.77/24 dev o0; ip addr add 2001:db8::77/64 dev o0 nodad")
	is(t, "with the address", states(), "192.0.2.77:8080 published\n[2001:db8::77]:8080 published")
	for _, at := range []string{"192.0.2.77:8080", "[2001:db8::77]:8080"} {
		if err := n.talks(ns, at).echo(); err != nil {
			t.Errorf("%s: %v", at, err)
		}
	}
	n.Sh("ip addr del 192.0.2.77/24 dev o0; ip addr del 2001:db8::77/64 dev o0")
	is(t, "without it again", states(), waiting)
	is(t, "the difference", n.ok("diff"), "")
}

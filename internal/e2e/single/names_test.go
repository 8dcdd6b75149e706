package single

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/internal/descriptor"
	"github.com/vethloom/vethloom/internal/resolver/control"
)

// asks sends a question from a container's network stack to its resolver and returns the values of the answer, sorted,
// or the name of the code.
func (n *node) asks(container, name string, qtype uint16) string {
	n.t.Helper()
	r := n.exchange(container, "udp", "127.0.0.11:53", name, qtype)
	if r.Rcode != dns.RcodeSuccess {
		return dns.RcodeToString[r.Rcode]
	}
	var out []string
	for _, rr := range r.Answer {
		out = append(out, strings.TrimSpace(strings.TrimPrefix(rr.String(), rr.Header().String())))
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// exchange sends a question from a container's network stack; from the host's for "".
func (n *node) exchange(container, network, at, name string, qtype uint16) *dns.Msg {
	n.t.Helper()
	place := ""
	if container != "" {
		place = "/proc/" + n.ok("inspect", "-f", "{{.State.Pid}}", container) + "/ns/net"
	}
	r, err := n.exchangeIn(place, network, at, name, qtype)
	if err != nil {
		n.t.Fatalf("%s asks for %s: %v", container, name, err)
	}
	return r
}

func (n *node) exchangeIn(place, network, at, name string, qtype uint16) (r *dns.Msg, err error) {
	q := new(dns.Msg).SetQuestion(dns.Fqdn(name), qtype)
	err = n.Do(place, func() error {
		c := dns.Client{Net: network, Timeout: 5 * time.Second}
		conn, err := c.Dial(at)
		if err != nil {
			return err
		}
		defer conn.Close()
		r, _, err = c.ExchangeWithConn(q, conn)
		return err
	})
	return r, err
}

func (n *node) address(container, network string) string {
	n.t.Helper()
	return n.ok("inspect", "-f", "{{.NetworkSettings.Networks."+network+".IPAddress}}", container)
}

func TestNamesOfContainers(t *testing.T) {
	n := withImage(t)
	n.ok("network", "create", "--subnet", "10.7.0.0/24", "--subnet", "fd07::/64", "--ipv6", "front")
	n.ok("network", "create", "--subnet", "10.8.0.0/24", "back")
	db := n.ok("run", "-d", "--name", "db", "--network", "name=front,alias=store", "--hostname", "dbhost", "-p", "5432",
		"--expose", "9000/udp", "bb", "sleep", "1000")
	n.ok("run", "-d", "--name", "Web_1", "--network", "front", "bb", "sleep", "1000")
	n.ok("run", "-d", "--name", "far", "--network", "back", "bb", "sleep", "1000")
	at := n.address("db", "front")
	for name, want := range map[string]string{
		"db": at, "DB": at, "store": at, "dbhost": at, db[:12]: at, "db.front": at, "store.front": at,
		"web_1": "10.7.0.3",

		"far": "NXDOMAIN", "far.back": "NXDOMAIN", "nobody.front": "NXDOMAIN", "localhost": "127.0.0.1",
		"host.vethloom.internal": "10.7.0.1", "host.docker.internal": "10.7.0.1",
	} {
		is(t, "A of "+name, n.asks("Web_1", name, dns.TypeA), want)
	}
	is(t, "AAAA of db", n.asks("Web_1", "db", dns.TypeAAAA), "fd07::2")
	is(t, "MX of db", n.asks("Web_1", "db", dns.TypeMX), "")
	is(t, "PTR of db", n.asks("Web_1", "2.0.7.10.in-addr.arpa", dns.TypePTR), "db.front.")
	is(t, "PTR of nobody", n.asks("Web_1", "99.0.7.10.in-addr.arpa", dns.TypePTR), "NXDOMAIN")
	is(t, "SRV of db", n.asks("Web_1", "_5432._tcp.db", dns.TypeSRV), "0 0 5432 db.front.")
	is(t, "SRV of db", n.asks("Web_1", "_9000._udp.store", dns.TypeSRV), "0 0 9000 db.front.")
	is(t, "SRV of what is not served", n.asks("Web_1", "_81._tcp.db", dns.TypeSRV), "NXDOMAIN")
	tcp := n.exchange("Web_1", "tcp", "127.0.0.11:53", "db", dns.TypeA)
	is(t, "by TCP", fmt.Sprint(len(tcp.Answer)), "1")
	matches(t, "by the container's own program", n.ok("exec", "Web_1", "ping", "-4", "-qc1", "-W5", "db"),
		`^PING db \(10\.7`)

	// At the gateway, from the host and from a container, with the network's names alone.
	gw := n.exchange("", "udp", "10.7.0.1:53", "db", dns.TypeA)
	is(t, "at the gateway", fmt.Sprint(len(gw.Answer)), "1")
	gw = n.exchange("db", "tcp", "[fd07::1]:53", "web_1", dns.TypeAAAA)
	is(t, "at the gateway", fmt.Sprint(len(gw.Answer)), "1")

	// One name for several; a network that is shared comes first.
	n.ok("run", "-d", "--name", "a", "--network", "name=front,alias=app", "bb", "sleep", "1000")
	n.ok("run", "-d", "--name", "b", "--network", "name=front,alias=app", "bb", "sleep", "1000")
	both := []string{n.address("a", "front"), n.address("b", "front")}
	slices.Sort(both)
	is(t, "of a service", n.asks("db", "app", dns.TypeA), strings.Join(both, " "))
	n.ok("network", "connect", "back", "Web_1")
	is(t, "a network joined later", n.asks("Web_1", "far", dns.TypeA), n.address("far", "back"))
	n.ok("network", "disconnect", "back", "Web_1")
	is(t, "a network left", n.asks("Web_1", "far", dns.TypeA), "NXDOMAIN")

	n.ok("stop", "-t", "0", "db")
	is(t, "of what has stopped", n.asks("Web_1", "db", dns.TypeA), "NXDOMAIN")
	n.ok("start", "db")
	is(t, "of what was started again", n.asks("Web_1", "db", dns.TypeA), at)
	matches(t, "lookup", n.ok("dns", "lookup", "Web_1", "db"), `(?s)A: NOERROR.*10\.7\.0\.2.*front.*AAAA: NOERROR`)
	matches(t, "lookup at a network", n.ok("dns", "lookup", "front", at), `db\.front`)
	n.refuses(
		refusal{"dns lookup nobody db", 1, `"nobody": there is no such container and no such network`},
		refusal{"dns lookup db a..b", 1, `"a\.\.b": not a name of DNS`},
		refusal{"dns lookup db a -t WRONG", 1, `"WRONG": not a type`},
		refusal{"run --rm --dns-search a..b bb true", 125, `"a\.\.b": not a domain`},
		refusal{"run --rm --expose 0 bb true", 125, `expose "0"`},
	)
}

// A container's own server on port 53, and a resolv.conf of its own, are its own affair.
func TestNamesLeaveWhatIsTheUsers(t *testing.T) {
	n := withImage(t)
	n.ok("network", "create", "front")
	n.ok("run", "-d", "--name", "own", "--network", "front", "bb", "sh", "-c", "nc -ll -p 53 -e cat & exec sleep 1000")
	n.eventually("the container has port 53", func() bool {
		return strings.Contains(n.inside("own")("ss -Hltn"), ":53 ")
	})
	is(t, "beside the container's own server", n.asks("own", "own", dns.TypeA), n.address("own", "front"))
	matches(t, "resolv.conf", n.ok("run", "--rm", "--network", "front", "--dns-search", "corp.example", "--dns-option",
		"timeout:1", "bb", "cat", "/etc/resolv.conf"),
		`^nameserver 127.0.0.11\nsearch corp.example\noptions .*timeout:1 ndots:0$`)
	mine := filepath.Join(n.root, "resolv.conf")
	if err := os.WriteFile(mine, []byte("nameserver 192.0.2.53\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	is(t, "a file of the user's", n.ok("run", "--rm", "--network", "front", "-v", mine+":/etc/resolv.conf", "bb", "cat",
		"/etc/resolv.conf"), "nameserver 192.0.2.53")
	is(t, "on no network", n.ok("run", "--rm", "--network", "none", "bb", "sh", "-c",
		"nslookup own | grep -c NXDOMAIN"), "2")
}

// resolver is the process that answers.
func (n *node) resolver() int {
	n.t.Helper()
	var pid int
	text := n.Sh("sed -n 's/.*\"pid\":\\([0-9]*\\).*/\\1/p' " + n.RunDir + "/resolver.pid")
	if _, err := fmt.Sscan(text, &pid); err != nil {
		n.t.Fatalf("resolver.pid: %q: %v", text, err)
	}
	return pid
}

// controlSocket is what a resolver is started with, and its place.
func controlSocket(t *testing.T) (place string, socket *os.File) {
	t.Helper()
	place = filepath.Join(t.TempDir(), "sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: place, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	if socket, err = l.File(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { socket.Close() })
	return place, socket
}

// A resolver of a netd that was killed before it had noted the process ends: nobody could end it when it hangs.
func TestAResolverThatNobodyHasNoted(t *testing.T) {
	place, socket := controlSocket(t)
	wait, noted, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer wait.Close()
	cmd := exec.CommandContext(t.Context(), program(t, "net-resolver"), "--place", place, "--wait")
	cmd.ExtraFiles = []*os.File{socket, wait}
	var out strings.Builder
	cmd.Stderr = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	noted.Close()
	if err := cmd.Wait(); err == nil {
		t.Error("it works")
	}
	matches(t, "it ends", out.String(), `wait for netd: EOF`)
}

// A resolver that has no descriptor left, as those who flood it may see to, goes on, and netd reaches it after that.
func TestAResolverWithoutDescriptors(t *testing.T) {
	place, socket := controlSocket(t)
	const limit = 40
	cmd := exec.CommandContext(t.Context(), "sh", "-c", fmt.Sprintf(`ulimit -n %d; exec "$0" --place "$1"`, limit),
		program(t, "net-resolver"), place)
	cmd.ExtraFiles = []*os.File{socket}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	var conns []*descriptor.Conn
	for range 2 * limit {
		conn, err := descriptor.Dial(place)
		if err == nil {
			err = conn.Send(control.Request{Hello: &control.Hello{Version: control.Version}})
		}
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conns = append(conns, conn)
	}
	answers := func(conn *descriptor.Conn) {
		t.Helper()
		var a control.Answer
		if err := conn.SetDeadline(time.Now().Add(await.Patience)); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Receive(&a); err != nil || a.Hello == nil {
			t.Fatalf("it says %+v: %v", a, err)
		}
	}
	for i, conn := range conns { // all have been taken before that there are descriptors for
		answers(conn)
		if i >= limit/2 {
			conns[i-limit/2].Close()
		}
	}
}

// Names are answered whoever is killed, by the same sockets.
func TestNamesSurvive(t *testing.T) {
	n := withImage(t)
	n.ok("network", "create", "--subnet", "10.7.0.0/24", "front")
	n.ok("run", "-d", "--name", "db", "--network", "front", "bb", "sleep", "1000")
	n.ok("run", "-d", "--name", "web", "--network", "front", "bb", "sleep", "1000")
	place := "/proc/" + n.ok("inspect", "-f", "{{.State.Pid}}", "web") + "/ns/net"
	answers := func() bool {
		r, err := n.exchangeIn(place, "udp", "127.0.0.11:53", "db", dns.TypeA)
		return err == nil && len(r.Answer) == 1
	}
	sockets := func() string { return n.inside("web")("ss -Hlnu -e | grep -o 'ino:[0-9]*'") }
	before := sockets()
	if matches(t, "who answers", n.Sh(fmt.Sprintf("ps -o user= -p %d; grep -E 'CapEff|NoNewPrivs' /proc/%[1]d/status; "+
		"grep 'file size' /proc/%[1]d/limits", n.resolver())),
		`(?s)nobody.*CapEff:\s+0000000000000000.*NoNewPrivs:\s+1.*file size\s+1048576\s+1048576`); t.Failed() {
		return
	}
	for range 3 {
		old := n.resolver()
		if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		// What is asked meanwhile waits in the socket.
		if !answers() {
			t.Error("no answer after the resolver was killed")
		}
		await.True(t, "another resolver", func() bool { return n.resolver() != old })
	}
	is(t, "the sockets", sockets(), before)

	// A resolver that hangs is replaced by the next change.
	hung := n.resolver()
	if err := syscall.Kill(hung, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	n.ok("run", "-d", "--name", "late", "--network", "front", "bb", "sleep", "1000")
	await.True(t, "another resolver", func() bool { return n.resolver() != hung && answers() })
	is(t, "of the container that came meanwhile", n.asks("web", "late", dns.TypeA), n.address("late", "front"))

	// netd killed and stopped: the same process answers, and is taken up again.
	pid := n.resolver()
	if err := n.netd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-n.gone
	if !answers() {
		t.Error("no answer while netd is away")
	}
	n.start()
	is(t, "the resolver", fmt.Sprint(n.resolver()), fmt.Sprint(pid))
	is(t, "the difference", n.ok("diff"), "")
	if err := n.netd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-n.gone
	if !answers() {
		t.Error("no answer while netd is stopped")
	}
	// Both away: what is left of the sockets goes with them, and netd makes all of it again.
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	n.start()
	if !answers() {
		t.Error("no answer after both were away")
	}
	is(t, "the difference", n.ok("diff"), "")

	// A program in the container that flushes its rules harms itself until the next pass.
	n.inside("web")("nft flush ruleset")
	n.restart()
	if !answers() {
		t.Error("no answer after a container has flushed its rules")
	}
}

// upstream is a server that answers A of every name below example.org, and counts what it is asked.
type upstream struct {
	mu    sync.Mutex
	asked []string
	stops []func()
}

// serveAt starts an upstream at an address in a namespace.
func (n *node) serveAt(place, at string) *upstream {
	n.t.Helper()
	u := &upstream{}
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		u.mu.Lock()
		u.asked = append(u.asked, q.Question[0].Name)
		u.mu.Unlock()
		r := new(dns.Msg).SetReply(q)
		if strings.HasSuffix(q.Question[0].Name, ".example.org.") && q.Question[0].Qtype == dns.TypeA {
			rr, err := dns.NewRR(q.Question[0].Name + " 60 IN A 198.51.100.7")
			if err == nil {
				r.Answer = append(r.Answer, rr)
			}
		} else {
			r.Rcode = dns.RcodeNameError
		}
		_ = w.WriteMsg(r)
	})
	err := n.Do(place, func() error {
		pc, err := net.ListenPacket("udp", at)
		if err != nil {
			return err
		}
		l, err := net.Listen("tcp", at)
		if err != nil {
			pc.Close()
			return err
		}
		for _, s := range []*dns.Server{{PacketConn: pc, Handler: handler}, {Listener: l, Handler: handler}} {
			done := make(chan struct{})
			started := make(chan struct{})
			s.NotifyStartedFunc = func() { close(started) }
			go func() {
				defer close(done)
				_ = s.ActivateAndServe()
			}()
			<-started
			u.stops = append(u.stops, func() { _ = s.Shutdown(); <-done })
		}
		return nil
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return u
}

func (u *upstream) stop() {
	for _, f := range u.stops {
		f()
	}
}

func (u *upstream) was(name string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Contains(u.asked, dns.Fqdn(name))
}

func TestNamesFromElsewhere(t *testing.T) {
	resolv := filepath.Join(t.TempDir(), "resolv.conf")
	write := func(text string) { // as editors and DHCP clients do
		next := resolv + ".new"
		if err := os.WriteFile(next, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(next, resolv); err != nil {
			t.Fatal(err)
		}
	}
	write("nameserver 127.0.0.53\nsearch corp.example\noptions ndots:5 edns0\n")
	if err := os.Chmod(filepath.Dir(resolv), 0o755); err != nil {
		t.Fatal(err)
	}
	n := withImage(t, "--resolv-conf", resolv)
	stub := n.serveAt("", "127.0.0.53:53")
	defer stub.stop()
	n.ok("network", "create", "--subnet", "10.7.0.0/24", "front")
	n.ok("network", "create", "--internal", "inside")
	n.ok("run", "-d", "--name", "web", "--network", "front", "bb", "sleep", "1000")
	n.ok("run", "-d", "--name", "shut", "--network", "inside", "bb", "sleep", "1000")
	is(t, "by the host's stub on loopback", n.asks("web", "www.example.org", dns.TypeA), "198.51.100.7")
	is(t, "resolv.conf", n.ok("exec", "web", "cat", "/etc/resolv.conf"),
		"nameserver 127.0.0.11\nsearch corp.example\noptions edns0 ndots:0")
	is(t, "from an internal network", n.asks("shut", "leak.example.org", dns.TypeA), "NXDOMAIN")
	is(t, "from no network", n.ok("run", "--rm", "--network", "none", "bb", "sh", "-c",
		"nslookup -type=a leak.example.org | grep -c NXDOMAIN"), "1")
	n.ok("run", "-d", "--name", "gone", "--network", "front", "bb", "sleep", "1000")
	is(t, "while it runs", n.asks("web", "gone", dns.TypeAAAA), "")
	n.ok("rm", "-f", "gone")
	is(t, "ours, no more", n.asks("web", "gone", dns.TypeA), "NXDOMAIN")
	is(t, "below our network's name", n.asks("web", "gone.front", dns.TypeA), "NXDOMAIN")
	for _, name := range []string{"gone", "gone.front", "leak.example.org", "web"} {
		if stub.was(name) {
			t.Errorf("%s was asked for elsewhere", name)
		}
	}
	// A change of the host's file is followed, a server in the sandbox's own network asked from there.
	other := n.serveAt("", "127.0.0.54:53")
	defer other.stop()
	write("nameserver 127.0.0.54\n")
	n.eventually("the new server is asked", func() bool {
		n.asks("web", fmt.Sprintf("q%d.example.org", time.Now().UnixNano()), dns.TypeA)
		other.mu.Lock()
		defer other.mu.Unlock()
		return len(other.asked) > 0
	})
	n.ok("run", "-d", "--name", "server", "--network", "front", "bb", "sleep", "1000")
	pid := n.ok("inspect", "-f", "{{.State.Pid}}", "server")
	at := netip.MustParseAddr(n.address("server", "front"))
	own := n.serveAt("/proc/"+pid+"/ns/net", netip.AddrPortFrom(at, 53).String())
	defer own.stop()
	n.ok("run", "-d", "--name", "picky", "--network", "front", "--dns", at.String(), "bb", "sleep", "1000")
	is(t, "by a server of its own", n.asks("picky", "mine.example.org", dns.TypeA), "198.51.100.7")
	is(t, "names of ours", n.asks("picky", "web", dns.TypeA), n.address("web", "front"))
	if !own.was("mine.example.org") || other.was("mine.example.org") {
		t.Error("the container's own server was not asked, or the host's was")
	}
	matches(t, "lookup", n.ok("dns", "lookup", "shut", "www.example.org", "-t", "A"), `NXDOMAIN\n.*internal`)
	write("")
	n.eventually("no server is an error at once", func() bool {
		return n.asks("web", fmt.Sprintf("q%d.example.org", time.Now().UnixNano()), dns.TypeA) == "SERVFAIL"
	})
}

package single

import (
	"crypto/sha256"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vethloom/vethloom/internal/await"
)

// stream is a connection to a server that sends back what it gets, with as much on its way as fits.
type stream struct {
	t          *testing.T
	c          *net.TCPConn
	sent, back hash.Hash
	got        atomic.Int64
	stop       chan struct{}
	running    sync.WaitGroup
}

func (n *node) stream(ns, to string) *stream {
	n.t.Helper()
	s := &stream{t: n.t, c: n.talks(ns, to).Conn.(*net.TCPConn), sent: sha256.New(), back: sha256.New(),
		stop: make(chan struct{})}
	if err := s.c.SetDeadline(time.Time{}); err != nil {
		n.t.Fatal(err)
	}
	s.running.Go(s.write)
	s.running.Go(func() {
		if _, err := io.Copy(s, s.c); err != nil {
			n.t.Errorf("read what comes back: %v", err)
		}
	})
	return s
}

// Write takes what comes back.
func (s *stream) Write(b []byte) (int, error) {
	s.got.Add(int64(len(b)))
	return s.back.Write(b)
}

func (s *stream) write() {
	random := rand.NewChaCha8([32]byte{1})
	b := make([]byte, 32<<10)
	for {
		select {
		case <-s.stop:
			if err := s.c.CloseWrite(); err != nil {
				s.t.Errorf("end the stream: %v", err)
			}
			return
		default:
		}
		random.Read(b)
		s.sent.Write(b)
		if _, err := s.c.Write(b); err != nil {
			s.t.Errorf("send: %v", err)
			return
		}
	}
}

// flows waits until more has come back than was on its way.
func (s *stream) flows(what string) {
	s.t.Helper()
	had := s.got.Load()
	await.True(s.t, what+": more comes back", func() bool { return s.got.Load() > had+32<<20 })
}

// whole ends the stream and sees that all of it has come back.
func (s *stream) whole() {
	s.t.Helper()
	close(s.stop)
	s.running.Wait()
	if string(s.sent.Sum(nil)) != string(s.back.Sum(nil)) {
		s.t.Errorf("of the stream something is lost: %d bytes came back", s.got.Load())
	}
}

// Everything that can change in place does, under streams that go through it all.
func TestNetworkUpdateUnderTraffic(t *testing.T) {
	n := withImage(t)
	ns := n.outside("192.0.2.2/24", "2001:db8::2/64")
	n.ok("network", "create", "--ipv6", "--subnet", "10.7.0.0/24", "--subnet", "fd00:7::/64", "web")
	n.ok("run", "-d", "--name", "s", "--network", "web", "-p", "8080:80", "bb", "nc", "-ll", "-p", "80", "-e", "cat")
	n.ok("run", "-d", "--name", "c", "--network", "web", "bb", "sleep", "1000")
	c, s := n.inside("c"), n.inside("s")
	pid := n.ok("inspect", "-f", "{{.State.Pid}}", "c")
	streams := []*stream{n.stream(ns, "192.0.2.1:8080"), n.stream("/proc/"+pid+"/ns/net", "10.7.0.2:80")}
	link := n.ok("network", "inspect", "-f", "{{.Link}}", "web")
	mtu := func(want string) func() {
		return func() {
			t.Helper()
			for who, out := range map[string]string{"the server": s("ip link show eth0"), "the client": c(
				"ip link show eth0"), "the bridge": n.Sh("ip link show " + link)} {
				matches(t, "the MTU of "+who, out, "mtu "+want+" ")
			}
		}
	}
	for _, u := range []struct {
		args  string
		check func()
	}{
		{"--label tier=front", nil},
		{"-o mtu=1400", mtu("1400")},
		{"-o com.docker.network.driver.mtu=9000", mtu("9000")},
		{"--opt-rm mtu", mtu("1500")},
		{"-o source-validation=false", func() {
			is(t, "guarded ports", n.Sh("nft list set bridge vethloom guarded | grep -c vle- || true"), "0\n")
		}},
		{"-o source-validation=true", nil},
		{"-o masquerade=false", nil},
		{"--opt-rm masquerade", nil},
		{"-o gateway-mode=routed", func() {
			n.Run("nsenter", "--net="+ns, "ip", "route", "add", "10.7.0.0/24", "via", "192.0.2.1")
			n.talks(ns, "10.7.0.2:80")
		}},
		{"--opt-rm gateway-mode", nil},
		{"-o routes=198.51.100.0/24,via=10.7.0.9", func() {
			matches(t, "a static route", c("ip route show 198.51.100.0/24"), "via 10.7.0.9 dev eth0")
		}},
		{"--opt-rm routes", func() { is(t, "no static route", c("ip route show 198.51.100.0/24"), "") }},
		{"-o outbound-ip=192.0.2.1", nil},
		{"--opt-rm outbound-ip", nil},
	} {
		n.ok(append(append([]string{"network", "update"}, strings.Fields(u.args)...), "web")...)
		is(t, u.args+": net diff", n.ok("diff"), "")
		for _, s := range streams {
			s.flows(u.args)
		}
		if u.check != nil {
			u.check()
		}
	}
	n.refuses(
		refusal{"network update -o bridge-name=br9 web", 1, `option "bridge-name": cannot change.*another network`},
		refusal{"network update -o gateway-mode=isolated web", 1, `without a gateway nothing leaves`},
		refusal{"network update -o mtu=1 web", 1, `mtu="1": want a number of bytes`},
		refusal{"network update --internal web", 1, `s: port 8080:80/tcp cannot be published: the network is internal`},
		refusal{"network update -o nothing=1 web", 1, `unknown option "nothing"`},
		refusal{"network update -o mtu=1400 none", 1, `only the labels can change`},
	)
	for _, s := range streams {
		s.flows("after refusals")
		s.whole()
	}
}

// What an update means for those who come after it: neighbours, ports and the way out.
func TestNetworkUpdateTakesEffect(t *testing.T) {
	n := withImage(t)
	ns := n.outside("192.0.2.2/24", "2001:db8::2/64")
	n.ok("network", "create", "--subnet", "10.7.0.0/24", "web")
	n.ok("run", "-d", "--name", "s", "--network", "web", "-p", "8080:80", "bb", "nc", "-ll", "-p", "80", "-e", "cat")
	n.ok("run", "-d", "--name", "c", "--network", "web", "bb", "sleep", "1000")
	answers := func(from, to string) bool {
		c, err := n.dial(from, "", to)
		return err == nil && c.echo() == nil
	}
	inside := "/proc/" + n.ok("inspect", "-f", "{{.State.Pid}}", "c") + "/ns/net"
	n.talks(inside, "10.7.0.2:80")
	n.talks(ns, "192.0.2.1:8080")
	n.ok("network", "update", "-o", "icc=false", "web")
	if answers(inside, "10.7.0.2:80") {
		t.Error("with icc=false neighbours still reach each other")
	}
	n.ok("network", "update", "--opt-rm", "icc", "-o", "host-binding=127.0.0.1", "web")
	n.talks(inside, "10.7.0.2:80")
	if answers(ns, "192.0.2.1:8080") {
		t.Error("a port that is published on 127.0.0.1 alone answers others")
	}
	n.talks("", "127.0.0.1:8080")
	is(t, "net port", n.ok("port", "s"), "80/tcp -> 127.0.0.1:8080")
	n.Sh("ip addr add 192.0.2.7/24 dev o0")
	var taken net.Listener
	err := n.Do("", func() (err error) { taken, err = net.Listen("tcp", "192.0.2.7:8080"); return err })
	if err != nil {
		t.Fatal(err)
	}
	n.refuses(refusal{"network update -o host-binding=192.0.2.7 web", 1, `192.0.2.7:8080.*(in use|taken)`})
	n.talks("", "127.0.0.1:8080")
	if err := taken.Close(); err != nil {
		t.Error(err)
	}
	is(t, "net diff", n.ok("diff"), "")
	n.ok("network", "update", "--opt-rm", "host-binding", "web")
	n.talks(ns, "192.0.2.1:8080")

	n.ok("port", "rm", "s", "80")
	n.ok("network", "update", "--internal", "web")
	is(t, "an internal network's default route", n.inside("c")("ip route show default"), "")
	n.ok("network", "create", "--subnet", "10.8.0.0/24", "front")
	n.ok("network", "connect", "front", "s")
	n.ok("port", "add", "s", "-p", "8080:80")
	n.ok("network", "disconnect", "front", "s") // the port waits
	n.ok("network", "update", "--internal=false", "web")
	n.talks(ns, "192.0.2.1:8080")
	matches(t, "the default route", n.inside("c")("ip route show default"), `^default via 10\.7\.0\.1 dev eth0 `)
	is(t, "net diff", n.ok("diff"), "")
	n.restart()
	n.talks(ns, "192.0.2.1:8080")
}

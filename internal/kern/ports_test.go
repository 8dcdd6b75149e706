package kern_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/vethloom/vethloom/internal/kern/kerntest"
	"github.com/vethloom/vethloom/plan"
)

func held(scope plan.Owner, ip string, proto plan.L4, from, to uint16) plan.State {
	return plan.State{Ports: []plan.PortReservation{{Owner: scope, Addr: addr(ip), Proto: proto, From: from, To: to}}}
}

func TestHeldPortsAreTaken(t *testing.T) {
	env := kerntest.New(t)
	k := open(t, env)
	want := plan.Union(
		held("endpoint/1", "0.0.0.0", plan.TCP, 8000, 8003),
		held("endpoint/1", "::", plan.TCP, 8000, 8003),
		held("endpoint/1", "127.0.0.1", plan.UDP, 5300, 5300))
	converge(t, k, want)
	settled(t, k, want)
	for _, a := range []string{"127.0.0.1:8000", "0.0.0.0:8003", "[::1]:8002"} {
		l, err := net.Listen("tcp", a) // with SO_REUSEADDR, as most servers
		if err == nil {
			l.Close()
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("listen on %s: %v; want it to be taken", a, err)
		}
	}
	if c, err := net.ListenPacket("udp", "127.0.0.1:5300"); !errors.Is(err, syscall.EADDRINUSE) {
		c.Close()
		t.Errorf("a held UDP port can be bound: %v", err)
	}
	// A range that grows lets go of what it had first.
	more := held("endpoint/1", "0.0.0.0", plan.TCP, 8001, 8009)
	converge(t, k, more)
	settled(t, k, more)
	l, err := net.Listen("tcp", "127.0.0.1:8000")
	if err != nil {
		t.Fatalf("a released port: %v", err)
	}
	l.Close()
}

func TestTakenPortFails(t *testing.T) {
	env := kerntest.New(t)
	k := open(t, env)
	l, err := net.Listen("tcp", "127.0.0.1:8080") // with SO_REUSEADDR
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	want := held("endpoint/1", "0.0.0.0", plan.TCP, 8078, 8081)
	err = k.Apply(context.Background(), plan.Diff(want, plan.State{}))
	if !errors.Is(err, plan.ErrPortTaken) {
		t.Fatalf("error %v; want the port to be taken", err)
	}
	for _, part := range []string{"0.0.0.0:8080", "tcp", fmt.Sprintf("pid %d", os.Getpid())} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q does not say %q", err, part)
		}
	}
	settled(t, k, plan.State{})
	below, err := net.Listen("tcp", "127.0.0.1:8078")
	if err != nil {
		t.Fatalf("a port of the range is still bound: %v", err)
	}
	below.Close()

	first := held("endpoint/1", "127.0.0.1", plan.TCP, 9000, 9000)
	converge(t, k, first)
	second := held("endpoint/2", "0.0.0.0", plan.TCP, 9000, 9000)
	err = k.Apply(context.Background(), plan.Diff(plan.Union(first, second), first))
	if !errors.Is(err, plan.ErrPortTaken) || !strings.Contains(err.Error(), "endpoint/1") {
		t.Errorf("error %v; want it to name the owner", err)
	}
	// One on an address that the host may get later is held, of both families.
	later := plan.Union(held("endpoint/3", "192.0.2.1", plan.TCP, 9001, 9001),
		held("endpoint/3", "2001:db8::1", plan.UDP, 9001, 9001))
	converge(t, k, plan.Union(first, later))
	twice := plan.Union(later, held("endpoint/4", "192.0.2.1", plan.TCP, 9001, 9001))
	err = k.Apply(context.Background(), plan.Diff(twice, later))
	if !errors.Is(err, plan.ErrPortTaken) {
		t.Errorf("held twice: %v", err)
	}
}

func TestTimeWaitIsNoConflict(t *testing.T) {
	env := kerntest.New(t)
	k := open(t, env)
	l, err := net.Listen("tcp", "127.0.0.1:8080")
	if err != nil {
		t.Fatal(err)
	}
	client, err := net.Dial("tcp", "127.0.0.1:8080")
	if err != nil {
		t.Fatal(err)
	}
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	server.Close() // the side that closes first stays in TIME-WAIT
	buf := make([]byte, 1)
	if _, err := client.Read(buf); err == nil {
		t.Error("read from a closed connection")
	}
	client.Close()
	l.Close()
	if out := env.Run("ss", "-tan"); !strings.Contains(out, "TIME-WAIT") {
		t.Fatalf("no connection in TIME-WAIT:\n%s", out)
	}
	want := held("endpoint/1", "0.0.0.0", plan.TCP, 8080, 8080)
	converge(t, k, want)
	if l, err := net.Listen("tcp", "127.0.0.1:8080"); err == nil {
		l.Close()
		t.Error("the held port can be listened on")
	}
}

func TestDynamicPorts(t *testing.T) {
	env := kerntest.New(t)
	k := open(t, env)
	env.Sh("echo 30000 40000 > /proc/sys/net/ipv4/ip_local_port_range; echo 50000,60000-60010 > " +
		"/proc/sys/net/ipv4/ip_local_reserved_ports")
	got, err := k.DynamicPorts()
	if err != nil {
		t.Fatal(err)
	}
	if text := fmt.Sprint(got); text != "[{60011 65535} {50001 59999} {40001 49999} {20000 29999}]" {
		t.Error(text)
	}
}

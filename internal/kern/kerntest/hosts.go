package kerntest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"
)

// Hosts are a client, a host and a container in namespaces of their own, the host being the
// test's. The container is on a bridge; the host forwards.
type Hosts struct {
	t         *testing.T
	env       *Env
	Client    string // path of the namespace
	Container string
	pids      [2]string
}

// The addresses of [Hosts].
const (
	HostAddr4, HostAddr6     = "192.0.2.1", "2001:db8::1"
	ClientAddr4, ClientAddr6 = "192.0.2.2", "2001:db8::2"
	BridgeAddr4, BridgeAddr6 = "10.1.0.1", "fd00:1::1"
	BoxAddr4, BoxAddr6       = "10.1.0.2", "fd00:1::2"
)

// NewHosts makes them in the namespace of a test.
func NewHosts(t *testing.T, env *Env) *Hosts {
	t.Helper()
	f := &Hosts{t: t, env: env}
	f.pids = [2]string{namespace(t), namespace(t)}
	f.Client, f.Container = "/proc/"+f.pids[0]+"/ns/net", "/proc/"+f.pids[1]+"/ns/net"
	env.Sh(strings.NewReplacer("CLIENT", f.pids[0], "BOX", f.pids[1]).Replace(`
		echo 1 > /proc/sys/net/ipv4/ip_forward
		echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
		for c in iptables ip6tables arptables; do
			if [ -e /proc/sys/net/bridge/bridge-nf-call-$c ]; then echo 0 > /proc/sys/net/bridge/bridge-nf-call-$c; fi
		done
		ip link add wan type veth peer name eth0 netns CLIENT
		ip addr add 192.0.2.1/24 dev wan
		ip addr add 2001:db8::1/64 dev wan nodad
		ip link set wan up
		ip link add vlb-3f2a type bridge
		ip addr add 10.1.0.1/16 dev vlb-3f2a
		ip addr add fd00:1::1/64 dev vlb-3f2a nodad
		ip link set vlb-3f2a up
		echo 1 > /proc/sys/net/ipv4/conf/vlb-3f2a/route_localnet
		ip -6 route add local ::1 dev vlb-3f2a table local metric 4096
		ip link add vle-91bc master vlb-3f2a type veth peer name eth0 address 02:42:0a:01:00:02 netns BOX
		ip link set vle-91bc up
		bridge link set dev vle-91bc hairpin on`))
	f.In(f.Client, `
		ip link set lo up
		ip addr add 192.0.2.2/24 dev eth0
		ip addr add 2001:db8::2/64 dev eth0 nodad
		ip link set eth0 up
		ip route add 10.1.0.0/16 via 192.0.2.1`)
	f.In(f.Container, `
		ip link set lo up
		ip addr add 10.1.0.2/16 dev eth0
		ip addr add fd00:1::2/64 dev eth0 nodad
		ip link set eth0 up
		ip route add default via 10.1.0.1
		ip -6 route add default via fd00:1::1`)
	t.Cleanup(func() { env.Sh("ip link del wan; ip link del vle-91bc; ip link del vlb-3f2a") })

	return f
}

// Env is the host's.
func (f *Hosts) Env() *Env { return f.env }

// In runs a script in a namespace.
func (f *Hosts) In(ns, script string) string {
	f.t.Helper()
	return f.env.Run("nsenter", "--net="+ns, "sh", "-ec", script)
}

// Serve answers on a port in a namespace, until the test ends: each connection
// and each datagram with the address it came from.
func (f *Hosts) Serve(ns string, port int) {
	f.t.Helper()
	var tcp net.Listener
	var udp net.PacketConn
	err := f.env.Do(ns, func() (err error) {
		if tcp, err = net.Listen("tcp", fmt.Sprintf("[::]:%d", port)); err != nil {
			return err
		}
		udp, err = net.ListenPacket("udp", fmt.Sprintf("[::]:%d", port))
		return err
	})
	if err != nil {
		f.t.Fatal(err)
	}
	var done sync.WaitGroup
	f.t.Cleanup(func() {
		if err := errors.Join(tcp.Close(), udp.Close()); err != nil {
			f.t.Error(err)
		}
		done.Wait()
	})
	done.Go(func() {
		for {
			c, err := tcp.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, PlainAddr(c.RemoteAddr()))
			c.Close()
		}
	})
	done.Go(func() {
		buf := make([]byte, 64)
		for {
			_, from, err := udp.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = udp.WriteTo([]byte(PlainAddr(from)), from) // a lost answer fails the test that waits for it
		}
	})
}

// PlainAddr is an address without its port, its zone and the form that sockets of both families have.
func PlainAddr(a net.Addr) string {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return err.Error()
	}
	return ap.Addr().Unmap().WithZone("").String()
}

// Ask connects from a namespace and returns what the server says: who it saw.
func (f *Hosts) Ask(ns, network, addr string, wait time.Duration) (answer string, err error) {
	ctx, cancel := context.WithTimeout(f.t.Context(), wait)
	defer cancel()
	err = f.env.Do(ns, func() error {
		var d net.Dialer
		c, err := d.DialContext(ctx, network, addr)
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(wait)); err != nil {
			return err
		}
		if network == "udp" {
			if _, err := c.Write([]byte("?")); err != nil {
				return err
			}
		}
		buf := make([]byte, 64)
		n, err := c.Read(buf)
		answer = string(buf[:n])
		return err
	})
	return answer, err
}

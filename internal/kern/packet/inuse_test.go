package packet_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/internal/kern/kerntest"
	"github.com/vethloom/vethloom/internal/kern/packet"
	"github.com/vethloom/vethloom/plan"
)

const farMAC = "02:00:00:00:00:0f"

// twoHosts are two namespaces with a link between them. The test is in the first, whose link has no address.
func twoHosts(t *testing.T) (here, far *kerntest.Env) {
	t.Helper()
	far = kerntest.New(t)
	here = kerntest.New(t)
	here.Sh(fmt.Sprintf("ip link add lan0 address 02:00:00:00:00:01 type veth peer name lan0 address %s netns "+
		"/proc/%d/fd/%d; ip link set lan0 up", farMAC, os.Getpid(), far.NetNS()))
	t.Cleanup(func() { here.Sh("ip link del lan0") })
	far.Sh("ip link set lan0 up; ip addr add 192.0.2.9/24 dev lan0; ip -6 addr add 2001:db8::9/64 dev lan0 nodad")
	return here, far
}

func addrs(text ...string) []netip.Addr {
	var out []netip.Addr
	for _, a := range text {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

func inUse(t *testing.T, env *kerntest.Env, addrs ...netip.Addr) map[netip.Addr]plan.MAC {
	t.Helper()
	used, err := packet.InUse(t.Context(), env.NetNS(), "lan0", addrs)
	if err != nil {
		t.Fatal(err)
	}
	return used
}

// The kernel of another host answers for what it has, in both families, and for nothing else. The link that asks may be
// without IPv6, and have links on it that take all that comes.
func TestInUse(t *testing.T) {
	for name, setup := range map[string]string{
		"plain":        "",
		"without IPv6": "echo 1 > /proc/sys/net/ipv6/conf/lan0/disable_ipv6",
		"macvlan":      "ip link add mv0 link lan0 type macvlan mode bridge; ip link set mv0 up",
		"passthru":     "ip link add mv0 link lan0 type macvlan mode passthru; ip link set mv0 up",
	} {
		t.Run(name, func(t *testing.T) {
			here, _ := twoHosts(t)
			here.Sh(setup)
			want := addrs("192.0.2.9", "2001:db8::9")
			used := inUse(t, here, append(addrs("192.0.2.8", "2001:db8::8"), want...)...)
			if len(used) != 2 || used[want[0]].String() != farMAC || used[want[1]].String() != farMAC {
				t.Errorf("in use %v, want %v at %s", used, want, farMAC)
			}
			begin := time.Now()
			inUse(t, here, want...)
			if took := time.Since(begin); took > 250*time.Millisecond {
				t.Errorf("an answer took %s, as long as none", took)
			}
		})
	}
}

// With nobody there it takes its time, and no more; on a link that is down too.
func TestInUseTakesItsTime(t *testing.T) {
	here, far := twoHosts(t)
	for _, script := range []string{"true", "ip link set lan0 down"} {
		far.Sh(script)
		begin := time.Now()
		if used := inUse(t, here, addrs("192.0.2.8", "2001:db8::8")...); len(used) != 0 {
			t.Errorf("in use %v, want nothing", used)
		}
		if took := time.Since(begin); took < 300*time.Millisecond || took > 3*time.Second {
			t.Errorf("after %q: took %s, want about 300 ms", script, took)
		}
	}
	here.Sh("ip link set lan0 down")
	inUse(t, here, addrs("192.0.2.8")...)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := packet.InUse(ctx, here.NetNS(), "lan0", addrs("192.0.2.8")); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that is over: %v", err)
	}
	_, err := packet.InUse(t.Context(), here.NetNS(), "none0", addrs("192.0.2.8"))
	if _, ok := errors.AsType[*plan.NoLinkError](err); !ok {
		t.Errorf("without the link: %v, want a NoLinkError", err)
	}
	here.Sh("ip link add tun9 type gre local 127.0.0.1 remote 127.0.0.2 || ip tuntap add tun9 mode tun")
	defer here.Sh("ip link del tun9")
	if _, err := packet.InUse(t.Context(), here.NetNS(), "tun9", addrs("192.0.2.8")); err == nil {
		t.Error("a link without Ethernet was asked")
	}
}

// Only what claims the address counts: no damaged frame, none of another VLAN, and none of our own.
func TestOnlyWhatMatchesCounts(t *testing.T) {
	here, far := twoHosts(t)
	asked := addrs("192.0.2.8", "2001:db8::8")
	arp, err := packet.Announcement(asked[0], plan.MAC{2, 0, 0, 0, 0, 0xee})
	if err != nil {
		t.Fatal(err)
	}
	na, err := packet.Announcement(asked[1], plan.MAC{2, 0, 0, 0, 0, 0xee})
	if err != nil {
		t.Fatal(err)
	}
	probe4, _ := packet.Probe(asked[0], plan.MAC{2, 0, 0, 0, 0, 0xee})
	probe6, _ := packet.Probe(asked[1], plan.MAC{2, 0, 0, 0, 0, 0xee})
	own, _ := packet.Announcement(asked[0], plan.MAC{2, 0, 0, 0, 0, 1}) // as a switch would bring it back
	for _, c := range []struct {
		name  string
		frame []byte
		hits  int
	}{
		{"an announcement", arp, 1},
		{"an advertisement", na, 1},
		{"another host's probe of IPv4", probe4, 1},
		{"another host's probe of IPv6", probe6, 1},
		{"our own", own, 0},
		{"a VLAN's", append(append(append([]byte{}, arp[:12]...), 0x81, 0, 0, 7), arp[12:]...), 0},
		{"cut short", arp[:len(arp)-1], 0},
		{"cut short of IPv6", na[:60], 0},
		{"another hardware's", changed(arp, 15, 6), 0},
		{"a host's that asks for it", changed(arp, 31, 7), 0},
		{"one that a router passed on", changed(na, 21, 254), 0},
		{"a payload that is said to be short", changed(na, 19, 23), 0},
		{"another code", changed(na, 55, 1), 0},
		{"another message", changed(na, 54, 137), 0},
		{"another address", changed(na, 77, 9), 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			stop := sending(t, far, c.frame)
			defer stop()
			used := inUse(t, here, asked...)
			if len(used) != c.hits {
				t.Errorf("in use %v, want %d", used, c.hits)
			}
		})
	}
}

func changed(frame []byte, at int, value byte) []byte {
	out := append([]byte{}, frame...)
	out[at] = value
	return out
}

// sending sends a frame of the far host's every few milliseconds until it is stopped.
func sending(t *testing.T, far *kerntest.Env, frame []byte) (stop func()) {
	t.Helper()
	s, err := packet.Open(far.NetNS(), "lan0", packet.Claims())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			if err := s.Send(frame); err != nil && !errors.Is(err, unix.ENOBUFS) {
				done <- err
				return
			}
			<-tick.C
		}
		done <- nil
	}()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("send: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

package fastpath_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/internal/kern/fastpath"
	"github.com/vethloom/vethloom/internal/kern/kerntest"
	"github.com/vethloom/vethloom/internal/kern/rtnetlink"
	"github.com/vethloom/vethloom/plan"
)

// big has TCP hand more to both ends of the box's link than an IPv4 header tells the length of.
func (b *box) big() {
	b.t.Helper()
	for ns, name := range map[string]string{b.ns: b.link(), b.inside: "eth0"} {
		b.must(b.env.Do(ns, func() error {
			c, err := rtnetlink.Dial(0)
			if err != nil {
				return err
			}
			defer c.Close()
			_, err = c.Batch([]rtnetlink.Request{rtnetlink.SetGSO(name, 185000)})
			return err
		}))
	}
}

// watch looks at what comes in by a link, as tcpdump does, until the largest packet is asked for.
func (n *node) watch(linkName string) (largest func() int) {
	n.t.Helper()
	index, err := n.index(linkName)
	n.must(err)
	var fd int
	n.must(n.enter(func() (err error) {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		brief := unix.Timeval{Usec: 10000}
		all := binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL})
		return errors.Join(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &brief),
			unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: int(index), Protocol: all}))
	}))
	stop, most := make(chan struct{}), make(chan int)
	go func() {
		defer unix.Close(fd)
		top := 0
		for {
			size, _, _ := unix.Recvfrom(fd, nil, unix.MSG_TRUNC)
			top = max(top, size)
			select {
			case <-stop:
				most <- top
				return
			default:
			}
		}
	}()
	return func() int {
		close(stop)
		return <-most
	}
}

// Kinds of segments of struct virtio_net_hdr (linux/virtio_net.h).
const (
	gsoTCP4 = 1
	gsoTCP6 = 4
	gsoUDP  = 5
)

// sendSegments has a box send a frame that is many segments, as whoever may open raw sockets can.
func (b *box) sendSegments(kind byte, size, l4 int, frame []byte) error {
	return b.env.Do(b.inside, func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1); err != nil {
			return err
		}
		h := make([]byte, 10, 10+len(frame))
		h[0], h[1] = 1, kind // the checksum is still to be made
		binary.NativeEndian.PutUint16(h[4:], uint16(size))
		binary.NativeEndian.PutUint16(h[6:], uint16(l4))
		binary.NativeEndian.PutUint16(h[8:], map[byte]uint16{gsoTCP4: 16, gsoTCP6: 16, gsoUDP: 6}[kind])
		eth0, err := indexHere("eth0")
		if err != nil {
			return err
		}
		return unix.Sendto(fd, append(h, frame...), 0, &unix.SockaddrLinklayer{Ifindex: eth0})
	})
}

func indexHere(name string) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	r, err := unix.NewIfreq(name)
	if err != nil {
		return 0, err
	}
	err = unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, r)
	return int(r.Uint32()), err
}

// TestSegmentsLargerThanAHeaderTells sends packets whose header tells no length, of which TCP's over IPv4 stay whole
// between endpoints of this host.
func TestSegmentsLargerThanAHeaderTells(t *testing.T) {
	n := newNode(t, kerntest.New(t), "", "tcx")
	n.must(n.path.PutCounter(plan.FastCounter{Network: network}))
	a, b := n.box(2, "0"), n.box(3, "0")
	for _, b := range []*box{a, b} {
		b.big()
		b.fast(true)
	}
	a.in("ip link set eth0 gso_max_size 185000") // as a container may
	n.must(n.path.PutPort(plan.FastPort{Network: network, Addr: b.addrs[0], Proto: plan.TCP, Port: 8080}))
	far := plan.FastPeer{Network: network, Way: plan.FastPlain, Prefix: netip.MustParsePrefix("10.2.0.0/16"), MTU: 1500,
		Node: addr("192.0.2.2"), Via: b.mac()}
	lo, err := n.index("lo")
	n.must(err)
	n.must(n.path.PutPeer(far, lo, fastpath.Hop{Link: lo, Addr: far.Node}))
	data := make([]byte, 70000)
	frame := func(v6 bool, l4 byte, body []byte, edit func(f []byte)) []byte {
		src, dst := a.addrs[0], b.addrs[0]
		if v6 {
			src, dst = a.addrs[1], b.addrs[1]
		}
		f := ether(b.mac(), a.mac(), v6, ip(src, dst, l4, body))
		if v6 {
			f[18], f[19] = 0, 0
			edit(f)
			return f
		}
		f[16], f[17] = 0, 0
		edit(f)
		f[24], f[25] = 0, 0
		binary.BigEndian.PutUint16(f[24:], checksum(f[14:34]))
		return f
	}
	same := func([]byte) {}
	segments := tcp(1000, 2000, data)
	for _, c := range []struct {
		name  string
		kind  byte
		size  int
		frame []byte
		want  fastpath.Reason
	}{
		{"TCP", gsoTCP4, 1400, frame(false, 6, segments, same), fastpath.Fast},
		{"a length", gsoTCP4, 1400, frame(false, 6, segments, func(f []byte) { f[17] = 60 }), fastpath.Form},
		{"the length that is left of it", gsoTCP4, 1400,
			frame(false, 6, segments, func(f []byte) { binary.BigEndian.PutUint16(f[16:], uint16(len(f)-14)) }),
			fastpath.Form},
		{"a fragment", gsoTCP4, 1400, frame(false, 6, segments, func(f []byte) { f[20] = 0x20 }), fastpath.Form},
		{"large segments", gsoTCP4, 1461, frame(false, 6, segments, same), fastpath.Size},
		{"a published port", gsoTCP4, 1400, frame(false, 6, tcp(1000, 8080, data), same), fastpath.Published},
		{"another's address", gsoTCP4, 1400, frame(false, 6, segments, func(f []byte) { f[29]++ }), fastpath.Sender},
		{"another node", gsoTCP4, 1400, frame(false, 6, segments, func(f []byte) { f[31] = 2 }), fastpath.Size},
		{"UDP", gsoUDP, 1400, frame(false, 17, udp(1000, 2000, data), same), fastpath.Form},
		{"IPv6", gsoTCP6, 1400, frame(true, 6, segments, same), fastpath.Form},
	} {
		before := n.counts()
		if err := a.sendSegments(c.kind, c.size, len(c.frame)-len(data)-20+map[byte]int{gsoUDP: 12}[c.kind],
			c.frame); err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		now := n.counts()
		for r := range now.Bytes { // there are small packets of others: questions for neighbours, answers
			got := now.Bytes[r] - before.Bytes[r]
			if whole := got >= uint64(len(c.frame)); whole != (fastpath.Reason(r) == c.want) {
				t.Errorf("%s: %d bytes counted as %s, want %s", c.name, got, fastpath.Reason(r), c.want)
			}
		}
	}
}

// TestBigSegmentsAreCutWhereTheyMust has TCP send between two endpoints, to the host, and through an endpoint that is a
// router to a link that carries no more than others, while somebody watches the link.
func TestBigSegmentsAreCutWhereTheyMust(t *testing.T) {
	n := newNode(t, kerntest.New(t), "", "tcx")
	n.must(n.path.PutCounter(plan.FastCounter{Network: network}))
	a, b := n.box(2, "0"), n.box(3, "0")
	for _, b := range []*box{a, b} {
		b.big()
		b.fast(false)
	}
	beyond := &box{node: n, inside: n.env.Namespace(t)}
	n.sh(fmt.Sprintf(`ip addr add 10.1.0.1/24 dev vlb
		nsenter --net=%s ip link add up0 up type veth peer name eth0 netns %s`, b.inside, beyond.inside))
	b.in("ip addr add 192.0.2.1/24 dev up0; echo 1 >/proc/sys/net/ipv4/ip_forward")
	beyond.in("ip link set eth0 up; ip addr add 192.0.2.2/24 dev eth0; ip route add 10.1.0.0/24 via 192.0.2.1")
	a.in(fmt.Sprintf("ip route add 192.0.2.0/24 via %s", b.addrs[0]))
	largest := n.watch(a.link())
	transfer(t, a, b, b.addrs[0])
	transfer(t, a, b, b.addrs[1])
	if got := largest(); got <= 0xffff {
		t.Errorf("the largest packet has %d bytes", got)
	}
	c := n.counts()
	if c.Bytes[fastpath.Form] > 0xffff || c.Bytes[fastpath.Fast] < 2*size {
		t.Errorf("not on the fast path: %+v", c)
	}
	transfer(t, a, beyond, addr("192.0.2.2"))
	transfer(t, beyond, a, a.addrs[0])
	transfer(t, a, &box{node: n}, addr("10.1.0.1"))
	transfer(t, &box{node: n}, a, a.addrs[0])
}

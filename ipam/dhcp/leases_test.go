package dhcp_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/server4"
	"go.uber.org/goleak"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/drivers/macvlan"
	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/internal/kern"
	"github.com/vethloom/vethloom/internal/kern/kerntest"
	"github.com/vethloom/vethloom/internal/store/mem"
	"github.com/vethloom/vethloom/ipam"
	"github.com/vethloom/vethloom/ipam/dhcp"
	"github.com/vethloom/vethloom/plan"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rogue is a DHCP server on the other host of a LAN that answers as a test has it.
type rogue struct {
	conn net.PacketConn
	done chan struct{}

	mu      sync.Mutex
	unicast bool // who has an address is answered there
	answer  func(*dhcpv4.DHCPv4) []*dhcpv4.DHCPv4
	heard   []string // types of messages, with the address they are about
}

func (r *rogue) serve() {
	defer close(r.done)
	buf := make([]byte, 1500)
	for {
		n, _, err := r.conn.ReadFrom(buf)
		if err != nil {
			return
		}
		m, err := dhcpv4.FromBytes(slices.Clone(buf[:n]))
		if err != nil {
			continue
		}
		about := m.ClientIPAddr
		if about.IsUnspecified() {
			about = m.RequestedIPAddress()
		}
		r.mu.Lock()
		r.heard = append(r.heard, fmt.Sprintf("%s %s", m.MessageType(), about))
		answers, to := r.answer(m), net.IPv4bcast
		if r.unicast && !m.ClientIPAddr.IsUnspecified() {
			to = m.ClientIPAddr
		}
		r.mu.Unlock()
		for _, a := range answers {
			_, _ = r.conn.WriteTo(a.ToBytes(), &net.UDPAddr{IP: to, Port: 68})
		}
	}
}

// answers has the server answer in another way from now on.
func (r *rogue) answers(f func(*dhcpv4.DHCPv4) []*dhcpv4.DHCPv4) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = f
}

// count counts the messages that begin with a text.
func (r *rogue) count(text string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, h := range r.heard {
		if strings.HasPrefix(h, text) {
			n++
		}
	}
	return n
}

// gives is a server that gives one address.
func gives(addr string, seconds uint32, mods ...dhcpv4.Modifier) func(*dhcpv4.DHCPv4) []*dhcpv4.DHCPv4 {
	return func(m *dhcpv4.DHCPv4) []*dhcpv4.DHCPv4 {
		kind := map[dhcpv4.MessageType]dhcpv4.MessageType{dhcpv4.MessageTypeDiscover: dhcpv4.MessageTypeOffer,
			dhcpv4.MessageTypeRequest: dhcpv4.MessageTypeAck}[m.MessageType()]
		if kind == dhcpv4.MessageTypeNone {
			return nil
		}
		all := append([]dhcpv4.Modifier{dhcpv4.WithLeaseTime(seconds)}, mods...)
		return []*dhcpv4.DHCPv4{reply(m, kind, addr, all...)}
	}
}

func reply(m *dhcpv4.DHCPv4, kind dhcpv4.MessageType, addr string, mods ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	far := net.IP{192, 0, 2, 100}
	out, err := dhcpv4.NewReplyFromRequest(m, append([]dhcpv4.Modifier{dhcpv4.WithMessageType(kind),
		dhcpv4.WithYourIP(net.ParseIP(addr)), dhcpv4.WithNetmask(net.IPMask{255, 255, 255, 0}), dhcpv4.WithRouter(far),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(far))}, mods...)...)
	if err != nil {
		panic(err)
	}
	return out
}

func nobody(*dhcpv4.DHCPv4) []*dhcpv4.DHCPv4 { return nil }

// bed is a host on a LAN with a rogue, without a controller: the test writes the records of endpoints.
type bed struct {
	*dhcp.Leases
	t      *testing.T
	kernel *kern.Kernel
	store  cnm.Store
	here   *kerntest.Env
	far    *kerntest.Env
	server *rogue
	net    cnm.Network
	stop   context.CancelFunc
	ended  chan error
}

func newBed(t *testing.T) *bed {
	t.Helper()
	far := kerntest.New(t)
	here := kerntest.New(t)
	here.Sh(fmt.Sprintf("ip link add lan0 type veth peer name lan0 netns /proc/%d/fd/%d; ip link set lan0 up",
		os.Getpid(), far.NetNS()))
	far.Sh("ip link set lan0 up; ip addr add 192.0.2.100/24 dev lan0")
	b := &bed{t: t, store: mem.New(), here: here, far: far, server: &rogue{answer: nobody, done: make(chan struct{})}}
	err := far.Do("", func() (err error) {
		b.server.conn, err = server4.NewIPv4UDPConn("lan0", &net.UDPAddr{Port: 67})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	go b.server.serve()
	if b.kernel, err = kern.Open(kern.Config{RunDir: here.RunDir}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		b.down()
		b.server.conn.Close()
		<-b.server.done
		if err := b.kernel.Close(); err != nil {
			t.Error(err)
		}
		here.Sh("ip link del lan0; umount " + here.RunDir + "/netns || true")
	})
	b.net = cnm.Network{ID: strings.Repeat("1", 64), Name: "lan", Driver: "macvlan", IPv4: true, Phase: cnm.Active,
		Options: map[string]string{"parent": "lan0"}, IPAM: &cnm.NetworkIPAM{Driver: cnm.DHCP},
		Pools: []cnm.Pool{{Subnet: netip.MustParsePrefix("192.0.2.0/24"), Gateway: netip.MustParseAddr("192.0.2.100")}}}
	put(b, cnm.KindNetwork, b.net.ID, b.net)
	b.up()
	return b
}

// up starts what keeps leases, as a start of netd does.
func (b *bed) up() {
	b.t.Helper()
	below, err := ipam.New(b.t.Context(), ipam.Config{Store: b.store})
	if err != nil {
		b.t.Fatal(err)
	}
	b.Leases, err = dhcp.New(b.t.Context(), dhcp.Config{IPAM: below, Pools: below, Store: b.store, Network: b.kernel,
		Drivers: []cnm.Driver{macvlan.Driver{}}})
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	b.stop, b.ended = stop, make(chan error, 1)
	go func() { b.ended <- b.Run(ctx, b.readdress) }()
}

// down ends it.
func (b *bed) down() {
	b.stop()
	if err := <-b.ended; err != nil {
		b.t.Error(err)
	}
}

func put[T cnm.Network | cnm.Endpoint](b *bed, kind cnm.Kind, id string, v T) {
	b.t.Helper()
	w, err := cnm.Put(kind, id, v, 0)
	if err == nil {
		err = b.store.Commit(b.t.Context(), w)
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *bed) readdress(ctx context.Context, id string, addrs []netip.Prefix, l *cnm.Leased) error {
	w, err := cnm.Change(ctx, b.store, cnm.KindEndpoint, id, func(e *cnm.Endpoint) { e.Addrs, e.Leased = addrs, l })
	if err != nil {
		return err
	}
	return b.store.Commit(ctx, w)
}

// joins makes an endpoint with a lease.
func (b *bed) joins(id string) error {
	b.t.Helper()
	e := cnm.Endpoint{ID: strings.Repeat(id, 64), Network: b.net.ID, Name: "box", Phase: cnm.Active}
	claim, err := b.ClaimFor(b.t.Context(), b.net, e, nil, nil)
	if err != nil {
		return err
	}
	e.Addrs, e.MAC, e.Leased = claim.Addrs, claim.MAC, claim.Leased
	put(b, cnm.KindEndpoint, e.ID, e)
	claim.Done(true)
	return nil
}

// leaves removes an endpoint.
func (b *bed) leaves(id string) {
	b.t.Helper()
	claim, err := b.Release(b.t.Context(), b.net.ID, "endpoint/"+strings.Repeat(id, 64))
	if err == nil {
		err = b.store.Commit(b.t.Context(), append(claim.Writes, cnm.Write{Revision: b.record(id).Revision,
			Key: cnm.Key{Kind: cnm.KindEndpoint, ID: strings.Repeat(id, 64)}})...)
	}
	if err != nil {
		b.t.Fatal(err)
	}
	claim.Done(true)
}

func (b *bed) record(id string) cnm.Endpoint {
	b.t.Helper()
	rec, err := b.store.Get(b.t.Context(), cnm.Key{Kind: cnm.KindEndpoint, ID: strings.Repeat(id, 64)})
	if err != nil {
		b.t.Fatal(err)
	}
	e, err := cnm.EndpointOf(rec)
	if err != nil {
		b.t.Fatal(err)
	}
	return e
}

// has are the addresses in an endpoint's record.
func (b *bed) has(id string) string { return fmt.Sprint(b.record(id).Addrs) }

func (b *bed) leases() int {
	b.t.Helper()
	l, err := cnm.ListLeases(b.t.Context(), b.store)
	if err != nil {
		b.t.Fatal(err)
	}
	return len(l)
}

// Offers of what no endpoint can have are passed over for one that is right, and an acknowledgement of something else
// than what was offered is none.
func TestRogueAnswers(t *testing.T) {
	b := newBed(t)
	good := gives("192.0.2.50", 3600)
	b.server.answers(func(m *dhcpv4.DHCPv4) []*dhcpv4.DHCPv4 {
		var out []*dhcpv4.DHCPv4
		for _, addr := range []string{"127.0.0.1", "10.9.9.9", "224.0.0.1", "192.0.2.255"} {
			out = append(out, gives(addr, 3600)(m)...)
		}
		other := gives("192.0.2.51", 3600)(m) // of a transaction of somebody else
		for _, o := range other {
			o.TransactionID[0]++
		}
		return append(append(out, other...), good(m)...)
	})
	if err := b.joins("a"); err != nil || b.has("a") != "[192.0.2.50/24]" {
		t.Errorf("got %s, %v; want the good offer", b.has("a"), err)
	}
	b.server.answers(gives("192.0.2.50", 3600))
	err := b.joins("b")
	if !errors.Is(err, cnm.ErrUnavailable) || !strings.Contains(err.Error(), "which endpoint aaaa") {
		t.Errorf("the address of another endpoint: %v", err)
	}
	b.server.answers(gives("10.9.9.9", 3600))
	err = b.joins("b")
	if err == nil || !strings.Contains(err.Error(), "address 10.9.9.9, which is not in the network's subnet") ||
		!strings.Contains(err.Error(), "tcpdump -eni lan0") {
		t.Errorf("nothing but a rogue: %v", err)
	}
	b.server.answers(func(m *dhcpv4.DHCPv4) []*dhcpv4.DHCPv4 {
		if m.MessageType() == dhcpv4.MessageTypeRequest {
			return []*dhcpv4.DHCPv4{reply(m, dhcpv4.MessageTypeNak, "0.0.0.0")}
		}
		return gives("192.0.2.60", 3600)(m)
	})
	if err := b.joins("b"); err == nil || !strings.Contains(err.Error(), "refuses the address") {
		t.Errorf("an offer that is refused: %v", err)
	}
	await.True(t, "nothing is kept of what failed", func() bool { return b.leases() == 1 })
}

// An address that somebody on the LAN has is declined, and another one taken.
func TestAnAddressInUseIsDeclined(t *testing.T) {
	b := newBed(t)
	b.far.Sh("ip addr add 192.0.2.50/24 dev lan0")
	addr := "192.0.2.50"
	b.server.answers(func(m *dhcpv4.DHCPv4) []*dhcpv4.DHCPv4 {
		if m.MessageType() == dhcpv4.MessageTypeDecline {
			addr = "192.0.2.51"
		}
		return gives(addr, 3600)(m)
	})
	if err := b.joins("a"); err != nil || b.has("a") != "[192.0.2.51/24]" {
		t.Errorf("got %s, %v; want 192.0.2.51", b.has("a"), err)
	}
	if b.server.count("DECLINE 192.0.2.50") != 1 {
		t.Errorf("the server heard %v", b.server.heard)
	}
	b.server.answers(gives("192.0.2.50", 3600))
	b.net.Options["duplicate-detection"] = "false"
	if err := b.joins("b"); err != nil || b.has("b") != "[192.0.2.50/24]" {
		t.Errorf("without detection: got %s, %v; want 192.0.2.50", b.has("b"), err)
	}
}

// Without its server a lease ends, and with it the endpoint's address. When the server is back, so is the address.
func TestALeaseEnds(t *testing.T) {
	b := newBed(t)
	b.server.answers(gives("192.0.2.50", 6))
	if err := b.joins("a"); err != nil {
		t.Fatal(err)
	}
	await.True(t, "it is renewed", func() bool { return b.server.count("REQUEST 192.0.2.50") > 1 })
	b.server.answers(nobody)
	await.True(t, "it has ended", func() bool { return b.has("a") == "[]" })
	await.True(t, "the trouble is told", func() bool {
		err := b.Trouble()
		return err != nil && strings.Contains(err.Error(), "of 192.0.2.50 for endpoint aaaaaaaaaaaa, which has ended: ")
	})
	if b.server.count("REQUEST 192.0.2.50") < 3 {
		t.Errorf("the server was not asked again: %v", b.server.heard)
	}
	b.server.answers(gives("192.0.2.52", 3600))
	await.True(t, "the server is back", func() bool { return b.has("a") == "[192.0.2.52/24]" })
	await.True(t, "there is no trouble", func() bool { return b.Trouble() == nil })
}

// A server that refuses to renew a lease has given another address, and other routes come with it.
func TestARenewalIsRefused(t *testing.T) {
	b := newBed(t)
	b.server.answers(gives("192.0.2.50", 6))
	if err := b.joins("a"); err != nil {
		t.Fatal(err)
	}
	routes := dhcpv4.WithGeneric(dhcpv4.OptionClasslessStaticRoute, []byte{24, 10, 9, 8, 192, 0, 2, 7})
	b.server.answers(func(m *dhcpv4.DHCPv4) []*dhcpv4.DHCPv4 {
		if m.ClientIPAddr.Equal(net.IP{192, 0, 2, 50}) {
			return []*dhcpv4.DHCPv4{reply(m, dhcpv4.MessageTypeNak, "0.0.0.0")}
		}
		return gives("192.0.2.51", 3600, routes)(m)
	})
	await.True(t, "it has another address", func() bool { return b.has("a") == "[192.0.2.51/24]" })
	if l := b.record("a").Leased; l == nil || len(l.Routes) != 1 || l.Routes[0].Dst.String() != "10.9.8.0/24" {
		t.Errorf("what came with it: %+v", l)
	}
}

// What netd had asked for when it ended is found by the next one: a lease without an endpoint goes back, and an
// endpoint that has not heard of its lease hears of it.
func TestLeasesAfterACrash(t *testing.T) {
	b := newBed(t)
	b.server.answers(gives("192.0.2.50", 3600))
	if err := b.joins("a"); err != nil {
		t.Fatal(err)
	}
	b.down()
	if err := b.readdress(t.Context(), strings.Repeat("a", 64), nil, nil); err != nil { // as it was before
		t.Fatal(err)
	}
	orphan := cnm.Lease{Endpoint: strings.Repeat("c", 64), Network: b.net.ID, Link: "lan0",
		MAC: plan.MAC{2, 0, 0, 0, 0, 9}, Addr: netip.MustParsePrefix("192.0.2.77/24"),
		Server: netip.MustParseAddr("192.0.2.100")}
	w, err := cnm.Put(cnm.KindLease, orphan.Endpoint, orphan, 0)
	if err == nil {
		err = b.store.Commit(t.Context(), w)
	}
	if err != nil {
		t.Fatal(err)
	}
	b.up()
	await.True(t, "the lease of nobody goes back", func() bool { return b.server.count("RELEASE 192.0.2.77") == 1 })
	await.True(t, "the endpoint has its address", func() bool { return b.has("a") == "[192.0.2.50/24]" })
	await.True(t, "nothing else is left", func() bool { return b.leases() == 1 })
	if got := b.server.count("REQUEST"); got != 1 {
		t.Errorf("%d requests, want the first one alone: %v", got, b.server.heard)
	}
	b.leaves("a")
	await.True(t, "its lease goes back", func() bool { return b.server.count("RELEASE 192.0.2.50") == 1 })
	await.True(t, "nothing is left", func() bool { return b.leases() == 0 })
}

// A renewal is answered to the endpoint's own address. Where that is behind a bridge, the bridge has it too.
func TestARenewalPassesABridge(t *testing.T) {
	box := kerntest.New(t)
	b := newBed(t)
	b.here.Sh("ip link add br0 type bridge; ip link set br0 up; ip link set lan0 master br0")
	defer b.here.Sh("ip link del br0; ip link del p0")
	b.here.Sh(fmt.Sprintf("ip link add p0 type veth peer name eth0 netns /proc/%d/fd/%d; ip link set p0 master br0 up",
		os.Getpid(), box.NetNS()))
	b.server.unicast = true
	b.server.answers(gives("192.0.2.50", 6))
	b.net.Options["parent"] = "br0"
	if err := b.joins("a"); err != nil {
		t.Fatal(err)
	}
	box.Sh("ip link set eth0 address " + b.record("a").MAC.String() + " up; ip addr add 192.0.2.50/24 dev eth0")
	since := func() time.Time {
		l, err := cnm.ListLeases(t.Context(), b.store)
		if err != nil || len(l) != 1 {
			t.Fatalf("leases %v, %v", l, err)
		}
		return l[0].Since
	}
	first := since()
	await.True(t, "it is renewed again and again", func() bool { return since().Sub(first) > 7*time.Second })
	if got := b.server.count("DISCOVER"); got != 1 || b.has("a") != "[192.0.2.50/24]" {
		t.Errorf("%s after %d offers, want the first address with one", b.has("a"), got)
	}
}

// A lease for ever is never asked for again, and one whose link is gone is forgotten without a word.
func TestALeaseForEver(t *testing.T) {
	b := newBed(t)
	b.server.answers(gives("192.0.2.50", 1<<32-1))
	if err := b.joins("a"); err != nil {
		t.Fatal(err)
	}
	l, err := cnm.ListLeases(t.Context(), b.store)
	if err != nil || len(l) != 1 || l[0].For != 0 || time.Since(l[0].Since) > time.Minute {
		t.Fatalf("%+v, %v", l, err)
	}
	l[0].Since, l[0].Link = l[0].Since.Add(-100*365*24*time.Hour), "gone0"
	w, err := cnm.Put(cnm.KindLease, l[0].Endpoint, l[0], l[0].Revision)
	if err == nil {
		err = b.store.Commit(t.Context(), w)
	}
	if err != nil {
		t.Fatal(err)
	}
	b.down()
	b.up()
	b.leaves("a")
	await.True(t, "it is forgotten", func() bool { return b.leases() == 0 })
	if b.server.count("REQUEST") != 1 || b.server.count("RELEASE") != 0 {
		t.Errorf("the server heard %v", b.server.heard)
	}
}

package lan_test

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/drivers/bridge"
	"github.com/vethloom/vethloom/drivers/macvlan"
	"github.com/vethloom/vethloom/internal/store/mem"
	"github.com/vethloom/vethloom/ipam"
	"github.com/vethloom/vethloom/ipam/lan"
	"github.com/vethloom/vethloom/plan"
)

// hosts are a LAN in memory.
type hosts struct {
	has   map[netip.Addr]plan.MAC
	asked []netip.Addr
	err   error
}

func (h *hosts) InUse(_ context.Context, link string, addrs []netip.Addr) (map[netip.Addr]plan.MAC, error) {
	h.asked = append(h.asked, addrs...)
	used := map[netip.Addr]plan.MAC{}
	for _, a := range addrs {
		if mac, ok := h.has[a]; ok {
			used[a] = mac
		}
	}
	return used, h.err
}

// took are the addresses that were asked for since the last call.
func (h *hosts) took() string {
	var out []string
	for _, a := range h.asked {
		out = append(out, a.String())
	}
	h.asked = nil
	return strings.Join(out, " ")
}

type bed struct {
	*lan.Addresses
	t     *testing.T
	hosts *hosts
	now   time.Time
}

func newBed(t *testing.T, has ...string) *bed {
	t.Helper()
	below, err := ipam.New(t.Context(), ipam.Config{Store: mem.New()})
	if err != nil {
		t.Fatal(err)
	}
	b := &bed{t: t, hosts: &hosts{has: map[netip.Addr]plan.MAC{}}, now: time.Unix(1, 0)}
	for i, a := range has {
		b.hosts.has[netip.MustParseAddr(a)] = plan.MAC{2, 0, 0, 0, 0, byte(i + 1)}
	}
	b.Addresses = lan.Over(lan.Config{IPAM: below, Drivers: []cnm.Driver{macvlan.Driver{}, bridge.Driver{}},
		Prober: b.hosts, Now: func() time.Time { return b.now }})
	return b
}

func (b *bed) network(driver string, options map[string]string, subnets ...string) cnm.Network {
	b.t.Helper()
	n := cnm.Network{ID: strings.Repeat("1", 64), Name: "lan", Driver: driver, Options: options}
	var requests []cnm.PoolRequest
	for _, s := range subnets {
		requests = append(requests, cnm.PoolRequest{Subnet: netip.MustParsePrefix(s), NoGateway: true, LAN: true})
	}
	var err error
	if n.Pools, err = b.Pools(b.t.Context(), n, requests); err != nil {
		b.t.Fatal(err)
	}
	return n
}

// claims commits a claim and returns its addresses.
func (b *bed) claims(n cnm.Network, owner string, want ...netip.Addr) (string, error) {
	c, err := b.Claim(b.t.Context(), n, owner, want, nil)
	if err != nil {
		return "", err
	}
	c.Done(true)
	var out []string
	for _, p := range c.Addrs {
		out = append(out, p.Addr().String())
	}
	return strings.Join(out, " "), nil
}

func (b *bed) gets(n cnm.Network, owner, addrs, asked string) {
	b.t.Helper()
	got, err := b.claims(n, owner)
	if err != nil || got != addrs {
		b.t.Errorf("%s got %s, %v; want %s", owner, got, err, addrs)
	}
	if took := b.hosts.took(); took != asked {
		b.t.Errorf("for %s the LAN was asked for %q, want %q", owner, took, asked)
	}
}

func onLAN() map[string]string { return map[string]string{"parent": "eth0"} }

// What somebody has is passed over in each family, and not asked for again for a while.
func TestWhatOthersHaveIsPassedOver(t *testing.T) {
	b := newBed(t, "192.0.2.1", "192.0.2.2", "192.0.2.4", "2001:db8::2")
	n := b.network("macvlan", onLAN(), "192.0.2.0/29", "2001:db8::/64")
	b.gets(n, "a", "192.0.2.3 2001:db8::1",
		"192.0.2.1 2001:db8::1 192.0.2.2 2001:db8::1 192.0.2.3 2001:db8::1")
	b.gets(n, "b", "192.0.2.5 2001:db8::3",
		"192.0.2.4 2001:db8::2 192.0.2.5 2001:db8::3")
	b.gets(n, "c", "192.0.2.6 2001:db8::4", "192.0.2.6 2001:db8::4")
	// All that are left are known to be busy, so they are asked for again: one is free now.
	delete(b.hosts.has, netip.MustParseAddr("192.0.2.2"))
	b.gets(n, "d", "192.0.2.2 2001:db8::5",
		"192.0.2.1 2001:db8::5 192.0.2.2 2001:db8::5")
	_, err := b.claims(n, "e")
	if !errors.Is(err, cnm.ErrExhausted) || !strings.Contains(err.Error(), "192.0.2.1, which the host with MAC "+
		"address 02:00:00:00:00:01 has") || !strings.Contains(err.Error(), "--ip-range") {
		t.Errorf("with nothing left: %v", err)
	}
}

// A remembered address is given again when its time is over and nobody has it.
func TestBusyIsForgotten(t *testing.T) {
	b := newBed(t, "192.0.2.1")
	n := b.network("macvlan", onLAN(), "192.0.2.0/29")
	b.gets(n, "a", "192.0.2.2", "192.0.2.1 192.0.2.2")
	delete(b.hosts.has, netip.MustParseAddr("192.0.2.1"))
	b.gets(n, "b", "192.0.2.3", "192.0.2.3")
	for _, owner := range []string{"c", "d", "e"} {
		if _, err := b.claims(n, owner); err != nil {
			t.Fatal(err)
		}
	}
	b.hosts.took()
	b.now = b.now.Add(time.Hour)
	b.gets(n, "f", "192.0.2.1", "192.0.2.1")
}

// A wanted address that somebody has is refused: by whose, and what to do.
func TestWantedAddressInUse(t *testing.T) {
	b := newBed(t, "192.0.2.1")
	n := b.network("macvlan", onLAN(), "192.0.2.0/24")
	want := netip.MustParseAddr("192.0.2.1")
	for range 2 { // it is asked for each time
		_, err := b.claims(n, "a", want)
		if !errors.Is(err, cnm.ErrExists) {
			t.Fatalf("%v, want ErrExists", err)
		}
		for _, part := range []string{`"192.0.2.1"`, "02:00:00:00:00:01", "link eth0",
			"duplicate-detection=false lan"} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%v: want %q in it", err, part)
			}
		}
	}
	b.hosts.has[want] = plan.MAC{}
	if _, err := b.claims(n, "a", want); err == nil || !strings.Contains(err.Error(), "the host itself has it") {
		t.Errorf("the host's own address: %v", err)
	}
	delete(b.hosts.has, want)
	if got, err := b.claims(n, "a", want); err != nil || got != "192.0.2.1" {
		t.Errorf("once it is free: %s, %v", got, err)
	}
	b.hosts.took()
	if got, err := b.claims(n, "a", want); err != nil || got != "192.0.2.1" || b.hosts.took() != "" {
		t.Errorf("who has it already: %s, %v; want it without a question", got, err)
	}
}

// Networks that are on no LAN, and those that have it switched off, ask nobody.
func TestNobodyIsAsked(t *testing.T) {
	for driver, options := range map[string]map[string]string{
		"bridge":  nil,
		"macvlan": {"parent": "eth0", "duplicate-detection": "false"},
		"remote":  nil,
	} {
		b := newBed(t, "192.0.2.1")
		b.gets(b.network(driver, options, "192.0.2.0/24"), "a", "192.0.2.1", "")
	}
}

// Without its link there is no LAN to ask; another failure is one.
func TestTheLANCannotBeAsked(t *testing.T) {
	b := newBed(t)
	n := b.network("macvlan", onLAN(), "192.0.2.0/24")
	b.hosts.err = &plan.NoLinkError{Link: "eth0"}
	b.gets(n, "a", "192.0.2.1", "192.0.2.1")
	b.hosts.err = errors.New("no permission")
	if _, err := b.claims(n, "b"); err == nil || !strings.Contains(err.Error(), "duplicate-detection=false") {
		t.Errorf("%v, want the way out", err)
	}
	b.hosts.err = nil
	b.hosts.took()
	b.gets(n, "c", "192.0.2.3", "192.0.2.3")
}

// A host that says to have everything costs a bounded number of questions.
func TestSomebodyHasEverything(t *testing.T) {
	b := newBed(t)
	n := b.network("macvlan", onLAN(), "2001:db8::/64")
	all := &everything{}
	b.Addresses = lan.Over(lan.Config{IPAM: b.IPAM, Drivers: []cnm.Driver{macvlan.Driver{}}, Prober: all})
	if _, err := b.claims(n, "a"); !errors.Is(err, cnm.ErrExhausted) || all.asked > 2000 {
		t.Errorf("%v after %d questions, want ErrExhausted", err, all.asked)
	}
}

type everything struct{ asked int }

func (e *everything) InUse(_ context.Context, _ string, addrs []netip.Addr) (map[netip.Addr]plan.MAC, error) {
	e.asked++
	used := map[netip.Addr]plan.MAC{}
	for a := range slices.Values(addrs) {
		used[a] = plan.MAC{2, 0, 0, 0, 0, 9}
	}
	return used, nil
}

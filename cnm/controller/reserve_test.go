package controller_test

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/vethloom/vethloom/cnm"
)

// An address that was reserved is an endpoint's with the commit that ends the reservation, and free with the endpoint.
func TestReservedAddresses(t *testing.T) {
	w := newWorld(t, nil)
	w.network(t, "web", "10.1.0.0/24")
	ctx := t.Context()
	reserve := func(key string, ipv6 bool, want netip.Addr) (cnm.Reservation, error) {
		return w.Reserve(ctx, cnm.ReservationRequest{Network: "web", Key: key, IPv6: ipv6, Want: want})
	}
	r, err := reserve("a", false, netip.Addr{})
	if err != nil {
		t.Fatal(err)
	}
	if again, err := reserve("a", false, netip.Addr{}); err != nil || again.Addr != r.Addr {
		t.Errorf("asked again: %v, %v, want %s", again.Addr, err, r.Addr)
	}
	if _, err := reserve("b", false, r.Addr.Addr()); !errors.Is(err, cnm.ErrExists) {
		t.Errorf("an address that somebody has: %v", err)
	}
	if _, err := reserve("b", true, netip.Addr{}); !errors.Is(err, cnm.ErrInvalid) {
		t.Errorf("of a family that the network is without: %v", err)
	}
	if _, err := w.DeleteNetwork(ctx, "web"); !errors.Is(err, cnm.ErrInUse) {
		t.Errorf("removing the network: %v", err)
	}
	s, ends, err := w.CreateSandbox(ctx, cnm.SandboxRequest{Engine: cnm.EngineDocker, Handed: true,
		Attach: []cnm.AttachRequest{{Network: "web", Reserved: []string{"a"}}}})
	if err != nil {
		t.Fatal(err)
	}
	if len(ends[0].Addrs) != 1 || ends[0].Addrs[0] != r.Addr || !s.Handed || s.NetNS != "" || !ends[0].Handed {
		t.Errorf("sandbox %+v with %+v, want %s", s, ends[0], r.Addr)
	}
	if list, err := w.Reservations(ctx, "web"); err != nil || len(list) != 0 {
		t.Errorf("reservations left: %v, %v", list, err)
	}
	if err := w.Unreserve(ctx, "web", "a", false); err != nil {
		t.Error(err)
	}
	if _, err := reserve("b", false, r.Addr.Addr()); !errors.Is(err, cnm.ErrExists) {
		t.Errorf("the endpoint's address: %v", err)
	}
	if err := w.DeleteSandbox(ctx, s.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := reserve("b", false, r.Addr.Addr()); err != nil {
		t.Errorf("the address after the endpoint: %v", err)
	}
	if err := w.Unreserve(ctx, "web", "b", false); err != nil {
		t.Error(err)
	}
	if _, err := w.DeleteNetwork(ctx, "web"); err != nil {
		t.Error(err)
	}
}

// A reservation is found by what its key begins with, on whichever network, and is for the namespace that was named
// last.
func TestReservationsOfAKey(t *testing.T) {
	w := newWorld(t, nil)
	w.network(t, "web", "10.1.0.0/24")
	w.network(t, "back", "10.2.0.0/24")
	ctx := t.Context()
	first, second := &cnm.Adopted{Path: "/n/1", Cookie: 1}, &cnm.Adopted{Path: "/n/2", Cookie: 2}
	reserve := func(network, key string, ns *cnm.Adopted) cnm.Reservation {
		t.Helper()
		r, err := w.Reserve(ctx, cnm.ReservationRequest{Network: network, Key: key, NetNS: ns})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	reserve("web", "a/1", first)
	reserve("back", "a/2", first)
	reserve("back", "b/1", nil)
	again := reserve("web", "a/1", second)
	list, err := w.ReservationsOf(ctx, "a/")
	if err != nil || len(list) != 2 {
		t.Fatalf("reservations: %+v, %v", list, err)
	}
	for _, r := range list {
		want := map[string]*cnm.Adopted{"a/1": second, "a/2": first}[r.Key]
		if r.NetNS == nil || *r.NetNS != *want || r.Key == "a/1" && r.Addr != again.Addr {
			t.Errorf("%s: %s for %+v, want %+v", r.Key, r.Addr, r.NetNS, want)
		}
	}
}

package remote_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/drivers/remote"
	"github.com/vethloom/vethloom/ipam"
	"github.com/vethloom/vethloom/plan"
)

// addresses is the IPAM of a netd that starts now.
func (w *world) addresses() (*remote.Caller, *remote.Addresses) {
	w.t.Helper()
	below, err := ipam.New(w.t.Context(), ipam.Config{Store: w.Store})
	if err != nil {
		w.t.Fatal(err)
	}
	k := w.caller()
	return k, k.Over(below)
}

// round is a start of netd that looks once at what is left to do.
func (w *world) round() {
	w.t.Helper()
	w.left = -1
	k, _ := w.addresses()
	if err := remote.Round(k, w.t.Context(), nil, func() []plan.Owner { return nil }); err != nil {
		w.t.Fatal(err)
	}
}

// After a crash at any write, what a plugin has given to a network or endpoint without a record goes back.
func TestCrashWhileAddressesAreGiven(t *testing.T) {
	w := newWorld(t)
	n := cnm.Network{ID: strings.Repeat("a", 64), Name: "web", Driver: "bridge", Scope: cnm.Local, Phase: cnm.Active,
		IPv4: true, IPv6: true, IPAM: &cnm.NetworkIPAM{Driver: "p"}}
	requests := []cnm.PoolRequest{{Subnet: netip.MustParsePrefix("10.7.0.0/24"),
		Aux: map[string]netip.Addr{"r": netip.MustParseAddr("10.7.0.9")}}, {IPv6: true}}
	const network = "pool 10.7.0.0/24 10.7.0.1 10.7.0.9\npool fd00:77::/64 fd00:77::1"
	const both = "pool 10.7.0.0/24 10.7.0.1 10.7.0.9 10.7.0.2\npool fd00:77::/64 fd00:77::1 fd00:77::2"
	made := func(what string, writes int, want string) {
		t.Helper()
		if got := w.proc.Made(); got != want {
			t.Fatalf("%s, crash after %d writes: the plugin has %q, want %q", what, writes, got, want)
		}
	}
	for writes := 0; ; writes++ {
		_, a := w.addresses()
		w.left = writes
		pools, err := a.Pools(t.Context(), n, requests)
		if err == nil {
			made("pools", writes, network)
			n.Pools = pools
		}
		w.round()
		made("pools", writes, "")
		if err == nil {
			break
		}
	}
	_, a := w.addresses()
	if _, err := a.Pools(t.Context(), n, requests); err != nil {
		t.Fatal(err)
	}
	put, err := cnm.Put(cnm.KindNetwork, n.ID, n, 0)
	if err == nil {
		err = w.Commit(t.Context(), put)
	}
	if err != nil {
		t.Fatal(err)
	}
	owner := "endpoint/" + w.end.ID
	want := []netip.Addr{netip.MustParseAddr("fd00:77::2")}
	before := []netip.Addr{netip.MustParseAddr("10.7.0.2")}
	for writes := 0; ; writes++ {
		_, a := w.addresses()
		w.left = writes
		claim, err := a.Claim(t.Context(), n, owner, want, before)
		if err == nil {
			made("addresses", writes, both)
			if len(claim.Addrs) != 2 || claim.Addrs[0].String() != "10.7.0.2/24" {
				t.Errorf("claimed %v", claim.Addrs)
			}
		}
		w.round()
		made("addresses", writes, network)
		if err == nil {
			break
		}
	}
	k, a := w.addresses()
	claim, err := a.Claim(t.Context(), n, owner, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	claim.Done(false)
	made("a claim that is not committed", 0, network)
	if err := w.Commit(t.Context(), cnm.Write{Key: put.Key, Revision: revision(t, w, put.Key)}); err != nil {
		t.Fatal(err)
	}
	a.Forget(n.ID)
	if err := remote.Round(k, t.Context(), nil, func() []plan.Owner { return nil }); err != nil {
		t.Fatal(err)
	}
	made("a network that was removed", 0, "")
	if grants, err := cnm.ListGrants(t.Context(), w); err != nil || len(grants) > 0 {
		t.Errorf("left over: %v, %v", grants, err)
	}
}

func revision(t *testing.T, w *world, key cnm.Key) uint64 {
	t.Helper()
	rec, err := w.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	return rec.Revision
}

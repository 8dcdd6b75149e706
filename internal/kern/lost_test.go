package kern

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/internal/kern/kerntest"
	"github.com/vethloom/vethloom/plan"
)

// TestLostNotifications watches with room for next to none, while many come: the watcher
// is told to look, and after that no change is missed.
func TestLostNotifications(t *testing.T) {
	env := kerntest.New(t)
	k, err := Open(Config{RunDir: env.RunDir})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	k.buffer = 1 // the kernel rounds it up to its least
	ctx := context.Background()
	want := plan.State{
		Links: []plan.Link{{Name: "vlf-1", Owner: "network/1", Kind: plan.VXLAN, MTU: 1450, Up: true,
			VXLAN: plan.VXLANDevice{VNI: 1, Port: 8472, Local: netip.MustParseAddr("192.0.2.1")}}},
		Addrs: []plan.Addr{{Link: "vlf-1", Prefix: netip.MustParsePrefix("10.2.1.0/32")}},
	}
	for i := range 1000 {
		mac := plan.MAC{2, 1, 0, 0, byte(i >> 8), byte(i)}
		want.FDB = append(want.FDB, plan.FDBEntry{Link: "vlf-1", MAC: mac, Dst: netip.MustParseAddr("192.0.2.2")})
		want.Neighs = append(want.Neighs,
			plan.Neigh{Link: "vlf-1", IP: netip.AddrFrom4([4]byte{10, 3, byte(i >> 8), byte(i)}), MAC: mac})
	}
	drift, err := k.Drift(ctx)
	if err != nil {
		t.Fatal(err)
	}
	host, err := k.HostChanged(ctx)
	if err != nil {
		t.Fatal(err)
	}
	repair := func() int {
		t.Helper()
		have, err := k.Observe(ctx, nil)
		if err != nil {
			t.Fatal(err)
		}
		ops := plan.Diff(want, have)
		if err := k.Apply(ctx, ops); err != nil {
			t.Fatal(err)
		}
		return len(ops)
	}
	repair()
	drain(drift)
	if n := repair(); n > 0 {
		t.Errorf("%d operations again", n)
	}
	drain(drift)

	// A flood of others' links, and in it changes of ours that nobody hears of.
	var flood strings.Builder
	for i := range 100 {
		fmt.Fprintf(&flood, "link add fl%d type bridge\n", i)
	}
	batch := func(lines string) {
		t.Helper()
		file := filepath.Join(t.TempDir(), "batch")
		if err := os.WriteFile(file, []byte(lines), 0o600); err != nil {
			t.Fatal(err)
		}
		env.Run("ip", "-batch", file)
	}
	batch(flood.String() + "addr del 10.2.1.0/32 dev vlf-1\n" + strings.ReplaceAll(flood.String(), " add ", " del "))
	wakes(t, drift, "a flood")
	wakes(t, host, "a flood")
	if n := repair(); n == 0 {
		t.Error("nothing to repair")
	}
	drain(drift)

	// A flood of entries: one of ours goes in it.
	var entries strings.Builder
	for i := range 2000 {
		fmt.Fprintf(&entries, "neigh add 10.9.%d.%d lladdr 02:00:00:00:00:09 dev vlf-1 nud permanent\n", i>>8, i&255)
	}
	batch(entries.String() + "neigh del 10.3.0.7 dev vlf-1\n" + strings.ReplaceAll(entries.String(), " add ", " del "))
	wakes(t, drift, "a flood of neighbours")
	if n := repair(); n != 1 {
		t.Errorf("%d operations to repair one neighbour", n)
	}
	drain(drift)

	// What comes after the floods is heard of one by one: also on links made meanwhile.
	want.Links = append(want.Links, plan.Link{Name: "vlt-2", Owner: "network/2", Kind: plan.TUN, MTU: 1400, Up: true})
	want.Addrs = append(want.Addrs, plan.Addr{Link: "vlt-2", Prefix: netip.MustParsePrefix("10.4.1.0/32")})
	repair()
	drain(drift)
	for _, change := range []string{"ip addr del 10.4.1.0/32 dev vlt-2", "ip neigh del 10.3.0.8 dev vlf-1",
		"ip link del vlf-1", "ip link del vlt-2"} {
		env.Sh(change)
		wakes(t, drift, change)
		if repair() == 0 {
			t.Errorf("nothing to repair after %s", change)
		}
		drain(drift)
	}
	want = plan.State{}
	repair()
}

func wakes(t *testing.T, c <-chan struct{}, what string) {
	t.Helper()
	await.From(t, "a wake by "+what, c)
}

// drain waits until c is quiet, as it must become.
func drain(c <-chan struct{}) {
	for range 100 {
		select {
		case <-c:
		case <-time.After(150 * time.Millisecond):
			return
		}
	}
	panic("woken again and again")
}

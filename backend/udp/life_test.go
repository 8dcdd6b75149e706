package udp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/internal/handover"
	"github.com/vethloom/vethloom/plan"
)

const childEnv = "VETHLOOM_UDP_TEST_CHILD"

// noHolder in place of a path has nobody hold what a child has open.
const noHolder = "-"

// childMain is another process of a test: one that holds open files, or a netd of its own that opens a side's tunnel,
// or goes on with it, and stays until its standard input ends.
func childMain() bool {
	args := strings.Fields(os.Getenv(childEnv))
	if len(args) == 0 {
		return false
	}
	be := func() error { return beNetd(args) }
	if args[0] == "hold" {
		be = func() error { return beHolder(os.Args[1]) }
	}
	if err := be(); err != nil {
		fmt.Println(err)
	}
	return true
}

func beNetd(args []string) error {
	cfg := Config{}
	if args[0] != noHolder {
		keeper := handover.New(handover.Config{Path: args[0], Command: holder,
			Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
		defer keeper.Close()
		cfg.Keeper = keeper
	}
	h := New(cfg)
	defer h.Shutdown()
	h.Resume()
	if tunnels, _ := h.List(); len(tunnels) > 0 {
		fmt.Println("resumed")
	} else {
		if err := openAs(h, args[1:]); err != nil {
			return err
		}
		fmt.Println("opened")
	}
	drain(os.Stdin)
	return nil
}

// openAs opens a tunnel to one remote. How it is comes as words.
func openAs(h *Host, args []string) error {
	t := plan.Tunnel{Link: testLink, Local: netip.MustParseAddr(args[0]), Port: 8285,
		Inside: []netip.Prefix{netip.MustParsePrefix(args[1])}, Plain: args[4] == "true"}
	if err := h.Add(plan.TunnelPeer{Link: testLink, Prefix: netip.MustParsePrefix(args[2]),
		Dst: netip.MustParseAddr(args[3])}); err != nil {
		return err
	}
	return h.Open(context.Background(), t)
}

// TestKilled has the tunnel in another process, which is killed, and nobody holds what it had: the link stays, and the
// next process goes on with it.
func TestKilled(t *testing.T) {
	lab := newLab(t, labConfig{})
	a, b := lab[0], lab[1]
	a.host.Shutdown()
	child := a.netd("opened", noHolder, b)
	reaches(t, a, b)

	if err := a.open(); !errors.Is(err, unix.EADDRINUSE) || !strings.Contains(err.Error(), "192.0.2.1:8285") {
		t.Errorf("opened beside another process: %v", err)
	}
	child.kill()
	a.run("ip", "route", "get", b.inner4.String(), "oif", testLink)
	if err := a.host.Add(plan.TunnelPeer{Link: testLink, Prefix: b.net4, Dst: b.outer}); err != nil {
		t.Fatal(err)
	}
	if err := a.open(); err != nil {
		t.Fatal(err)
	}
	reaches(t, a, b)
}

func TestDeletedLink(t *testing.T) {
	for _, plain := range []bool{false, true} {
		t.Run(fmt.Sprintf("plain %v", plain), func(t *testing.T) {
			cfg := labConfig{plain: [2]bool{plain, plain}}
			lab := newLab(t, cfg)
			a, b := lab[0], lab[1]
			_, remotes := a.host.List()
			a.ip("link del " + testLink)
			if got := <-a.died; got != testLink {
				t.Errorf("%q died", got)
			}
			tunnels, left := a.host.List()
			if len(tunnels) != 0 || !slices.Equal(left, remotes) {
				t.Errorf("without its link: %v, %v", tunnels, left)
			}
			if err := a.open(); !errors.Is(err, ErrNoLink) {
				t.Errorf("opened without a link: %v", err)
			}
			if out, err := a.try("ip", "link", "show", testLink); err == nil {
				t.Errorf("opening made a link:\n%s", out)
			}
			a.makeTUN(labConfig{mtu: 1500})
			if err := a.open(); err != nil {
				t.Fatal(err)
			}
			reaches(t, a, b)
			if tunnels, _ := a.host.List(); !cmp.Equal(tunnels, []plan.Tunnel{a.tunnel}, cmp.Comparer(equalAddr),
				cmp.Comparer(equalPrefix)) {
				t.Errorf("opened again: %v", tunnels)
			}
		})
	}
}

func equalAddr(a, b netip.Addr) bool     { return a == b }
func equalPrefix(a, b netip.Prefix) bool { return a == b }

// TestChanged opens an open tunnel with other values.
func TestChanged(t *testing.T) {
	lab := newLab(t, labConfig{})
	a, b := lab[0], lab[1]
	for _, s := range lab {
		s.tunnel.Port, s.tunnel.Plain = 9000, true
		if err := s.open(); err != nil {
			t.Fatal(err)
		}
	}
	reaches(t, a, b)

	a.tunnel.Inside = []netip.Prefix{netip.MustParsePrefix("10.9.1.128/25")}
	if err := a.open(); err != nil {
		t.Fatal(err)
	}
	if out, err := a.box.try("ping", "-c", "1", "-W", "1", b.inner4.String()); err == nil {
		t.Errorf("what is no longer inside still gets answers:\n%s", out)
	}
	r := plan.TunnelPeer{Link: testLink, Prefix: a.net4, Dst: netip.MustParseAddr("192.0.2.99")}
	for _, change := range []func(plan.TunnelPeer) error{b.host.Add, b.host.Remove} {
		if err := change(r); err != nil {
			t.Fatal(err)
		}
	}
	want := []plan.TunnelPeer{{Link: testLink, Prefix: a.net6, Dst: a.outer}}
	if _, remotes := b.host.List(); !slices.Equal(remotes, want) {
		t.Errorf("remotes %v, want %v", remotes, want)
	}
}

// TestShutdownLeavesTheLink also checks, with goleak at the end of all tests, that nothing runs on.
func TestShutdownLeavesTheLink(t *testing.T) {
	a := newLab(t, labConfig{})[0]
	a.host.Shutdown()
	a.run("ip", "link", "show", testLink)
	if tunnels, remotes := a.host.List(); len(tunnels)+len(remotes) != 0 {
		t.Errorf("after shutdown: %v, %v", tunnels, remotes)
	}
	if err := a.open(); err != nil {
		t.Errorf("open after shutdown: %v", err)
	}
	if err := a.host.Close(testLink); err != nil {
		t.Error(err)
	}
	if err := a.host.Close(testLink); err != nil {
		t.Error(err)
	}
}

func TestRefusedInput(t *testing.T) {
	good := plan.Tunnel{Link: "vlt-x", Local: netip.MustParseAddr("127.0.0.1"), Port: 8285}
	for name, change := range map[string]func(*plan.Tunnel){
		"no link":       func(t *plan.Tunnel) { t.Link = "" },
		"long link":     func(t *plan.Tunnel) { t.Link = "sixteen-bytes-xx" },
		"no address":    func(t *plan.Tunnel) { t.Local = netip.Addr{} },
		"any address":   func(t *plan.Tunnel) { t.Local = netip.IPv4Unspecified() },
		"no port":       func(t *plan.Tunnel) { t.Port = 0 },
		"empty prefix":  func(t *plan.Tunnel) { t.Inside = []netip.Prefix{{}} },
		"link not made": func(t *plan.Tunnel) { t.Link = "vlt-none" },
	} {
		bad := good
		change(&bad)
		s := newSpace(t)
		h := New(Config{})
		s.do(func() {
			if err := h.Open(context.Background(), bad); err == nil {
				t.Errorf("%s: opened", name)
			}
		})
		h.Shutdown()
	}
	h := New(Config{})
	for _, r := range []plan.TunnelPeer{
		{},
		{Link: "x", Prefix: netip.MustParsePrefix("10.0.0.1/8"), Dst: netip.MustParseAddr("192.0.2.1")},
		{Link: "x", Prefix: netip.MustParsePrefix("10.0.0.0/8")},
	} {
		if err := h.Add(r); err == nil {
			t.Errorf("added %+v", r)
		}
	}
}

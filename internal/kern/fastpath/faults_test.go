package fastpath_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"github.com/vethloom/vethloom/internal/kern/fastpath"
	"github.com/vethloom/vethloom/internal/kern/kerntest"
	"github.com/vethloom/vethloom/plan"
)

// unknown has the programs call a function that no kernel has in place of this one.
func unknown(f asm.BuiltinFunc) func(*ebpf.CollectionSpec) {
	return func(s *ebpf.CollectionSpec) {
		for _, p := range s.Programs {
			for i := range p.Instructions {
				if ins := &p.Instructions[i]; ins.IsBuiltinCall() && ins.Constant == int64(f) {
					ins.Constant = 9999
				}
			}
		}
	}
}

// TestKernelsThatRefuseThePrograms have not a function that the programs call, or find fault with them. What is at
// links goes on as it was.
func TestKernelsThatRefuseThePrograms(t *testing.T) {
	n := newNode(t, kerntest.New(t), "", "tcx")
	a, b := n.box(2, "0"), n.box(3, "0")
	a.fast(false)
	b.fast(false)
	has := n.path
	for _, c := range []struct {
		name, words string
		change      func(*ebpf.CollectionSpec)
	}{
		{"no redirect_peer", "9999", unknown(asm.FnRedirectPeer)},
		{"no redirect_neigh", "9999", unknown(asm.FnRedirectNeigh)},
		{"a doubt", "R9 !read_ok", func(s *ebpf.CollectionSpec) {
			p := s.Programs["vethloom_enter"]
			p.Instructions = slices.Insert(p.Instructions, 1, asm.Mov.Reg(asm.R0, asm.R9))
		}},
	} {
		p, err := fastpath.OpenAs(n.at, n.enter, nil, c.change)
		n.must(err)
		err = p.Load()
		if !errors.Is(err, fastpath.ErrUnsupported) || !strings.Contains(err.Error(), "want Linux 5.10 or newer") ||
			!strings.Contains(err.Error(), c.words) {
			t.Errorf("%s: %v", c.name, err)
		}
		if err := p.PutCounter(plan.FastCounter{Network: network}); !errors.Is(err, fastpath.ErrUnsupported) {
			t.Errorf("%s: a counter: %v", c.name, err)
		}
		n.must(p.Close())
	}
	a.in(fmt.Sprintf("ping -q -c 3 -i 0.01 -W 1 %s", b.addrs[0]))
	if f, ok := a.program(); !ok || f.Stale || n.path != has {
		t.Errorf("the program of %s is seen as %+v, %v", a.link(), f, ok)
	}
}

// TestFullTables puts more into tables than they take.
func TestFullTables(t *testing.T) {
	n := newNode(t, kerntest.New(t), "", "tcx")
	n.openWith(func(s *ebpf.CollectionSpec) {
		for _, m := range s.Maps {
			m.MaxEntries = 2
		}
	})
	a, b := n.box(2, "0"), n.box(3, "0")
	put := func(b *box) (err error) {
		for _, addr := range b.addrs {
			err = errors.Join(err, n.path.PutEndpoint(plan.FastEndpoint{Network: network, Addr: addr, Link: b.link(),
				MAC: b.mac(), Via: plan.MAC{2, 0, 0, 0, 0, 1}, MTU: 1500}, n.index))
		}
		return err
	}
	n.must(n.path.PutCounter(plan.FastCounter{Network: network}))
	n.must(put(a))
	n.must(put(a)) // what is there is no more
	for _, c := range []struct {
		table string
		put   func(i int) error
	}{
		{"endpoints", func(int) error { return put(b) }},
		{"traffic", func(i int) error {
			return n.path.PutCounter(plan.FastCounter{Network: plan.FastNetwork(fmt.Sprintf("%016x", i+1))})
		}},
		{"ports", func(i int) error {
			return n.path.PutPort(plan.FastPort{Network: network, Addr: a.addrs[0], Proto: plan.TCP,
				Port: uint16(i + 1)})
		}},
		{"peers", func(i int) error {
			return n.path.PutPeer(plan.FastPeer{Network: network, Way: plan.FastPlain, MTU: 1500,
				Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 2, byte(i), 0}), 24)}, 1, fastpath.Hop{Link: 1})
		}},
		{"tunnels", func(i int) error {
			return n.path.PutTunnel(plan.FastTunnel{Port: uint16(i + 1), Way: plan.FastVXLAN}, n.index)
		}},
		{"links", func(i int) error {
			return n.path.Attach(uint32(1000+i), plan.FastProgram{Link: "gone", Network: network, MAC: a.mac()})
		}},
	} {
		var err error
		for i := range 3 {
			if err = c.put(i); err != nil && strings.Contains(err.Error(), "full") {
				break
			}
		}
		want := "the fast path's table " + c.table + " is full: what does not fit takes the slow path"
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", c.table, err)
		}
	}
	ping := fmt.Sprintf("ping -q -c 3 -i 0.01 -W 1 %s", b.addrs[0])
	a.in(ping)
	if c := n.counts(); c.Packets[fastpath.Fast] != 0 {
		t.Errorf("%d packets took the fast path to an endpoint that does not fit", c.Packets[fastpath.Fast])
	}
}

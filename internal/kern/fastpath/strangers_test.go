package fastpath_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"github.com/vethloom/vethloom/internal/kern/fastpath"
	"github.com/vethloom/vethloom/internal/kern/kerntest"
	"github.com/vethloom/vethloom/plan"
)

// foreign has somebody else's program, or filter, at a link, which drops everything or passes everything on.
func (n *node) foreign(linkName string, drops bool) {
	n.t.Helper()
	if n.at == "filters" {
		n.sh(fmt.Sprintf("tc qdisc show dev %[1]s clsact | grep -q . || tc qdisc add dev %[1]s clsact\n"+
			"tc filter add dev %[1]s ingress bpf da bytecode '1,6 0 0 %[2]d,'", linkName,
			map[bool]uint32{false: 1<<32 - 1, true: 2}[drops]))
		return
	}
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "foreign", Type: ebpf.SchedCLS, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, map[bool]int32{false: -1, true: 2}[drops]), asm.Return()}})
	n.must(err)
	n.t.Cleanup(func() { p.Close() })
	index, err := n.index(linkName)
	n.must(err)
	n.must(n.env.Do(n.ns, func() error {
		return link.RawAttachProgram(link.RawAttachProgramOptions{Target: int(index), Program: p,
			Attach: ebpf.AttachTCXIngress})
	}))
}

// names are the programs at a link's ingress, in their order. Filters of others have their kind.
func (n *node) names(linkName string) (out []string) {
	n.t.Helper()
	if n.at == "filters" {
		for l := range strings.Lines(n.sh("tc filter show dev " + linkName + " ingress")) {
			_, after, ok := strings.Cut(l, " handle ")
			f := strings.Fields(l)
			if _, name, program := strings.Cut(after, " name "); program {
				out = append(out, strings.Fields(name)[0])
			} else if ok && f[0] == "filter" {
				out = append(out, f[5])
			}
		}
		return out
	}
	n.programs(linkName, func(p *ebpf.Program, _ uint32) error {
		info, err := p.Info()
		if err == nil {
			out = append(out, info.Name)
		}
		return err
	})
	return out
}

// programs calls f with the programs of tcx at a link.
func (n *node) programs(linkName string, f func(p *ebpf.Program, index uint32) error) {
	n.t.Helper()
	index, err := n.index(linkName)
	n.must(err)
	n.must(n.env.Do(n.ns, func() error {
		r, err := link.QueryPrograms(link.QueryOptions{Target: int(index), Attach: ebpf.AttachTCXIngress})
		if err != nil {
			return err
		}
		for _, a := range r.Programs {
			p, err := ebpf.NewProgramFromID(a.ID)
			if err != nil {
				return err
			}
			err = f(p, index)
			p.Close()
			if err != nil {
				return err
			}
		}
		return nil
	}))
}

// strip takes every program off a link, as somebody else would.
func (n *node) strip(linkName string) {
	n.t.Helper()
	if n.at == "filters" {
		n.sh("tc qdisc del dev " + linkName + " clsact")
		return
	}
	n.programs(linkName, func(p *ebpf.Program, index uint32) error {
		return link.RawDetachProgram(link.RawDetachProgramOptions{Target: int(index), Program: p,
			Attach: ebpf.AttachTCXIngress})
	})
}

// TestStrangersAtALink has programs of others before and behind ours, and somebody who detaches ours. As filters, those
// of others are all before.
func TestStrangersAtALink(t *testing.T) { eachAttachment(t, strangers) }

func strangers(t *testing.T, at fastpath.Attachment) {
	n := newNode(t, kerntest.New(t), "", at)
	n.must(n.path.PutCounter(plan.FastCounter{Network: network}))
	a, b := n.box(2, "0"), n.box(3, "0")
	n.foreign(a.link(), false)
	a.fast(false)
	n.foreign(a.link(), false)
	b.fast(false)
	a.fast(false) // once more changes nothing
	with, without := "[foreign vethloom_leave foreign]", "[foreign foreign]"
	if at == "filters" {
		with, without = "[bpf bpf vethloom_leave]", "[bpf bpf]"
	}
	if got := fmt.Sprint(n.names(a.link())); got != with {
		t.Errorf("at the link are %s, want %s", got, with)
	}
	ping := fmt.Sprintf("ping -q -c 3 -i 0.01 -W 1 %s", b.addrs[0])
	a.in(ping)
	if c := n.counts(); c.Packets[fastpath.Fast] != 6 {
		t.Errorf("%d packets took the fast path beside other programs", c.Packets[fastpath.Fast])
	}
	index, err := n.index(a.link())
	n.must(err)
	n.must(n.path.Detach(index))
	n.must(n.path.Detach(index))
	if got := fmt.Sprint(n.names(a.link())); got != without {
		t.Errorf("left at the link are %s", got)
	}
	a.in(ping)
	if _, ok := a.program(); ok {
		t.Error("a program is seen that was taken off")
	}
	a.fast(false)
	n.strip(a.link())
	if f, ok := a.program(); !ok || !f.Stale {
		t.Errorf("a program that a stranger has taken off is seen as %+v, %v", f, ok)
	}
	a.fast(false)
	if f, ok := a.program(); !ok || f.Stale {
		t.Errorf("a program that came again is seen as %+v, %v", f, ok)
	}
	n.strip(a.link())
	n.foreign(a.link(), true)
	a.fast(false)
	a.in("! " + ping) // who decides first has decided
	n.sh("ip link del " + a.link())
	all, err := n.path.Programs(n.links())
	n.must(err)
	if len(all) != 2 {
		t.Errorf("after a link has gone, these are seen: %+v", all)
	}
}

// TestTheQueueGoesWithItsMaker has programs as filters at links that have a queue already, or get one for the program.
func TestTheQueueGoesWithItsMaker(t *testing.T) {
	n := newNode(t, kerntest.New(t), "", "filters")
	n.sh(`ip link add up0 up type veth peer name up1`)
	t.Cleanup(func() { n.sh("ip link del up0") })
	index, err := n.index("up0")
	n.must(err)
	uplink := plan.FastProgram{Link: "up0"}
	const pass = "bpf da bytecode '1,6 0 0 4294967295,'" // to the next one
	queues := func() int { return strings.Count(n.sh("tc qdisc show dev up0"), "ffff: ") }
	for _, c := range []struct {
		name, before, between string
		left                  int
	}{
		{name: "ours"},
		{name: "an operator's", before: "tc qdisc add dev up0 clsact", left: 1},
		{name: "an operator's of another kind", before: "tc qdisc add dev up0 ingress", left: 1},
		{name: "ours with another filter", between: "tc filter add dev up0 ingress " + pass, left: 1},
		{name: "ours with a filter of what goes out", between: "tc filter add dev up0 egress " + pass,
			left: 1},
	} {
		n.sh(c.before)
		n.must(n.path.Attach(index, uplink))
		n.sh(c.between)
		n.must(n.path.Attach(index, uplink)) // replaces it
		if got := n.names("up0"); got[len(got)-1] != "vethloom_enter" || queues() != 1 {
			t.Errorf("%s: at the link are %s, with %d queues", c.name, got, queues())
		}
		n.must(n.path.Detach(index))
		if got := queues(); got != c.left {
			t.Errorf("%s: %d queues are left, want %d", c.name, got, c.left)
		}
		if c.between != "" && !strings.Contains(n.sh("tc filter show dev up0 ingress; tc filter show dev up0 egress"),
			"bytecode") {
			t.Errorf("%s: the operator's filter has gone", c.name)
		}
		n.sh("tc qdisc del dev up0 handle ffff: ingress || tc qdisc del dev up0 clsact || true")
	}
}

// TestIPv6WithAddressesOfIPv4TakesTheSlowPath has IPv6 packets carry addresses of IPv4 (::ffff:10.1.1.11), which tables
// know endpoints of IPv4 by. No rule lets them out of a container, nor does a node without the fast path send them.
func TestIPv6WithAddressesOfIPv4TakesTheSlowPath(t *testing.T) {
	b := newBench(t, kerntest.New(t))
	mapped := func(a string) netip.Addr { return netip.AddrFrom16(addr(a).As16()) }
	packet := func(src, dst netip.Addr) []byte { return ip(src, dst, 17, udp(1000, 2000, nil)) }
	for name, s := range map[string]seed{
		"near": {at: fastpath.AtLeave,
			frame: ether(macB, macA, true, packet(mapped("10.1.1.11"), mapped("10.1.1.12")))},
		"far": {at: fastpath.AtLeave,
			frame: ether(macFar, macA, true, packet(mapped("10.1.1.11"), mapped("10.1.25.7")))},
		"to IPv4": {at: fastpath.AtLeave,
			frame: ether(macB, macA, true, packet(addr("fd00:1::11"), mapped("10.1.1.12")))},
		"in": {at: fastpath.AtEnter,
			frame: b.wrap(5, b.ways()[5], macA, true, packet(mapped("10.1.25.7"), mapped("10.1.1.11")))},
	} {
		if err := b.judge(s.at, s.frame, 0); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

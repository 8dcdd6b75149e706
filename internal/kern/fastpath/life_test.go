package fastpath_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/internal/kern/fastpath"
	"github.com/vethloom/vethloom/internal/kern/kerntest"
	"github.com/vethloom/vethloom/plan"
)

// program is what is seen of the program at a box's link.
func (b *box) program() (f plan.FastProgram, ok bool) {
	b.t.Helper()
	all, err := b.path.Programs(b.links())
	b.must(err)
	for _, f := range all {
		if f.Link == b.link() {
			return f, true
		}
	}
	return f, false
}

func (n *node) must(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatal(err)
	}
}

// TestAnotherPathFindsWhatIsThere ends the process's hold on the fast path while packets take it.
func TestAnotherPathFindsWhatIsThere(t *testing.T) {
	n := newNode(t, kerntest.New(t), "")
	n.must(n.path.PutCounter(plan.FastCounter{Network: network}))
	a, b := n.box(2, "0"), n.box(3, "0")
	a.fast(false)
	b.fast(false)
	ping := fmt.Sprintf("ping -q -c 20 -i 0.002 -W 1 %s", b.addrs[0])
	a.in(ping)
	before := n.counts().Packets[fastpath.Fast]
	n.must(n.path.Close())
	a.in(ping)
	n.open()
	if now := n.counts().Packets[fastpath.Fast]; now != before+40 {
		t.Errorf("%d packets took the fast path while nobody held it, want 40", now-before)
	}
	if f, ok := a.program(); !ok || f.Stale || f.MAC != a.mac() || f.Network != network {
		t.Errorf("the program of %s is seen as %+v, %v", a.link(), f, ok)
	}
	endpoints, err := n.path.Endpoints(n.links())
	if err != nil || len(endpoints) != 4 {
		t.Errorf("%d endpoints, %v", len(endpoints), err)
	}
}

// foreign is somebody else's program at a link, which passes everything on.
func foreign(t *testing.T, n *node, linkName string) *ebpf.Program {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "foreign", Type: ebpf.SchedCLS, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()}})
	n.must(err)
	t.Cleanup(func() { p.Close() })
	index, err := n.index(linkName)
	n.must(err)
	n.must(n.env.Do(n.ns, func() error {
		return link.RawAttachProgram(link.RawAttachProgramOptions{Target: int(index), Program: p,
			Attach: ebpf.AttachTCXIngress})
	}))
	return p
}

// names are the programs at a link's ingress, in their order.
func (n *node) names(linkName string) (out []string) {
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
			info, err := p.Info()
			p.Close()
			if err != nil {
				return err
			}
			out = append(out, info.Name)
		}
		return nil
	}))
	return out
}

// TestStrangersAtALink has programs of others before and behind ours, and somebody who detaches ours.
func TestStrangersAtALink(t *testing.T) {
	n := newNode(t, kerntest.New(t), "")
	n.must(n.path.PutCounter(plan.FastCounter{Network: network}))
	a, b := n.box(2, "0"), n.box(3, "0")
	foreign(t, n, a.link())
	a.fast(false)
	foreign(t, n, a.link())
	b.fast(false)
	a.fast(false) // once more changes nothing
	want := "[foreign vethloom_leave foreign]"
	if got := fmt.Sprint(n.names(a.link())); got != want {
		t.Errorf("at the link are %s, want %s", got, want)
	}
	a.in(fmt.Sprintf("ping -q -c 3 -i 0.01 -W 1 %s", b.addrs[0]))
	if c := n.counts(); c.Packets[fastpath.Fast] != 6 {
		t.Errorf("%d packets took the fast path beside other programs", c.Packets[fastpath.Fast])
	}
	index, err := n.index(a.link())
	n.must(err)
	n.must(n.path.Detach(index))
	if got := fmt.Sprint(n.names(a.link())); got != "[foreign foreign]" {
		t.Errorf("left at the link are %s", got)
	}
	a.in(fmt.Sprintf("ping -q -c 3 -i 0.01 -W 1 %s", b.addrs[0]))
	if _, ok := a.program(); ok {
		t.Error("a program is seen that was taken off")
	}
	a.fast(false)
	strip(t, n, a.link())
	if f, ok := a.program(); !ok || !f.Stale {
		t.Errorf("a program that a stranger has taken off is seen as %+v, %v", f, ok)
	}
	a.fast(false)
	if f, ok := a.program(); !ok || f.Stale {
		t.Errorf("a program that came again is seen as %+v, %v", f, ok)
	}
	n.sh("ip link del " + a.link())
	all, err := n.path.Programs(n.links())
	n.must(err)
	if len(all) != 2 {
		t.Errorf("after a link has gone, these are seen: %+v", all)
	}
}

// strip takes every program off a link, as somebody else would.
func strip(t *testing.T, n *node, linkName string) {
	t.Helper()
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
			err = link.RawDetachProgram(link.RawDetachProgramOptions{Target: int(index), Program: p,
				Attach: ebpf.AttachTCXIngress})
			p.Close()
			if err != nil {
				return err
			}
		}
		return nil
	}))
}

const withoutBPF = "VETHLOOM_TEST_WITHOUT_BPF"

// TestAKernelWithoutBPF has the call denied, in a process of its own: what a process learns of the kernel it remembers.
func TestAKernelWithoutBPF(t *testing.T) {
	if number := os.Getenv(withoutBPF); number != "" {
		var errno int
		if _, err := fmt.Sscan(number, &errno); err != nil {
			t.Fatal(err)
		}
		if err := onDeniedThread(errno); err != nil {
			t.Fatal(err)
		}
		return
	}
	for _, errno := range []unix.Errno{unix.ENOSYS, unix.EPERM} {
		cmd := exec.Command(os.Args[0], "-test.run=^TestAKernelWithoutBPF$")
		cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", withoutBPF, int(errno)))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v: %v\n%s", errno, err, out)
		}
	}
}

// onDeniedThread looks for the fast path on a thread whose calls of bpf(2) fail.
func onDeniedThread(errno int) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the filter stays on the thread
		done <- func() error {
			filter := []unix.SockFilter{
				{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}, // the number of the call
				{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_BPF, Jf: 1},
				{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(errno)},
				{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
			}
			prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
			if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&prog)), 0,
				0); err != nil {
				return err
			}
			p, err := fastpath.Open(func(f func() error) error { return f() }, []uint32{1})
			if err != nil {
				return fmt.Errorf("open: %w", err)
			}
			defer p.Close()
			if err := p.Load(); !errors.Is(err, fastpath.ErrUnsupported) {
				return fmt.Errorf("load: %v", err)
			}
			if p.Found() {
				return errors.New("something was found")
			}
			return p.Detach(1)
		}()
	}()
	return <-done
}

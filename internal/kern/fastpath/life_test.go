package fastpath_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"testing"

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

// TestALinkGoesBeforeItsProgram has somebody remove a link that nothing of ours was taken off before.
func TestALinkGoesBeforeItsProgram(t *testing.T) {
	n := newNode(t, kerntest.New(t), "", "")
	a, b := n.box(2, "0"), n.box(3, "0")
	a.fast(false)
	b.fast(false)
	f, _ := a.program()
	n.env.Sh("ip link del " + a.link())
	n.must(n.path.Forget(0, f))
	all, err := n.path.Programs(n.links())
	if err != nil || len(all) != 1 || all[0].Link != b.link() || all[0].Stale {
		t.Errorf("left: %+v, %v; want that of %s", all, err, b.link())
	}
}

// TestAnotherPathFindsWhatIsThere ends the process's hold on the fast path while packets take it.
func TestAnotherPathFindsWhatIsThere(t *testing.T) { eachAttachment(t, anotherPath) }

func anotherPath(t *testing.T, at fastpath.Attachment) {
	n := newNode(t, kerntest.New(t), "", at)
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
			if err := kerntest.DenyBPF(unix.Errno(errno)); err != nil {
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

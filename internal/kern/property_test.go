package kern_test

import (
	"context"
	"flag"
	"strconv"
	"testing"

	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/internal/kern"
	"github.com/vethloom/vethloom/internal/kern/kerntest"
	"github.com/vethloom/vethloom/plan"
	"pgregory.net/rapid"
)

// settles fails unless the kernel gets to what is wanted by itself: it takes its
// time with links whose far end was in a namespace that was let go.
func settles(t *rapid.T, k *kern.Kernel, want plan.State) {
	var rest []plan.Op
	settled := await.Holds(func() bool {
		rest = plan.Diff(want, observe(t, k, want.Sysctls))
		return len(rest) == 0
	})
	if !settled {
		t.Fatalf("still to do:\n%s", lines(rest))
	}
}

// fewer makes a property run n times, unless the command line asks for another number: namespaces
// take the kernel a while.
func fewer(t *testing.T, n int) {
	f := flag.Lookup("rapid.checks")
	if f.Value.String() != f.DefValue {
		return
	}
	if err := f.Value.Set(strconv.Itoa(n)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Value.Set(f.DefValue); err != nil {
			t.Error(err)
		}
	})
}

// TestDiffConverges takes the real kernel through random states: a part of the
// operations, as if a crash came, and then a fresh pass, which must get there.
func TestDiffConverges(t *testing.T) {
	fewer(t, 25)
	env := kerntest.New(t)
	tunnels := &kerntest.Tunnels{}
	k := openWith(t, kern.Config{RunDir: env.RunDir, Tunnels: tunnels})
	rapid.Check(t, func(t *rapid.T) {
		for range 3 {
			want := kerntest.RandomState(t)
			ops := plan.Diff(want, observe(t, k, want.Sysctls))
			n := rapid.IntRange(0, len(ops)).Draw(t, "crash after")
			if err := k.Apply(context.Background(), ops[:n]); err != nil {
				t.Fatalf("%v\nof\n%s", err, lines(ops[:n]))
			}
			if rapid.Bool().Draw(t, "restart") {
				tunnels.Restart()
			}
			ops = plan.Diff(want, observe(t, k, want.Sysctls))
			if err := k.Apply(context.Background(), ops); err != nil {
				t.Fatalf("%v\nof\n%s", err, lines(ops))
			}
			t.Logf("applied:\n%s", lines(ops))
			settles(t, k, want)
		}
	})
}

package fake_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/internal/kern/fake"
	"github.com/vethloom/vethloom/internal/kern/kerntest"
	"github.com/vethloom/vethloom/plan"
	"pgregory.net/rapid"
)

func lines(ops []plan.Op) string {
	var b strings.Builder
	for _, op := range ops {
		b.WriteString(op.String() + "\n")
	}
	return b.String()
}

func diff(t *rapid.T, k *fake.Kernel, want plan.State) []plan.Op {
	have, err := k.Observe(context.Background(), want.Sysctls)
	if err != nil {
		t.Fatal(err)
	}
	return plan.Diff(want, have)
}

// TestDiffConverges takes a kernel through random states. Each time a part of the
// operations is carried out, as if a crash came, then a fresh pass must get there,
// without ever removing what is not there.
func TestDiffConverges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		k := fake.New()
		k.Strict = true
		for range 4 {
			want := kerntest.RandomState(t)
			ops := diff(t, k, want)
			n := rapid.IntRange(0, len(ops)).Draw(t, "crash after")
			if err := k.Apply(context.Background(), ops[:n]); err != nil {
				t.Fatalf("%v\nof\n%s", err, lines(ops))
			}
			if rapid.Bool().Draw(t, "restart") {
				k.Restart()
			}
			ops = diff(t, k, want)
			if err := k.Apply(context.Background(), ops); err != nil {
				t.Fatalf("%v\nof\n%s\nin\n%s", err, lines(ops), k.Dump())
			}
			if rest := diff(t, k, want); len(rest) > 0 {
				t.Fatalf("still to do:\n%s\nafter\n%s", lines(rest), lines(ops))
			}
		}
	})
}

// TestFailureConverges fails one operation; the next pass must get there.
func TestFailureConverges(t *testing.T) {
	injected := errors.New("injected")
	rapid.Check(t, func(t *rapid.T) {
		k := fake.New()
		for range 2 {
			want := kerntest.RandomState(t)
			ops := diff(t, k, want)
			if len(ops) == 0 {
				continue
			}
			n := rapid.IntRange(0, len(ops)-1).Draw(t, "failing")
			k.FailAt(n, injected)
			err := k.Apply(context.Background(), ops)
			var failed *plan.OpError
			if !errors.Is(err, injected) || !errors.As(err, &failed) || failed.Op.String() != ops[n].String() {
				t.Fatalf("error %v; want operation %d to fail", err, n)
			}
			k.FailOn(nil)
			if err := k.Apply(context.Background(), diff(t, k, want)); err != nil {
				t.Fatal(err)
			}
			if rest := diff(t, k, want); len(rest) > 0 {
				t.Fatalf("still to do:\n%s", lines(rest))
			}
		}
	})
}

// TestDiffIsDeterministic compares the plans for the same states in other orders.
func TestDiffIsDeterministic(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want, have := kerntest.RandomState(t), kerntest.RandomState(t)
		first := lines(plan.Diff(want, have))
		want.Links, have.Links = rapid.Permutation(want.Links).Draw(t, "want"),
			rapid.Permutation(have.Links).Draw(t, "have")
		want.TunnelPeers, have.FDB = rapid.Permutation(want.TunnelPeers).Draw(t, "remotes"),
			rapid.Permutation(have.FDB).Draw(t, "fdb")
		want.Routes, have.Addrs = rapid.Permutation(want.Routes).Draw(t, "routes"),
			rapid.Permutation(have.Addrs).Draw(t, "addrs")
		if second := lines(plan.Diff(want, have)); first != second {
			t.Fatalf("first\n%s\nthen\n%s", first, second)
		}
	})
}

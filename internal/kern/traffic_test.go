package kern_test

import (
	"context"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/internal/kern"
	"github.com/vethloom/vethloom/internal/kern/kerntest"
	"github.com/vethloom/vethloom/plan"
)

// Queues and redirections that others change or remove are noticed and repaired. Those of others stay.
func TestTrafficDrift(t *testing.T) {
	env := kerntest.New(t)
	k := open(t, env)
	drift, err := k.Drift(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	plainly := plan.Union(network(), endpoint())
	want := plan.Union(plainly, plan.State{
		Links: []plan.Link{{Name: "vli-1", Owner: "endpoint/1", Kind: plan.IFB, MTU: 1500, Up: true}},
		Shapers: []plan.Shaper{{Link: "vle-1", Rate: 12_500_000, Burst: 250_000},
			{Link: "vli-1", Rate: 1e6, Burst: 3000}},
		Redirects: []plan.Redirect{{Link: "vle-1", To: "vli-1"}},
	})
	converge(t, k, want)
	calm(t, drift, "our own creation")
	const filters = "tc filter show dev vle-1 ingress"
	for _, change := range []string{
		"tc qdisc del dev vle-1 root",
		"tc qdisc replace dev vle-1 root handle 1: pfifo limit 10",
		"tc qdisc change dev vli-1 root handle 75: tbf rate 64kbit burst 3000 limit 64k || " +
			"tc qdisc del dev vli-1 root",
		"tc qdisc del dev vle-1 clsact",
		"tc filter del dev vle-1 ingress",
		"ip link del vli-1",
		"ip link del vle-1",
	} {
		repaired(t, env, k, drift, want, change)
	}
	env.Sh("tc qdisc add dev vlb-1 root handle 5: pfifo; tc filter add dev vle-1 ingress prio 9 protocol ip u32 " +
		"match u32 0 0 action mirred egress mirror dev vlb-1")
	quiet(t, drift, "a queue of others")
	converge(t, k, plainly)
	got := env.Run("tc", "qdisc", "show")
	if !strings.Contains(got, "pfifo 5: dev vlb-1") || strings.Contains(got, "tbf") {
		t.Errorf("queues afterwards:\n%s", got)
	}
	if got := env.Sh(filters); !strings.Contains(got, "pref 9 ") || strings.Contains(got, "redirect") {
		t.Errorf("filters afterwards:\n%s", got)
	}
	converge(t, k, plan.State{})
	calm(t, drift, "our own removal")
}

// repaired has others change something that is noticed, and repairs it.
func repaired(t *testing.T, env *kerntest.Env, k *kern.Kernel, drift <-chan struct{}, want plan.State, change string) {
	t.Helper()
	env.Sh(change)
	woken(t, drift, change)
	if ops := converge(t, k, want); len(ops) == 0 {
		t.Errorf("%s: nothing to repair", change)
	}
	settled(t, k, want)
	calm(t, drift, "the repair")
}

package nftables

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/plan"
)

// many makes n published ports, and the entries that guard their owners.
func many(n int) []plan.Element {
	out := make([]plan.Element, 0, 2*n)
	for i := range n {
		addr := fmt.Sprintf("10.%d.%d.%d", 1+i>>16, i>>8&0xff, i&0xff)
		scope := plan.Owner(fmt.Sprintf("endpoint/%08x", i))
		out = append(out,
			plan.Element{
				Family: plan.Inet, Set: "any4", Keys: []string{"udp", fmt.Sprint(1024 + i)},
				Data: []string{addr, "80"}, Owner: scope,
			},
			plan.Element{
				Family: plan.BridgeTable, Set: "source4", Keys: []string{fmt.Sprintf("vle-%08x", i),
					"02:42:0a:00:00:01", addr}, Owner: scope,
			})
	}
	return out
}

func TestRulesLarge(t *testing.T) {
	r, env := openTestRules(t)
	want := firewall(t)
	want.Elements = append(want.Elements, many(10000)...)
	start := time.Now()
	mustApply(t, r, creation(want)...)
	t.Logf("applied %d elements in %v", len(want.Elements), time.Since(start))
	start = time.Now()
	have := mustObserve(t, r)
	t.Logf("observed in %v", time.Since(start))
	checkSame(t, want, have)

	// One bad element among the many is the one that is named, and undoes all.
	bad := plan.Element{Family: plan.Inet, Set: "any4", Keys: []string{"udp", "1030"},
		Data: []string{"10.0.0.1", "80"}}
	batch := many(12000)[20000:]
	batch[1111] = bad
	err := r.Apply(t.Context(), operations(plan.Create, plan.Ruleset{Elements: batch}))
	var failed *plan.OpError
	if !errors.As(err, &failed) || failed.Op.Object.Key() != bad.Key() || !errors.Is(err, unix.EEXIST) {
		t.Errorf("error %v is not about %s", err, bad.Key())
	}
	checkSame(t, want, mustObserve(t, r))

	// Half of those that are deleted are away already.
	env.Run("nft", "flush", "set", "bridge", "vethloom", "source4")
	going := slices.DeleteFunc(slices.Clone(want.Elements), func(e plan.Element) bool {
		return e.Set == "any4" && e.Owner > "endpoint/00001000"
	})
	start = time.Now()
	mustApply(t, r, operations(plan.Delete, plan.Ruleset{Elements: going})...)
	t.Logf("deleted %d elements in %v", len(going), time.Since(start))
	if have, left := len(mustObserve(t, r).Elements), len(want.Elements)-len(going); have != left {
		t.Errorf("%d elements are left, want %d", have, left)
	}
}

// BenchmarkElement publishes a port and takes it back, beside others: in a map without intervals, where single ports
// are, and in one with them.
func BenchmarkElement(b *testing.B) {
	for _, set := range []string{"any4", "ports4"} {
		for _, others := range []int{0, 1000, 10000} {
			b.Run(fmt.Sprintf("%s/%d", set, others), func(b *testing.B) {
				r, _ := openTestRules(b)
				rs := firewall(b)
				rs.Elements = append(rs.Elements, many(others)...)
				one := plan.Element{Family: plan.Inet, Set: "any4", Keys: []string{"tcp", "1024"},
					Data: []string{"10.1.0.2", "80"}, Owner: "endpoint/1"}
				rs.Elements = append(rs.Elements, one)
				for i, e := range rs.Elements {
					if e.Set == "any4" && set != e.Set {
						rs.Elements[i].Set, rs.Elements[i].Keys = set, append([]string{"1.2.3.0/24"}, e.Keys...)
					}
				}
				one = rs.Elements[len(rs.Elements)-1]
				mustApply(b, r, creation(rs)...)
				for b.Loop() {
					mustApply(b, r, plan.Op{Verb: plan.Delete, Object: one})
					mustApply(b, r, plan.Op{Verb: plan.Create, Object: one})
				}
			})
		}
	}
}

// BenchmarkObserve reads everything, with ten thousand ports published.
func BenchmarkObserve(b *testing.B) {
	r, _ := openTestRules(b)
	rs := firewall(b)
	rs.Elements = append(rs.Elements, many(10000)...)
	mustApply(b, r, creation(rs)...)
	for b.Loop() {
		mustObserve(b, r)
	}
}

// TestRulesConcurrently reads while others write, and expects every reading to be
// a state that there was: an element in one set is always in the other too.
func TestRulesConcurrently(t *testing.T) {
	r, _ := openTestRules(t)
	mustApply(t, r, creation(firewall(t))...)
	pair := many(40)
	var writers sync.WaitGroup
	for w := range 4 {
		writers.Go(func() {
			for i := range 50 {
				n := 2 * (10*w + i%10)
				both := plan.Ruleset{Elements: pair[n : n+2]}
				for _, verb := range []plan.Verb{plan.Create, plan.Delete} {
					if err := r.Apply(t.Context(), operations(verb, both)); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	finished := make(chan struct{})
	go func() { writers.Wait(); close(finished) }()
	for done := false; !done; {
		select {
		case <-finished:
			done = true
		default:
		}
		have, err := r.Observe(t.Context())
		if errors.Is(err, errInterrupted) {
			continue // outrun by the writers, and it said so
		}
		if err != nil {
			t.Error(err)
			break
		}
		owned := make(map[plan.Owner]int)
		for _, e := range have.Elements {
			owned[e.Owner]++
		}
		for _, e := range pair {
			if n := owned[e.Owner]; n == 1 {
				t.Errorf("observed half of the transaction of %s", e.Owner)
			}
		}
	}
	<-finished
	checkSame(t, firewall(t), mustObserve(t, r))
}

package main

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

func TestTheFirstSampleIsCold(t *testing.T) {
	var s series
	for _, ms := range []int{90, 3, 1, 2} {
		s.add(time.Duration(ms) * time.Millisecond)
	}
	if s.Cold != 90 || s.quantile(.5) != 2 || s.quantile(.95) != 3 {
		t.Errorf("cold %v, median %v, p95 %v; want 90, 2, 3", s.Cold, s.quantile(.5), s.quantile(.95))
	}
}

func TestRatiosPointTheSameWay(t *testing.T) {
	ours, other := &series{Samples: []float64{2}}, &series{Samples: []float64{8}}
	other.Ours = ours
	for _, tc := range []struct {
		g    group
		want string
	}{
		{group{Unit: "ms"}, "vethloom is 4.00 × as fast"},
		{group{Unit: "Gb/s", More: true}, "vethloom is 0.25 × as fast"},
		{group{Unit: "s/GB", Cost: true}, "vethloom takes 0.25 ×"},
	} {
		if got := tc.g.ratio(other); got != tc.want {
			t.Errorf("%s: %q, want %q", tc.g.Unit, got, tc.want)
		}
	}
}

func TestTableNamesWhatIsAbsent(t *testing.T) {
	var out bytes.Buffer
	r := report{Groups: []group{{Title: "Attach", Unit: "ms", Series: []*series{{Name: "a", Samples: []float64{1}}}}},
		Absent: []string{"docker (none)"}}
	if err := r.table(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Attach (ms)", "  a ", "1.00", "absent: docker (none)"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, &out)
		}
	}
}

func TestBadFlagsAreNamed(t *testing.T) {
	for _, args := range [][]string{{"-rounds", "1"}, {"-format", "xml"}, {"-only", "attach,fly"}, {"stray"},
		{"-image-rounds", "0"}} {
		if _, err := parse(args, &bytes.Buffer{}); err == nil {
			t.Errorf("bench %s was accepted", strings.Join(args, " "))
		}
	}
}

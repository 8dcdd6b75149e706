package engine_test

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine"
	"github.com/vethloom/vethloom/internal/await"
)

func TestTop(t *testing.T) {
	w := newWorld(t)
	c := w.start(engine.Spec{Name: "c", Command: sh("sleep 1111 & exec sleep 2222")})
	w.start(engine.Spec{Name: "other", Command: []string{"sleep", "1111"}})
	commands := func(args ...string) (titles []string, last []string) {
		t.Helper()
		p, err := w.e.Top(t.Context(), "c", args)
		if err != nil {
			t.Fatalf("top %v: %v", args, err)
		}
		for _, row := range p.Rows {
			if len(row) != len(p.Titles) {
				t.Errorf("%d fields for the titles %v: %v", len(row), p.Titles, row)
			}
			last = append(last, row[len(row)-1])
		}
		slices.Sort(last)
		return p.Titles, last
	}
	await.True(t, "both processes run", func() bool {
		_, have := commands()
		return slices.Equal(have, []string{"sleep 1111", "sleep 2222"})
	})
	if titles, _ := commands(); titles[0] != "UID" || titles[1] != "PID" {
		t.Errorf("titles %v", titles)
	}
	// One that cannot be asked of some processes alone, and one with other columns.
	if _, have := commands("-ef", "f"); len(have) != 2 {
		t.Errorf("as a forest: %v", have)
	}
	if _, have := commands("-eo", "pid,pid"); !slices.Contains(have, strconv.Itoa(c.Pid)) || len(have) != 2 {
		t.Errorf("the processes' numbers %v, want that of the first, %d", have, c.Pid)
	}
	for args, want := range map[string]string{
		"-eo args":   "Couldn't find PID field in ps output",
		"--help all": "no option for which processes",
		"--info":     "no option for which processes",
		"-":          "ps fails",
		"-o\x00":     "not printable",
		"\n":         "not printable",
		strings.TrimSpace(strings.Repeat("x ", 65)): "65 arguments",
		"-" + strings.Repeat("x", 5000):             "more than anybody needs",
		"-C $(touch /tmp/x);id":                     "ps fails",
	} {
		_, err := w.e.Top(t.Context(), "c", strings.Split(args, " "))
		if !errors.Is(err, cnm.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("top %.40q: %v, want %s", args, err, want)
		}
	}
	if err := w.e.Kill(t.Context(), "c", "KILL"); err != nil {
		t.Fatal(err)
	}
	w.wait("c")
	if _, err := w.e.Top(t.Context(), "c", nil); !errors.Is(err, engine.ErrNotRunning) {
		t.Errorf("one that has ended: %v", err)
	}
}

func TestStats(t *testing.T) {
	w := newWorld(t)
	w.nets.endpoints = []cnm.Endpoint{{Network: "front", LinkOptions: cnm.LinkOptions{IfName: "lo"}},
		{Network: "gone", Index: 7}}
	w.start(engine.Spec{Name: "c", CapAdd: []string{"NET_ADMIN"},
		Command: sh("ip link set lo up; while :; do ping -c 1 127.0.0.1; done"),
		Options: limits(engine.Resources{Memory: 64 << 20, PidsLimit: 33, NanoCPUs: 5e8})})
	stats := func(ref string) engine.Stats {
		t.Helper()
		s, err := w.e.Stats(t.Context(), ref)
		if err != nil {
			t.Fatalf("stats: %v", err)
		}
		return s
	}
	first := stats("c")
	if first.Name != "c" || first.MemoryLimit != 64<<20 || first.PidsLimit != 33 || first.CPUs == 0 ||
		first.Read.IsZero() || first.Pids == 0 || len(first.MemoryStats) == 0 {
		t.Errorf("stats %+v", first)
	}
	await.True(t, "it uses more", func() bool {
		s := stats("c")
		return s.CPUTotal > first.CPUTotal && s.HostCPU > first.HostCPU && s.CPUUser+s.CPUSystem > 0 &&
			s.Periods > 0 && s.Memory > 0
	})
	await.True(t, "its links count", func() bool {
		s := stats("c").Interfaces
		return len(s) == 1 && s[0].Interface == "lo" && s[0].Network == "front" && s[0].RxPackets > 0 &&
			s[0].TxBytes > 0
	})
	w.start(engine.Spec{Name: "on-host", Command: []string{"sleep", "1000"},
		Networks: []cnm.AttachRequest{{Network: "host"}}})
	if s := stats("on-host"); len(s.Interfaces) != 0 || s.MemoryLimit < 64<<20 || s.PidsLimit != 0 {
		t.Errorf("one without limits, on the host's network: %+v", s)
	}
	if err := w.e.Kill(t.Context(), "c", "KILL"); err != nil {
		t.Fatal(err)
	}
	w.wait("c")
	if s := stats("c"); s.CPUTotal != 0 || s.Memory != 0 || s.ID == "" {
		t.Errorf("one that does not run uses %+v", s)
	}
	if _, err := w.e.Stats(t.Context(), "nobody"); !errors.Is(err, cnm.ErrNotFound) {
		t.Errorf("one that does not exist: %v", err)
	}
}

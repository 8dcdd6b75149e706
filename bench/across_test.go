package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// filled is a matrix in which every cell of a row has the same figures.
func filled(full bool, rows map[string][]float64) *matrix {
	t := newMatrix("title", full)
	for name, samples := range rows {
		r := t.row(name)
		for i := range t.Columns {
			for _, s := range samples {
				r.add(i, s)
			}
		}
	}
	return t
}

func TestMatrixRatiosAreBetterAboveOne(t *testing.T) {
	m := filled(true, map[string][]float64{"a": {1, 8, 9}, "b": {4, 4, 4}})
	if got := m.ratio(columnTCP, m.find("a"), m.find("b")); got != 2 {
		t.Errorf("throughput of 8 beside 4: %v, want 2", got)
	}
	if got := m.ratio(columnLatency, m.find("a"), m.find("b")); got != .5 {
		t.Errorf("latency of 8 beside 4: %v, want 0.5", got)
	}
}

func TestBestRoundIsTheLargestThroughputAndTheSmallestLatency(t *testing.T) {
	m := filled(true, map[string][]float64{"a": {3, 8, 1}})
	if got := m.best(columnTCP, m.find("a")); got != 8 {
		t.Errorf("throughput: %v, want 8", got)
	}
	if got := m.best(columnLatency, m.find("a")); got != 1 {
		t.Errorf("latency: %v, want 1", got)
	}
}

func TestVerdicts(t *testing.T) {
	both := []least{throughput(.97)}
	for _, tc := range []struct {
		full bool
		ours float64
		e    expectation
		want string
	}{
		{true, 97, expectation{Full: both}, "expected TCP 1 and TCP 4 0.97: met (best rounds: 0.97, 0.97)"},
		{true, 96, expectation{Full: both},
			"expected TCP 1 and TCP 4 0.97: missed by TCP 1, TCP 4 (best rounds: 0.96, 0.96)"},
		{false, 96, expectation{Full: both}, ""},
		{false, 97, expectation{Simple: both}, "expected TCP 1 and TCP 4 0.97: met (best rounds: 0.97, 0.97)"},
		{true, 96, expectation{Simple: both}, ""},
		{true, 96, expectation{}, ""},
		{true, 120, expectation{Full: []least{packets(1.2), {.8, []int{columnLatency}}}},
			"expected 64 B 1.20, p50 0.80: met (best rounds: 1.20, 0.83)"},
		{true, 130, expectation{Full: []least{packets(1.2), {.8, []int{columnLatency}}}},
			"expected 64 B 1.20, p50 0.80: missed by p50 (best rounds: 1.30, 0.77)"},
	} {
		m := filled(tc.full, map[string][]float64{"ours": {tc.ours}, "theirs": {100}})
		if got := tc.e.verdict(m, m.find("ours"), m.find("theirs")); got != tc.want {
			t.Errorf("%v of 100, full offloads %t: %q, want %q", tc.ours, tc.full, got, tc.want)
		}
	}
}

func TestExpectationsNameContendersThatThereAre(t *testing.T) {
	known := []string{byHand, byHandBridge, byHandNAT, theirHostGW, theirVXLAN, theirUDP, oursPlainUDP, bareBridges}
	for _, ours := range []string{oursHostGW, oursVXLAN, oursOverlay, oursUDP, oursBridge} {
		known = append(known, ours, twin(ours))
	}
	for _, e := range expectations {
		if !slices.Contains(known, e.Ours) || !slices.Contains(known, e.Theirs) {
			t.Errorf("%q and %q: no contenders", e.Ours, e.Theirs)
		}
	}
}

func TestMatrixTableLeavesOutWhatIsAbsent(t *testing.T) {
	var out bytes.Buffer
	rep := report{Across: []*matrix{filled(true, map[string][]float64{oursVXLAN: {2}, theirVXLAN: {2}})}}
	if err := rep.table(&out); err != nil {
		t.Fatal(err)
	}
	text := out.String()
	if !strings.Contains(text, oursVXLAN+" : "+theirVXLAN) ||
		!strings.Contains(text, "expected TCP 1 and TCP 4 1.00: met") {
		t.Errorf("no ratio of vxlan in\n%s", text)
	}
	if strings.Contains(text, byHand) {
		t.Errorf("routing by hand, which was not there, is in\n%s", text)
	}
	for line := range strings.Lines(text) {
		if strings.HasSuffix(line, " \n") {
			t.Errorf("%q ends in a blank", line)
		}
	}
}

func TestProcessTimeIsThatOfUserAndSystem(t *testing.T) {
	got, err := parseProcessTime("7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 150 10 99 99 20 0 1 0 5 6")
	if err != nil || got != 1600*time.Millisecond {
		t.Errorf("%v, %v; want 1.6s", got, err)
	}
	for _, bad := range []string{"", "7 (a) S 1 2", "7 (a) S 1 7 7 0 -1 4194560 1 2 3 4 x 10 99"} {
		if _, err := parseProcessTime(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
	if _, err := processTime([]int{os.Getpid()}); err != nil {
		t.Error(err)
	}
}

func TestFlannelSubnet(t *testing.T) {
	file := filepath.Join(t.TempDir(), "subnet.env")
	if _, err := flannelSubnet(file); err == nil {
		t.Error("a missing file was accepted")
	}
	if err := os.WriteFile(file, []byte("FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET=10.1.7.1/24\nFLANNEL_MTU=1450\n"),
		0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := flannelSubnet(file); err != nil || got.String() != "10.1.7.1/24" {
		t.Errorf("%v, %v; want 10.1.7.1/24", got, err)
	}
}

// loopback is a way from a fresh network namespace to itself.
func loopback(t *testing.T) link {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ns")
	if err := newNetns(path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := dropNetns(path); err != nil {
			t.Error(err)
		}
	})
	if err := ips(context.Background(), path, "link set lo up"); err != nil {
		t.Fatal(err)
	}
	return link{name: "loopback", client: path, server: path, addr: "127.0.0.1"}
}

func TestFloodCountsWhatArrives(t *testing.T) {
	got, err := flood(loopback(t), 50*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	if got.received == 0 || got.received > got.sent || got.took < 50*time.Millisecond {
		t.Errorf("%+v: want as many sent as received, or more, in 50 ms", got)
	}
}

func TestPingPongMeasures(t *testing.T) {
	got, err := pingPong(loopback(t), 20*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	if got <= 0 || got > time.Second {
		t.Errorf("half a round trip: %v", got)
	}
}

func TestProbesNameANamespaceThatIsNotThere(t *testing.T) {
	l := link{name: "nowhere", client: "/nonexistent/a", server: "/nonexistent/b", addr: "127.0.0.1"}
	if _, err := flood(l, time.Millisecond); err == nil || !strings.Contains(err.Error(), "/nonexistent/b") {
		t.Errorf("flood: %v", err)
	}
	if _, err := pingPong(l, time.Millisecond); err == nil || !strings.Contains(err.Error(), "/nonexistent/b") {
		t.Errorf("ping-pong: %v", err)
	}
}

func TestShortIsShort(t *testing.T) {
	c, err := parse([]string{"-short", "-only", "across"}, &bytes.Buffer{})
	if err != nil || c.acrossRounds != 1 || c.tcpRounds != 1 {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestContendersAreChosenByPartsOfTheirNames(t *testing.T) {
	all := []string{byHand, oursUDP, oursVXLAN, theirVXLAN}
	for parts, want := range map[string]string{"": strings.Join(all, "+"), "vxlan": oursVXLAN + "+" + theirVXLAN,
		"hand,udp": byHand + "+" + oursUDP} {
		var got []string
		for _, name := range all {
			if (config{contenders: parts}).wants(name) {
				got = append(got, name)
			}
		}
		if strings.Join(got, "+") != want {
			t.Errorf("%q chooses %q, want %q", parts, got, want)
		}
	}
}

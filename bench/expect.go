package main

import (
	"fmt"
	"slices"
	"strings"
)

// expectation compares two contenders.
type expectation struct {
	Ours, Theirs string
	Full, Simple []least // with full offloads, and with links like a simple network card
}

// least is what a ratio is to reach, in some of the columns.
type least struct {
	ratio   float64
	columns []int
}

func throughput(ratio float64) least { return least{ratio, []int{columnTCP, columnTCP + 1}} }
func packets(ratio float64) least    { return least{ratio, []int{columnUDP}} }

// inTunnel is what the fast path is to be beside a tunnel of the kernel: a latency of at most 0.8 is a ratio of 1.25.
var inTunnel = []least{{1.1, []int{columnTCP}}, {1.25, []int{columnTCP + 1}}, packets(1.5),
	{1.25, []int{columnLatency}}}

// notSlower is what the fast path is to be beside our own slow one.
var notSlower = []least{throughput(1), packets(1), {1, []int{columnLatency}}}

var expectations = []expectation{
	{oursHostGW, byHand, []least{throughput(.97)}, []least{throughput(.97)}},
	{oursHostGW, byHandBridge, nil, nil},
	{oursHostGW, byHandNAT, nil, nil},
	{oursHostGW, theirHostGW, nil, nil},
	{oursVXLAN, theirVXLAN, []least{throughput(1)}, []least{throughput(1)}},
	{oursOverlay, theirVXLAN, []least{throughput(1)}, []least{throughput(1)}},
	{oursUDP, theirUDP, []least{throughput(10)}, nil},
	{oursUDP, oursPlainUDP, nil, nil},

	{twin(oursHostGW), byHand, nil, nil},
	{twin(oursHostGW), byHandBridge, []least{throughput(1.05), packets(1.2)}, []least{packets(1.2)}},
	{twin(oursHostGW), theirHostGW, nil, nil},
	{twin(oursVXLAN), theirVXLAN, inTunnel, []least{throughput(1), packets(1.5)}},
	{twin(oursOverlay), theirVXLAN, inTunnel, []least{throughput(1), packets(1.5)}},
	{twin(oursUDP), theirUDP, []least{throughput(30)}, nil},
	{twin(oursUDP), theirVXLAN, []least{throughput(1.15)}, nil},
	{twin(oursHostGW), oursHostGW, nil, notSlower},
	{twin(oursVXLAN), oursVXLAN, nil, notSlower},
	{twin(oursOverlay), oursOverlay, nil, notSlower},
	{twin(oursUDP), oursUDP, nil, notSlower},

	{oursBridge, bareBridges, nil, nil},
	{twin(oursBridge), bareBridges, []least{throughput(1.15), packets(1.25)}, nil},
	{twin(oursBridge), oursBridge, nil, nil},
}

// verdict reports whether the ratios are what was expected.
func (e expectation) verdict(t *matrix, ours, theirs *row) string {
	wanted := e.Simple
	if t.Full {
		wanted = e.Full
	}
	if len(wanted) == 0 {
		return ""
	}
	var asked, missed, best []string
	for _, w := range wanted {
		var titles []string
		for _, c := range w.columns {
			titles = append(titles, t.Columns[c].Title)
			best = append(best, fmt.Sprintf("%.2f", t.bestRatio(c, ours, theirs)))
			if t.ratio(c, ours, theirs) < w.ratio {
				missed = append(missed, t.Columns[c].Title)
			}
		}
		asked = append(asked, fmt.Sprintf("%s %.2f", strings.Join(titles, " and "), w.ratio))
	}
	said := "met"
	if missed != nil {
		said = "missed by " + strings.Join(missed, ", ")
	}
	return fmt.Sprintf("expected %s: %s (best rounds: %s)", strings.Join(asked, ", "), said, strings.Join(best, ", "))
}

// compared are the expectations whose contenders are both in the matrix.
func (t *matrix) compared() []expectation {
	return slices.DeleteFunc(slices.Clone(expectations),
		func(e expectation) bool { return t.find(e.Ours) == nil || t.find(e.Theirs) == nil })
}

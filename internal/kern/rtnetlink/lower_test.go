package rtnetlink

import (
	"testing"

	"github.com/vethloom/vethloom/plan"
)

// A link that sits on another one is read as it was asked for.
func TestLowerIsReadAsItIsWritten(t *testing.T) {
	var all []plan.Link
	for _, mode := range plan.IPvlanModes() {
		for _, flag := range plan.IPvlanFlags() {
			all = append(all, plan.Link{Kind: plan.IPvlan, Lower: plan.Lower{Link: "eth0", Mode: mode, Flag: flag}})
		}
	}
	for _, mode := range plan.MacvlanModes() {
		all = append(all, plan.Link{Kind: plan.Macvlan, Lower: plan.Lower{Link: "eth0", Mode: mode}})
	}
	all = append(all, plan.Link{Kind: plan.VLAN, Lower: plan.Lower{Link: "eth0", Tag: 100}})
	for _, want := range all {
		want.Name = "x"
		if err := CheckLower(want); err != nil {
			t.Errorf("%s: %v", want, err)
		}
		got, err := ParseLink(NewLink(want, 0, 7, -1).Data)
		got.Lower.Link = want.Lower.Link
		if err != nil || got.Kind != want.Kind || got.Lower != want.Lower || got.PeerIndex != 7 {
			t.Errorf("%s: read back as %s on %d, %v", want, got.Lower, got.PeerIndex, err)
		}
	}
	for _, l := range []plan.Lower{
		{Link: "eth0", Mode: "bridge", Flag: "bridge"}, {Link: "eth0", Mode: "l2"}, {Mode: "l2", Flag: "bridge"}} {
		if err := CheckLower(plan.Link{Kind: plan.IPvlan, Lower: l}); err == nil {
			t.Errorf("%s is no error", l)
		}
	}
}

package cluster

import (
	"net/netip"
	"reflect"
	"testing"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/plan"
)

// TestPeersDifferByEachField changes one field after another: what it leaves alone would stay as it was on this node.
func TestPeersDifferByEachField(t *testing.T) {
	other := reflect.ValueOf(cnm.Peer{Network: "n", Node: "m", Endpoint: true,
		Blocks: true, InBlock: true,
		Prefixes: []netip.Prefix{netip.MustParsePrefix("10.5.1.0/24")}, Addr4: netip.MustParseAddr("192.0.2.1"),
		Addr6: netip.MustParseAddr("2001:db8::1"), MAC: plan.MAC{2}, MAC6: plan.MAC{2, 6}, Backend: "udp", Fast: true,
		Names: []string{"web"}, Ports: make([]plan.NamePort, 1), Ingress: make([]cnm.Ingress, 1), Engine: "cni",
		Since: 1})
	for i := range other.NumField() {
		f := other.Type().Field(i)
		if f.Name == "ID" || f.Name == "Revision" { // these are of records that are compared, not of what they say
			continue
		}
		if other.Field(i).IsZero() {
			t.Errorf("field %s is not tried", f.Name)
			continue
		}
		var p cnm.Peer
		reflect.ValueOf(&p).Elem().Field(i).Set(other.Field(i))
		if samePeer(cnm.Peer{}, p) || samePeer(p, cnm.Peer{}) {
			t.Errorf("a peer with another %s is taken for the same", f.Name)
		}
		if !samePeer(p, p) {
			t.Errorf("a peer with %s is not the same as itself", f.Name)
		}
	}
}

package cluster

import (
	"net/netip"
	"testing"
)

// What a record says of a node's address opens this host's tunnels to it.
func TestAddressesThatNodesCanHave(t *testing.T) {
	for text, want := range map[string]bool{
		"192.0.2.1": true, "2001:db8::1": true, "10.0.0.1": true, "fd00::1": true,
		"127.0.0.1": false, "::1": false, "0.0.0.0": false, "::": false, "224.0.0.1": false, "ff02::1": false,
		"fe80::1%eth0": false, "::ffff:127.0.0.1": false,
	} {
		if got := isNode(netip.MustParseAddr(text)); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
	if isNode(netip.Addr{}) {
		t.Error("none is one")
	}
}

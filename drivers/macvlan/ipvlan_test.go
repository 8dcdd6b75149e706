package macvlan

import (
	"strings"
	"testing"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/plan"
)

func TestIPvlanGolden(t *testing.T) {
	for name, n := range map[string]cnm.Network{
		"ipvlan-l2": network("parent", "eth0"),
		"ipvlan-l3": network("parent", "eth0", "ipvlan_mode", "l3", "ipvlan_flag", "private"),
		"ipvlan-l3s": network("parent", "eth0.100", "mode", "l3s", "mtu", "1400",
			"routes", "10.9.0.0/16,via=192.0.2.9"),
	} {
		t.Run(name, func(t *testing.T) {
			e := onLAN()
			e.MAC = plan.MAC{}
			sameAsGolden(t, IPvlan{}, name, n, e)
		})
	}
}

func TestIPvlanRefuses(t *testing.T) {
	for _, c := range []struct {
		n    cnm.Network
		want string
	}{
		{network(), "-o parent=eth0"},
		{network("parent", "eth0", "mode", "bridge"), "want l2, l3, l3s"},
		{network("parent", "eth0", "flag", "l2"), "want bridge, private, vepa"},
		{network("parent", "eth0", "mtu", "1000"), "at least 1280"},
		{network("parent", "eth0", "host-access", "true"), "unknown option"},
	} {
		if err := (IPvlan{}).CheckNetwork(c.n); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v, want %q", c.n.Options, err, c.want)
		}
	}
	if err := (IPvlan{}).CheckEndpoint(network("parent", "eth0"), onLAN()); err == nil ||
		!strings.Contains(err.Error(), "that of the parent") {
		t.Errorf("a hardware address: %v", err)
	}
}

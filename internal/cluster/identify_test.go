package cluster

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/backend/vxlan"
	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/drivers/overlay"
	"github.com/vethloom/vethloom/drivers/routed"
)

// Every VNI that a driver chooses from is some network's: the next network is refused, with what to do, and gets
// the one that becomes free.
func TestVNIsRunOut(t *testing.T) {
	d := routed.Driver{Backend: vxlan.Backend{}}
	m := newCore(Config{Drivers: []cnm.Driver{d, overlay.Driver{}}})
	network := func(name string, vni uint32) cnm.Network {
		return cnm.Network{ID: name, Name: name, Driver: d.Name(), Cluster: &cnm.ClusterNetwork{VNI: vni, Port: 8472}}
	}
	ask, err := d.Tunnel(network("new", 0))
	if err != nil {
		t.Fatal(err)
	}
	var others []cnm.Network
	for vni := ask.FirstVNI; vni <= ask.LastVNI; vni++ {
		others = append(others, network(fmt.Sprintf("n%d", vni), vni))
	}
	n := network("new", 0)
	err = m.networks.identify(&n, ask, others)
	if !errors.Is(err, cnm.ErrExhausted) || !strings.Contains(err.Error(), "remove a network") {
		t.Errorf("with %d networks: %v", len(others), err)
	}
	const free = 77
	others = append(others[:free-1], others[free:]...)
	if err := m.networks.identify(&n, ask, others); err != nil || n.Cluster.VNI != free {
		t.Errorf("with one VNI free: %d, %v; want %d", n.Cluster.VNI, err, free)
	}
	taken := ask
	taken.VNI = 78
	if err := m.networks.identify(&n, taken, others); !errors.Is(err, cnm.ErrExists) ||
		!strings.Contains(err.Error(), `"n78"`) {
		t.Errorf("a VNI that is taken: %v", err)
	}
}

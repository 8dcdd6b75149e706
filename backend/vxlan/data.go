package vxlan

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"

	"github.com/vethloom/vethloom/backend"
	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/plan"
	"github.com/vethloom/vethloom/subnet"
)

// data is flannel's BackendData.
type data struct {
	VNI     uint32
	VtepMAC string
}

// Decode reads the addresses of the peer's devices.
func (Backend) Decode(n backend.Network, l subnet.Lease, p *cnm.Peer) error {
	if l.BackendData == nil && l.BackendV6Data == nil {
		return errors.New("neither BackendData nor BackendV6Data: want the VNI and VtepMAC of its VXLAN device")
	}
	for _, f := range []struct {
		name string
		raw  json.RawMessage
		mac  *plan.MAC
	}{{"BackendData", l.BackendData, &p.MAC}, {"BackendV6Data", l.BackendV6Data, &p.MAC6}} {
		if f.raw == nil {
			continue
		}
		mac, err := decode(n, f.raw)
		if err != nil {
			return fmt.Errorf("%s %s: %w", f.name, f.raw, err)
		}
		*f.mac = mac
	}
	return nil
}

func decode(n backend.Network, raw json.RawMessage) (plan.MAC, error) {
	var d data
	if err := json.Unmarshal(raw, &d); err != nil {
		return plan.MAC{}, fmt.Errorf("want {\"VNI\": …, \"VtepMAC\": …}: %w", err)
	}
	hw, err := net.ParseMAC(d.VtepMAC)
	if err != nil || len(hw) != len(plan.MAC{}) {
		return plan.MAC{}, fmt.Errorf("VtepMAC %q is no hardware address, such as 02:42:0a:05:01:01", d.VtepMAC)
	}
	mac := plan.MAC(hw)
	if mac[0]&1 != 0 || mac == (plan.MAC{}) {
		return plan.MAC{}, fmt.Errorf("VtepMAC %s is not the address of one device", hw)
	}
	if n.Cluster != nil && d.VNI != n.Cluster.VNI {
		return plan.MAC{}, fmt.Errorf("VNI %d, and the network's is %d: its packets would not arrive", d.VNI,
			n.Cluster.VNI)
	}
	return mac, nil
}

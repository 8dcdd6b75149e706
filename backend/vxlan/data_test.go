package vxlan

import (
	"encoding/json"
	"testing"

	"github.com/vethloom/vethloom/backend"
	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/plan"
	"github.com/vethloom/vethloom/subnet"
)

// Whatever stands in a lease: it is refused, or names one device that entries can lead to.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		`{"VNI":1,"VtepMAC":"9a:d2:e1:5b:5e:4c"}`, `{"VNI":1,"VtepMAC":"ff:ff:ff:ff:ff:ff"}`,
		`{"VNI":4294967297,"VtepMAC":""}`,
		`{"vni":1,"vtepmac":"9ad2.e15b.5e4c"}`, `null`, `[]`, `"x"`, `{"VNI":1,"VtepMAC":null}`, ``,
	} {
		f.Add([]byte(seed), false)
		f.Add([]byte(seed), true)
	}
	n := backend.Network{Network: cnm.Network{Cluster: &cnm.ClusterNetwork{VNI: 1}}}
	f.Fuzz(func(t *testing.T, raw []byte, six bool) {
		var l subnet.Lease
		if six {
			l.BackendV6Data = json.RawMessage(raw)
		} else {
			l.BackendData = json.RawMessage(raw)
		}
		var p cnm.Peer
		err := Backend{}.Decode(n, l, &p)
		got, other := p.MAC, p.MAC6
		if six {
			got, other = other, got
		}
		if err != nil && got != (plan.MAC{}) {
			t.Errorf("refused (%v), and taken all the same: %s", err, got)
		}
		if err == nil && (got == (plan.MAC{}) || got[0]&1 != 0) {
			t.Errorf("%q: taken as %s", raw, got)
		}
		if other != (plan.MAC{}) {
			t.Errorf("the address went to the other family")
		}
	})
}

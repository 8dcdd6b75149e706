package null

import (
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/plan"
)

func TestRefusesWhatItCannotDo(t *testing.T) {
	for want, n := range map[string]cnm.Network{
		"options": {Options: map[string]string{"mtu": "1400"}},
		"subnet":  {Pools: []cnm.Pool{{Subnet: netip.MustParsePrefix("10.0.0.0/8")}}},
	} {
		err := Driver{}.CheckNetwork(n)
		if !errors.Is(err, cnm.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", want, err)
		}
	}
	if err := (Driver{}).CheckNetwork(cnm.Network{Name: "n"}); err != nil {
		t.Error(err)
	}
	_, err := Driver{}.RenderEndpoint(cnm.Network{}, cnm.Endpoint{Ports: []cnm.PortMapping{{Proto: plan.TCP}}},
		cnm.Host{})
	if !errors.Is(err, cnm.ErrInvalid) {
		t.Errorf("published ports: got %v", err)
	}
}

func TestRendersNothing(t *testing.T) {
	d := Driver{}
	if c := d.Capabilities(); !c.Singleton || c.Addresses || c.Ports {
		t.Errorf("capabilities %+v: want a singleton without addresses and ports", c)
	}
	n, err := d.RenderNetwork(cnm.Network{ID: "a"}, cnm.Host{})
	if err != nil || !reflect.DeepEqual(n, plan.State{}) {
		t.Errorf("network: %v, %v", n, err)
	}
	e, err := d.RenderEndpoint(cnm.Network{ID: "a"}, cnm.Endpoint{ID: "b", NetNS: "c"}, cnm.Host{})
	if err != nil || !reflect.DeepEqual(e, plan.State{}) {
		t.Errorf("endpoint: %v, %v", e, err)
	}
}

package cni

import (
	"encoding/json"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/vethloom/vethloom/plugin/attach"
)

// program is the type of this plugin in configurations.
const program = "vethloom-cni"

// aloneConf is the part ipam of another plugin's configuration. That plugin makes the link, and calls this one with its
// whole configuration for addresses alone.
type aloneConf struct {
	Type string `json:"type"`
	settings
	Routes []*types.Route `json:"routes"` // in place of the default routes
	DNS    types.DNS      `json:"dns"`    // answered as it is
}

// alone is another plugin's configuration. Its own keys are not read: they may be called like ours.
type alone struct {
	common
	IPAM aloneConf `json:"ipam"`
}

// decodeAlone decodes a configuration by which another plugin asks for addresses, nil where it is ours.
func decodeAlone(text []byte) (*alone, error) {
	var kind struct {
		Type string `json:"type"`
		IPAM struct {
			Type string `json:"type"`
		} `json:"ipam"`
	}
	if err := json.Unmarshal(text, &kind); err != nil || kind.IPAM.Type != program || kind.Type == program {
		return nil, err
	}
	var a alone
	return &a, json.Unmarshal(text, &a)
}

// reserve answers ADD with addresses alone.
func (c *config) reserve(a *skel.CmdArgs) error {
	r, err := c.request(attach.Reserve, a)
	if err != nil {
		return err
	}
	answer, err := do(*c, r, callTime)
	if err != nil {
		return coded(attach.Reserve, err)
	}
	result := &types100.Result{CNIVersion: types100.ImplementedSpecVersion, DNS: c.alone.DNS, Routes: c.alone.Routes}
	for _, p := range answer.Result.Addresses {
		result.IPs = append(result.IPs, &types100.IPConfig{Address: ipNet(p.Prefix), Gateway: p.Gateway.AsSlice()})
	}
	if result.Routes == nil {
		result.Routes = routes(answer.Result)
	}
	return types.PrintResult(result, c.CNIVersion)
}

package daemon

import (
	"context"
	"fmt"

	"github.com/vethloom/vethloom/api/server"
	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/doctor"
)

// examine looks at the host for what keeps containers from their networks.
func (d *daemon) examine(ctx context.Context) []server.Finding {
	networks, err := cnm.ListNetworks(ctx, d.store)
	var subnets []doctor.Subnet
	for _, n := range networks {
		for _, p := range n.Pools {
			subnets = append(subnets, doctor.Subnet{Network: n.Name, Prefix: p.Subnet})
		}
	}
	facts := doctor.Host{Kernel: d.kernel, StateDir: d.cfg.Root, Networks: subnets}.Facts(ctx)
	if err != nil {
		facts.Unknown = append(facts.Unknown, fmt.Sprintf("networks: %v", err))
	}
	var out []server.Finding
	for _, f := range doctor.Examine(facts) {
		out = append(out, server.Finding{Check: f.Check, Severity: server.Severity(f.Severity), Found: f.Found, Remedy: f.Remedy})
	}
	return out
}

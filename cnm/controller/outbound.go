package controller

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vethloom/vethloom/cnm"
)

// checkOutbound refuses addresses to leave the host by that it does not have: no answer would come back.
func (k *records) checkOutbound(ctx context.Context, addrs []netip.Addr) error {
	if len(addrs) == 0 || k.hostAddrs == nil {
		return nil
	}
	has, err := k.hostAddrs(ctx)
	if err != nil {
		return fmt.Errorf("look at the host's addresses: %w", err)
	}
	for _, a := range addrs {
		if !slices.Contains(has, a.Unmap()) {
			return &cnm.Error{Kind: cnm.ErrInvalid, Field: "outbound-ip", Value: a.String(),
				Reason: "the host does not have this address, so no answer would come back",
				Remedy: "choose one that 'ip address' shows, or give it to a link of the host first"}
		}
	}
	return nil
}

// outbound are the addresses that what leaves a network carries, where they are chosen.
func (k *records) outbound(n cnm.Network) []netip.Addr {
	if d, ok := k.drivers[n.Driver].(cnm.OutboundChooser); ok {
		return d.Outbound(n)
	}
	return nil
}

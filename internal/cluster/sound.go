package cluster

import (
	"fmt"
	"net/netip"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/plan"
)

// What follows tells whether a record that could be decoded can be right. Anybody with access to etcd may have
// written it. What it says of addresses is for the drivers to judge.

func soundNetwork(id string, n cnm.Network) error {
	switch {
	case n.ID != id:
		return fmt.Errorf("its id is %q", n.ID)
	case n.Cluster == nil:
		return fmt.Errorf("network %q has no field cluster", n.Name)
	}
	return nil
}

func soundNode(id string, n Node) error {
	if n.ID != id {
		return fmt.Errorf("its id is %q", n.ID)
	}
	return nil
}

func soundAlive(string, aliveRecord) error { return nil }

func soundEndpoint(id string, e Endpoint) error {
	switch {
	case e.key().ID != id:
		return fmt.Errorf("its network and id are %q and %q", e.Network, e.ID)
	case e.Node == "":
		return fmt.Errorf("it has no node")
	case e.MAC == plan.MAC{}:
		return fmt.Errorf("it has no mac")
	}
	for _, a := range e.Addrs {
		if !a.IsValid() {
			return fmt.Errorf("one of its addrs is empty")
		}
	}
	return nil
}

func soundBlock(p netip.Prefix, b block) error {
	switch {
	case p != p.Masked():
		return fmt.Errorf("%s is an address and not a block: did you mean %s?", p, p.Masked())
	case b.Node == "":
		return fmt.Errorf("it has no node")
	}
	return nil
}

package record

import (
	"fmt"
	"net/netip"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/plan"
)

// CheckNetwork refuses a network that cannot be what the record of that ID holds.
func CheckNetwork(id string, n cnm.Network) error {
	switch {
	case n.ID != id:
		return fmt.Errorf("its id is %q", n.ID)
	case n.Cluster == nil:
		return fmt.Errorf("network %q has no field cluster", n.Name)
	case n.Cluster.Gone || n.Cluster.Left:
		return fmt.Errorf("network %q is gone or left, which only a node can say of itself", n.Name)
	}
	return nil
}

// CheckNode refuses a node that cannot be what the record of that ID holds.
func CheckNode(id string, n Node) error {
	if n.ID != id {
		return fmt.Errorf("its id is %q", n.ID)
	}
	return nil
}

// CheckAlive has nothing to refuse.
func CheckAlive(string, Alive) error { return nil }

// CheckEndpoint refuses an endpoint that cannot be what the record of that ID holds.
func CheckEndpoint(id string, e Endpoint) error {
	switch {
	case e.Key().ID != id:
		return fmt.Errorf("its network and id are %q and %q", e.Network, e.ID)
	case e.Node == "":
		return fmt.Errorf("it has no node")
	case e.MAC == plan.MAC{}:
		return fmt.Errorf("it has no mac")
	case 1+len(e.Aliases)+len(e.Also) > maxNames || len(e.Serves) > maxServed:
		return fmt.Errorf("it has %d names and serves %d ports, more than %d and %d", 1+len(e.Aliases)+len(e.Also),
			len(e.Serves), maxNames, maxServed)
	}
	if err := checkIngress(e.Ingress); err != nil {
		return err
	}
	for _, a := range e.Addrs {
		if !a.IsValid() {
			return fmt.Errorf("one of its addrs is empty")
		}
	}
	return nil
}

// checkIngress refuses ports that no node can publish, and more than a node is to hold for one endpoint.
func checkIngress(ports []cnm.Ingress) error {
	sum := 0
	for _, p := range ports {
		if err := p.Check(); err != nil {
			return err
		}
		sum += int(p.Count)
	}
	if sum > cnm.MaxIngress {
		return fmt.Errorf("it is published by %d ports of every node, more than %d", sum, cnm.MaxIngress)
	}
	return nil
}

// CheckBlock refuses a block that no node can have.
func CheckBlock(p netip.Prefix, b Block) error {
	switch {
	case p != p.Masked():
		return fmt.Errorf("%s is an address and not a block: did you mean %s?", p, p.Masked())
	case b.Node == "":
		return fmt.Errorf("it has no node")
	}
	return nil
}

package cluster

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/plan"
)

// The kinds of records in etcd, beside [cnm.KindNetwork].
const (
	kindNode     cnm.Kind = "node"
	kindAlive    cnm.Kind = "alive"    // exists while the node's daemon is there
	kindEndpoint cnm.Kind = "endpoint" // <network ID>.<endpoint ID>
	kindBlock    cnm.Kind = "block"    // <network ID>.<prefix, with a dash for the slash>
	kindGuard    cnm.Kind = "guard"    // compared and written by all who create or remove networks
)

// guardID is the one record of kindGuard.
const guardID = "networks"

// Node is what a node tells the others of itself.
type Node struct {
	ID      string     `json:"id"`
	Name    string     `json:"name"`
	Addr4   netip.Addr `json:"addr4,omitzero"` // on the underlay
	Addr6   netip.Addr `json:"addr6,omitzero"`
	MTU     int        `json:"mtu"` // of the uplink, bytes
	Version string     `json:"version"`
	Drivers []string   `json:"drivers"`
	Boot    string     `json:"boot"`
	Started time.Time  `json:"started"` // the daemon
}

// aliveRecord tells which daemon of a node is there.
type aliveRecord struct {
	Instance string `json:"instance"` // differs with each start of the daemon
	Boot     string `json:"boot"`
	Addr     string `json:"addr"`
}

// Endpoint is an endpoint as the other nodes know it.
type Endpoint struct {
	ID      string       `json:"id"`
	Network string       `json:"network"`
	Node    string       `json:"node"`
	Name    string       `json:"name,omitempty"`
	Aliases []string     `json:"aliases,omitempty"`
	MAC     plan.MAC     `json:"mac"`
	Addrs   []netip.Addr `json:"addrs,omitempty"`
	Addr4   netip.Addr   `json:"addr4,omitzero"` // the node's, on the underlay
	Addr6   netip.Addr   `json:"addr6,omitzero"`
}

func (e Endpoint) key() cnm.Key { return cnm.Key{Kind: kindEndpoint, ID: e.Network + "." + e.ID} }

// block is a part of a network's subnet that one node gives addresses out of.
type block struct {
	Node string `json:"node"`
}

func blockKey(network string, p netip.Prefix) cnm.Key {
	return cnm.Key{Kind: kindBlock, ID: network + "." + strings.Replace(p.String(), "/", "-", 1)}
}

// parseBlock is the network and prefix of a block's record.
func parseBlock(id string) (network string, p netip.Prefix, err error) {
	network, text, _ := strings.Cut(id, ".")
	i := strings.LastIndexByte(text, '-')
	if i < 0 {
		return "", p, fmt.Errorf("block record %q: want <network>.<address>-<length>", id)
	}
	p, err = netip.ParsePrefix(text[:i] + "/" + text[i+1:])
	return network, p, err
}

// selfRecord is what the node keeps of its own membership, in the local store.
type selfRecord struct {
	Lease    int64     `json:"lease"`    // etcd lease that all of the node's records hang on
	Expires  time.Time `json:"expires"`  // when it is over if nothing renews it
	Cluster  uint64    `json:"cluster"`  // the etcd cluster's own ID
	Revision int64     `json:"revision"` // the last one seen: an etcd with a lower one has lost data
}

// heldLease is this node's subnet lease of one network, in the local store.
type heldLease struct {
	Key      string       `json:"key"`
	Subnet   netip.Prefix `json:"subnet,omitzero"`
	Subnet6  netip.Prefix `json:"subnet6,omitzero"`
	Create   int64        `json:"create"`
	Reserved bool         `json:"reserved,omitempty"` // hangs on no etcd lease: never over
}

// The local records of [cnm.KindMember].
func selfKey() cnm.Key                { return cnm.Key{Kind: cnm.KindMember, ID: "self"} }
func leaseKey(network string) cnm.Key { return cnm.Key{Kind: cnm.KindMember, ID: "lease/" + network} }

func decode[T any](value []byte) (T, error) {
	var v T
	err := json.Unmarshal(value, &v)
	return v, err
}

func encode(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode %T: %w", v, err)
	}
	return b, nil
}

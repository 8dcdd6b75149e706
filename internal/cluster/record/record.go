package record

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/plan"
)

// The kinds of records in etcd, beside [cnm.KindNetwork].
const (
	KindNode     cnm.Kind = "node"
	KindAlive    cnm.Kind = "alive"    // exists while the node's daemon is there
	KindEndpoint cnm.Kind = "endpoint" // <network ID>.<endpoint ID>
	KindBlock    cnm.Kind = "block"    // <network ID>.<prefix, with a dash for the slash>
	KindGuard    cnm.Kind = "guard"    // compared and written by all who create or remove networks
)

// GuardID is the one record of [KindGuard].
const GuardID = "networks"

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
	// ByAddress tells that addresses of its blocks lead to its bridges, which give packets to endpoints: it has the
	// fast path.
	ByAddress bool `json:"byAddress,omitempty"`
}

// Alive tells which daemon of a node is there.
type Alive struct {
	Instance string `json:"instance"` // differs with each start of the daemon
	Boot     string `json:"boot"`
	Addr     string `json:"addr"`
}

// Endpoint is an endpoint as the other nodes know it.
type Endpoint struct {
	ID      string   `json:"id"`
	Network string   `json:"network"`
	Node    string   `json:"node"`
	Name    string   `json:"name,omitempty"`
	Aliases []string `json:"aliases,omitempty"`
	// what it is called beside these: the beginning of its container's ID, and what that calls itself
	Also   []string        `json:"also,omitempty"`
	Serves []plan.NamePort `json:"serves,omitempty"` // for SRV records
	// ports of its node that all nodes lead there
	Ingress []cnm.Ingress `json:"ingress,omitempty"`
	MAC     plan.MAC      `json:"mac"`
	Addrs   []netip.Addr  `json:"addrs,omitempty"`
	Addr4   netip.Addr    `json:"addr4,omitzero"` // the node's, on the underlay
	Addr6   netip.Addr    `json:"addr6,omitzero"`
	Engine  string        `json:"engine,omitempty"` // whose container it is
	Since   int64         `json:"since,omitempty"`  // when it was made, in seconds of Unix time
}

// maxNames bounds the names of an endpoint, maxServed what it serves.
const (
	maxNames  = 64
	maxServed = 256
)

// Names are what an endpoint is called on its network, in lower case.
func (e Endpoint) Names() []string {
	return cnm.CleanNames(append(append([]string{e.Name}, e.Aliases...), e.Also...))
}

// Key is that of the endpoint's record.
func (e Endpoint) Key() cnm.Key { return cnm.Key{Kind: KindEndpoint, ID: e.Network + "." + e.ID} }

// Block is a part of a network's subnet that one node gives addresses out of.
type Block struct {
	Node string `json:"node"`
}

// BlockKey is the key of the record of a network's block.
func BlockKey(network string, p netip.Prefix) cnm.Key {
	return cnm.Key{Kind: KindBlock, ID: network + "." + strings.Replace(p.String(), "/", "-", 1)}
}

// ParseBlock is the network and prefix of a block's record.
func ParseBlock(id string) (network string, p netip.Prefix, err error) {
	network, text, _ := strings.Cut(id, ".")
	i := strings.LastIndexByte(text, '-')
	if i < 0 {
		return "", p, fmt.Errorf("block record %q: want <network>.<address>-<length>", id)
	}
	p, err = netip.ParsePrefix(text[:i] + "/" + text[i+1:])
	return network, p, err
}

// Self is what the node keeps of its own membership, in the local store.
type Self struct {
	Lease    int64     `json:"lease"`    // etcd lease that all of the node's records hang on
	Expires  time.Time `json:"expires"`  // when it is over if nothing renews it
	Cluster  uint64    `json:"cluster"`  // the etcd cluster's own ID
	Revision int64     `json:"revision"` // the last one seen: an etcd with a lower one has lost data
	// revision at which the guard was made: where it is another, etcd was emptied meanwhile
	Guard int64 `json:"guard,omitempty"`
}

// HeldLease is this node's subnet lease of one network, in the local store.
type HeldLease struct {
	Key      string       `json:"key"`
	Subnet   netip.Prefix `json:"subnet,omitzero"`
	Subnet6  netip.Prefix `json:"subnet6,omitzero"`
	Create   int64        `json:"create"`
	Reserved bool         `json:"reserved,omitempty"` // hangs on no etcd lease: never over
}

// SelfKey is the key of [Self] in the local store.
func SelfKey() cnm.Key { return cnm.Key{Kind: cnm.KindMember, ID: "self"} }

// LeaseKey is the key of [HeldLease] in the local store.
func LeaseKey(network string) cnm.Key { return cnm.Key{Kind: cnm.KindMember, ID: "lease/" + network} }

// Decode reads a record's value.
func Decode[T any](value []byte) (T, error) {
	var v T
	err := json.Unmarshal(value, &v)
	return v, err
}

// Encode writes a record's value.
func Encode(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode %T: %w", v, err)
	}
	return b, nil
}

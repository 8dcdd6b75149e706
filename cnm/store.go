package cnm

import (
	"context"
	"errors"
)

// Kind is a family of records.
type Kind string

// The kinds of records.
const (
	KindNetwork  Kind = "network"
	KindSandbox  Kind = "sandbox"
	KindEndpoint Kind = "endpoint"
	KindAddress  Kind = "address" // ipam: one record an address in use
	// addresses without an endpoint, see Reservation
	KindReservation Kind = "reservation"
	KindContainer   Kind = "container"
	KindImage       Kind = "image"
	KindVolume      Kind = "volume"
	KindPeer        Kind = "peer"   // what other nodes have of cluster networks, as last seen
	KindNode        Kind = "node"   // a node that peers are on; its ID, a [NodeID], is all it says
	KindMember      Kind = "member" // what this node knows of itself as a member of the cluster
	KindCall        Kind = "call"   // what drivers of others were asked for, see Call
	KindGrant       Kind = "grant"  // what IPAM drivers of others have given, see Grant
	KindDocker      Kind = "docker" // networks of Docker's, by their IDs there, see plugin/docker
	KindLease       Kind = "lease"  // what a LAN's DHCP server has given, see Lease
)

// Key names a record. IDs may hold any byte but NUL.
type Key struct {
	Kind Kind
	ID   string
}

// Record is a stored value and the revision it was last written at.
type Record struct {
	Key      Key
	Value    []byte
	Revision uint64 // never 0 for a stored record
}

// Write is one part of a commit: it holds only if the record's revision is
// still Revision (0: the record does not exist). A nil Value deletes.
type Write struct {
	Key      Key
	Value    []byte
	Revision uint64
}

// What callers of a Store branch on.
var (
	ErrNotFound = errors.New("no such record")
	ErrConflict = errors.New("the record has changed meanwhile")
)

// Store keeps records. Every implementation passes cnm/storetest.
type Store interface {
	Get(context.Context, Key) (Record, error)     // ErrNotFound
	List(context.Context, Kind) ([]Record, error) // in order of ID
	// Find lists the records whose ID starts with prefix, in order of ID, at a cost that
	// depends on how many there are, not on how many the kind has.
	Find(ctx context.Context, kind Kind, prefix string) ([]Record, error)
	Commit(context.Context, ...Write) error // all or nothing; ErrConflict
	// wakes after a change, coalesced; the reader lists; closed with the context
	Watch(context.Context, Kind) <-chan struct{}
}

// Durable reports whether records of the kind outlive a reboot. The others
// describe what exists in a running kernel. One commit holds only kinds of one sort.
func (k Kind) Durable() bool {
	switch k {
	case KindSandbox, KindEndpoint, KindAddress, KindReservation:
		return false
	}
	return true
}

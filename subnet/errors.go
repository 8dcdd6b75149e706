package subnet

import (
	"errors"
	"fmt"
)

// What callers branch on, with errors.Is. Anything else comes from etcd or from the context.
var (
	ErrExists    = errors.New("already exists")   // the directory has a config, or the subnet a holder
	ErrNoConfig  = errors.New("no config")        // the directory has none: it was never made, was removed or wiped
	ErrBadConfig = errors.New("malformed config") // what it has is none
	ErrExhausted = errors.New("no free subnet")   // every subnet of the network is leased or reserved
	ErrLost      = errors.New("lease lost")       // see [LostError]
	ErrNotFound  = errors.New("no such reservation")
)

// LostError says who has the subnet that was ours. It unwraps to [ErrLost].
type LostError struct {
	Key    string // of our lease
	Holder Lease  // the lease that is in its way, whose key is another one when it only overlaps
	Reason string // why it is lost when nobody is in its way
}

// Error names the subnet, and its holder or the reason.
func (e *LostError) Error() string {
	if e.Reason != "" {
		return fmt.Sprintf("the lease of %s is lost: %s", e.Key, e.Reason)
	}
	return fmt.Sprintf("the lease of %s is lost: %s has %s now", e.Key, e.Holder.holder(), e.Holder.Key)
}

// Unwrap returns [ErrLost].
func (e *LostError) Unwrap() error { return ErrLost }

// TakenError says who has a subnet that was to be reserved. It unwraps to [ErrExists].
type TakenError struct {
	Want   Subnets
	Holder Lease
}

// Error names the subnet and its holder.
func (e *TakenError) Error() string {
	return fmt.Sprintf("%s is taken: %s has %s", e.Want, e.Holder.holder(), e.Holder.Key)
}

// Unwrap returns [ErrExists].
func (e *TakenError) Unwrap() error { return ErrExists }

func (l Lease) holder() string {
	who := "the host"
	if l.NodeID != "" {
		who = "node " + l.NodeID
	}
	if a := l.PublicIP; a.IsValid() {
		return who + " (" + a.String() + ")"
	}
	if a := l.PublicIPv6; a.IsValid() {
		return who + " (" + a.String() + ")"
	}
	if l.NodeID == "" {
		return "somebody"
	}
	return who
}

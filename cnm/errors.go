package cnm

import (
	"errors"
	"fmt"
	"strings"
)

// What callers of the controller and of an [IPAM] branch on, with errors.Is.
// ErrNotFound and ErrConflict, which belong here too, are the [Store]'s.
var (
	ErrInvalid   = errors.New("invalid request") // the request cannot be right, whatever the state
	ErrExists    = errors.New("already exists")  // the name, ID, address, MAC or subnet is taken
	ErrInUse     = errors.New("in use")          // refused as long as something depends on it
	ErrForbidden = errors.New("not allowed")     // builtin networks, host sandboxes
	ErrExhausted = errors.New("exhausted")       // no free address, subnet, port or short ID
	// the cluster's store cannot be reached, or has not given this node its share yet
	ErrUnavailable = errors.New("unavailable")
	ErrPortTaken   = errors.New("the host port is in use") // held by a record or by another process

	// ErrNoBlock is an ErrExhausted of this node's share of a cluster network's subnet: another
	// block of it may help.
	ErrNoBlock = fmt.Errorf("no block of this node has such an address: %w", ErrExhausted)
)

// Error is a refusal: what was asked, why not and what to do instead. It unwraps
// to its Kind, so its text can say more than the kind's.
type Error struct {
	Kind   error  // one of the sentinels
	Field  string // the field of the request; "" when it is about no single field
	Value  string // its value as given
	Reason string // what is wrong, without the value
	Remedy string // what to do; "" when nothing can be done
	Cause  error  // what it comes from, optional
}

// Error is one line: field "value": reason; remedy.
func (e *Error) Error() string {
	var b strings.Builder
	if e.Field != "" {
		fmt.Fprintf(&b, "%s %q: ", e.Field, e.Value)
	}
	b.WriteString(e.Reason)
	if e.Cause != nil {
		fmt.Fprintf(&b, ": %v", e.Cause)
	}
	if e.Remedy != "" {
		b.WriteString("; ")
		b.WriteString(e.Remedy)
	}
	return b.String()
}

// Unwrap returns the kind and the cause.
func (e *Error) Unwrap() []error {
	if e.Cause == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.Cause}
}

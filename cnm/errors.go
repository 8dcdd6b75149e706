package cnm

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/vethloom/vethloom/plan"
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

// PortTakenError tells which host port could not be held. It unwraps to
// [ErrPortTaken]. A [Fabric] that returns it, rather than the bare sentinel, lets the
// controller see at once whether another dynamic port would help.
type PortTakenError struct {
	Proto plan.L4
	Addr  netip.Addr // the zero value: unknown, or every address
	Port  uint16
	By    string // who has it, when known
	Cause error  // optional
}

// Error names the port and who has it.
func (e *PortTakenError) Error() string {
	addr := "*"
	if e.Addr.IsValid() {
		addr = e.Addr.String()
	}
	by := e.By
	if by == "" {
		by = "another process"
	}
	return fmt.Sprintf("host port %s/%s: taken by %s; "+
		"publish another host port or leave it out to have a free one picked",
		hostPort(addr, strconv.Itoa(int(e.Port))), e.Proto, by)
}

// Unwrap returns [ErrPortTaken] and the cause.
func (e *PortTakenError) Unwrap() []error {
	if e.Cause == nil {
		return []error{ErrPortTaken}
	}
	return []error{ErrPortTaken, e.Cause}
}

// hostPort is "host:port", with brackets around an IPv6 address.
func hostPort(host, port string) string {
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return host + ":" + port
}

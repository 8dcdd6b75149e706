package plan

import "errors"

// OpError tells which operation failed. Those before it in the list have been
// applied, those after it have not.
type OpError struct {
	Op  Op
	Err error
}

// Error names the object by its key: a chain's full text would bury the reason.
func (e *OpError) Error() string {
	return string(e.Op.Verb) + " " + e.Op.Kind() + " " + e.Op.Object.Key() + ": " + e.Err.Error()
}

func (e *OpError) Unwrap() error { return e.Err }

// What callers of a kernel branch on.
var (
	ErrPortTaken   = errors.New("the host port is taken")
	ErrUnsupported = errors.New("this kernel does not support it")
)

// NoNamespaceError tells why a network namespace that somebody else has made was not taken.
type NoNamespaceError struct {
	Path   string
	Reason string
}

func (e *NoNamespaceError) Error() string { return "network namespace " + e.Path + " " + e.Reason }

// NoLinkError tells which link of the host another one was to sit on.
type NoLinkError struct {
	Link string
	Err  error
}

func (e *NoLinkError) Error() string { return "the host has no link " + e.Link }

func (e *NoLinkError) Unwrap() error { return e.Err }

// UnfitLinkError tells why a link of the host's does not become a port of a bridge of ours.
type UnfitLinkError struct {
	Link           string
	Reason, Remedy string
	Err            error // of the kernel, if it was asked
}

func (e *UnfitLinkError) Error() string { return "link " + e.Link + " " + e.Reason + ": " + e.Remedy }

func (e *UnfitLinkError) Unwrap() error { return e.Err }

// ForeignLinkError tells why a link was not taken that somebody was said to have made for a sandbox.
type ForeignLinkError struct {
	Link   string // in the fabric's namespace
	Reason string
}

func (e *ForeignLinkError) Error() string { return "link " + e.Link + " is not taken: " + e.Reason }

// PortTakenError tells who has a host port. It unwraps to [ErrPortTaken].
type PortTakenError struct {
	Port PortReservation // the one port that is taken
	By   string          // "nginx (pid 812)"; "" when that could not be found out
	// For is the owner that this process holds it for, where it does.
	For Owner
}

func (e *PortTakenError) Error() string {
	if e.For != "" {
		return e.Port.String() + ": " + ErrPortTaken.Error() + ": it is held for " + string(e.For)
	}
	if e.By == "" {
		return e.Port.String() + ": " + ErrPortTaken.Error()
	}
	return e.Port.String() + ": " + ErrPortTaken.Error() + " by " + e.By
}

// Unwrap returns [ErrPortTaken].
func (e *PortTakenError) Unwrap() error { return ErrPortTaken }

package plan

import "errors"

// OpError tells which operation failed. Those before it in the list have been
// applied, those after it have not.
type OpError struct {
	Op  Op
	Err error
}

func (e *OpError) Error() string { return e.Op.String() + ": " + e.Err.Error() }

func (e *OpError) Unwrap() error { return e.Err }

// What callers of a kernel branch on.
var (
	ErrPortTaken   = errors.New("the host port is taken")
	ErrUnsupported = errors.New("this kernel does not support it")
)

package engine

import (
	"errors"
	"fmt"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine/shim"
)

// What callers branch on besides the sentinels of package cnm, which
// [cnm.Error] values of this package unwrap to.
var (
	ErrCommandNotFound = errors.New("the command does not exist in the container")
	ErrCommandNotExec  = errors.New("the command cannot be executed")
	ErrNotRunning      = errors.New("the container is not running")
)

// CommandError says why a command could not be run in a container. It unwraps
// to [ErrCommandNotFound], [ErrCommandNotExec] or what else was in the way.
type CommandError struct {
	Container string // its name
	Reason    string
	kind      error
	code      int
}

func (e *CommandError) Error() string {
	return fmt.Sprintf("container %s: %s", e.Container, e.Reason)
}

// Unwrap returns the class of the failure.
func (e *CommandError) Unwrap() error { return e.kind }

// ExitCode is what a command line that wanted to run the command ends with:
// 127 when it was not found, 126 when it cannot be executed, else 125.
func (e *CommandError) ExitCode() int { return e.code }

// commandError gives a failure of the shim its class.
func commandError(name string, err error) error {
	if err == nil {
		return nil
	}
	out := &CommandError{Container: name, Reason: err.Error(), kind: err, code: 125}
	told, ok := errors.AsType[*shim.Error](err)
	if !ok {
		return out
	}
	out.Reason = told.Message
	switch told.Code {
	case shim.CodeNotFound:
		out.kind, out.code = ErrCommandNotFound, 127
	case shim.CodeNotRunnable:
		out.kind, out.code = ErrCommandNotExec, 126
	case shim.CodeNotRunning:
		out.kind = ErrNotRunning
	case shim.CodeInvalid:
		out.kind = cnm.ErrInvalid
	case shim.CodeNoSuchTarget:
		out.kind = cnm.ErrNotFound
	}
	return out
}

func notFound(ref string) error {
	return &cnm.Error{Kind: cnm.ErrNotFound, Field: "container", Value: ref, Reason: "no such container",
		Remedy: "list what there is with 'net ps -a'"}
}

func notRunning(name string) error {
	return &cnm.Error{Kind: cnm.ErrForbidden, Cause: ErrNotRunning, Field: "container", Value: name,
		Reason: "it cannot be done now", Remedy: "start it with 'net start'"}
}

func invalid(field, value, reason, remedy string) error {
	return &cnm.Error{Kind: cnm.ErrInvalid, Field: field, Value: value, Reason: reason, Remedy: remedy}
}

package server

import (
	"context"
	"errors"
	"strconv"

	"github.com/vethloom/vethloom/cnm"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// ErrorDomain is the domain of the ErrorInfo details that errors carry.
const ErrorDomain = "vethloom"

// ExitCodeKey is the metadata key of an ErrorInfo under which the exit code
// stands that a command line which wanted to run something should end with.
const ExitCodeKey = "exit_code"

// ExitCoder is an error that knows the exit code of a command that could not
// be run: 126 when it is not executable, 127 when it was not found.
type ExitCoder interface {
	error
	ExitCode() int
}

// kinds tells what domain errors mean on the wire. The first that matches wins.
var kinds = []struct {
	err    error
	code   codes.Code
	reason string
}{
	{cnm.ErrNotFound, codes.NotFound, "NOT_FOUND"},
	{cnm.ErrPortTaken, codes.FailedPrecondition, "PORT_TAKEN"},
	{cnm.ErrExhausted, codes.ResourceExhausted, "EXHAUSTED"},
	// Not codes.Unavailable, which tells clients that the connection to netd itself is gone.
	{cnm.ErrUnavailable, codes.FailedPrecondition, "UNAVAILABLE"},
	{cnm.ErrInUse, codes.FailedPrecondition, "IN_USE"},
	{cnm.ErrExists, codes.AlreadyExists, "EXISTS"},
	{cnm.ErrForbidden, codes.FailedPrecondition, "FORBIDDEN"},
	{cnm.ErrInvalid, codes.InvalidArgument, "INVALID"},
	{cnm.ErrConflict, codes.Aborted, "CONFLICT"},
	{context.Canceled, codes.Canceled, "CANCELED"},
	{context.DeadlineExceeded, codes.DeadlineExceeded, "DEADLINE"},
	{errors.ErrUnsupported, codes.Unimplemented, "UNSUPPORTED"},
}

// toStatus gives a domain error its gRPC code and details. The text stays as
// it is: it was written for the person who asked.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	var already interface{ GRPCStatus() *status.Status }
	if errors.As(err, &already) {
		return already.GRPCStatus().Err()
	}
	code, reason := codes.Unknown, "FAILED"
	for _, k := range kinds {
		if errors.Is(err, k.err) {
			code, reason = k.code, k.reason
			break
		}
	}
	info := &errdetails.ErrorInfo{Reason: reason, Domain: ErrorDomain}
	var exit ExitCoder
	if errors.As(err, &exit) {
		info.Metadata = map[string]string{ExitCodeKey: strconv.Itoa(exit.ExitCode())}
		if code == codes.Unknown {
			code, info.Reason = codes.FailedPrecondition, "COMMAND"
		}
	}
	st := status.New(code, err.Error())
	if detailed, detailErr := st.WithDetails(info); detailErr == nil {
		st = detailed
	}
	return st.Err()
}

// invalid refuses a field of a request that the protocol allows and the domain
// cannot hold.
func invalid(field, value, reason, remedy string) error {
	return &cnm.Error{Kind: cnm.ErrInvalid, Field: field, Value: value, Reason: reason, Remedy: remedy}
}

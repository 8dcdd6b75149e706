package client

import (
	"context"
	"errors"
	"strconv"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// exitCodeKey is where the server puts an exit code into an ErrorInfo.
const exitCodeKey = "exit_code"

// CallError is a call that netd refused or could not finish. Its text is the
// daemon's, which was written to be read by people.
type CallError struct {
	Code codes.Code
	Text string
	Exit int // the exit code for a command that could not be run; 0: none was given
}

// Error is the daemon's text.
func (e *CallError) Error() string { return e.Text }

// Explain turns the error of a generated client's call into a [*CallError],
// or into the context's error when the caller gave up.
func Explain(err error) error {
	if err == nil {
		return nil
	}
	st, ok := status.FromError(err)
	if !ok {
		return err
	}
	e := &CallError{Code: st.Code(), Text: st.Message()}
	switch st.Code() {
	case codes.Canceled:
		if errors.Is(err, context.Canceled) {
			return context.Canceled
		}
	case codes.Unavailable:
		e.Text = "the connection to netd broke off (" + st.Message() +
			"): see whether it runs with 'systemctl status netd', then try again"
	case codes.Unimplemented:
		e.Text = "this netd does not know the call (" + st.Message() + "): compare versions with 'net version'"
	}
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			if n, err := strconv.Atoi(info.GetMetadata()[exitCodeKey]); err == nil {
				e.Exit = n
			}
		}
	}
	return e
}

// CodeOf is the gRPC code of a call's error, explained or not.
func CodeOf(err error) codes.Code {
	var e *CallError
	if errors.As(err, &e) {
		return e.Code
	}
	return status.Code(err)
}

package server

import (
	"context"
	"errors"
	"fmt"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/plan"
	"github.com/vethloom/vethloom/plugin/attach"
	"golang.org/x/sys/unix"
)

func invalid(format string, args ...any) error {
	return &attach.Error{Kind: attach.Invalid, Message: fmt.Sprintf(format, args...)}
}

func noNetNS(path, reason string) error {
	return &attach.Error{Kind: attach.NoNetNS, Message: fmt.Sprintf("network namespace %q: %s", path, reason)}
}

// told is an error as the caller gets it.
func told(err error) *attach.Error {
	if e, ok := errors.AsType[*attach.Error](err); ok {
		return e
	}
	if op, ok := errors.AsType[*plan.OpError](err); ok && errors.Is(err, unix.EEXIST) {
		if l, ok := op.Op.Object.(plan.Link); ok && l.Peer.NS.Adopted() {
			return &attach.Error{Kind: attach.Conflict, Message: fmt.Sprintf("interface %q: the container has a link "+
				"of that name already, by another plugin; give one of them another name", l.Peer.Name)}
		}
	}
	return &attach.Error{Kind: kindOf(err), Message: err.Error()}
}

func kindOf(err error) attach.Kind {
	if e, ok := errors.AsType[*cnm.Error](err); ok && e.Field == cnm.FieldNetNS {
		return attach.NoNetNS
	}
	if _, ok := errors.AsType[*plan.NoNamespaceError](err); ok {
		return attach.NoNetNS
	}
	for _, k := range []struct {
		is   error
		kind attach.Kind
	}{
		{cnm.ErrExhausted, attach.Exhausted},
		{cnm.ErrUnavailable, attach.Unavailable},
		{context.DeadlineExceeded, attach.Unavailable},
		{cnm.ErrNotFound, attach.NotFound},
		{cnm.ErrExists, attach.Conflict},
		{cnm.ErrInUse, attach.Conflict},
		{cnm.ErrPortTaken, attach.Conflict},
		{plan.ErrPortTaken, attach.Conflict},
		{cnm.ErrConflict, attach.Unavailable},
		{cnm.ErrInvalid, attach.Invalid},
		{cnm.ErrForbidden, attach.Invalid},
	} {
		if errors.Is(err, k.is) {
			return k.kind
		}
	}
	return attach.Failed
}

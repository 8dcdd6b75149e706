package etcd

import (
	"bytes"
	"context"
	"errors"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// uncertain reports whether a member may have done what it was asked for, although it did not say so: it lost its
// leader or its connection meanwhile.
func uncertain(err error) bool {
	if unavailable(err) {
		return false
	}
	e := rpctypes.Error(err)
	switch {
	case errors.Is(e, rpctypes.ErrTooManyRequests), errors.Is(e, rpctypes.ErrCorrupt),
		errors.Is(e, rpctypes.ErrUnhealthy), errors.Is(e, rpctypes.ErrInvalidAuthToken):
		return false
	}
	return status.Code(err) == codes.Unavailable
}

// repeatable reports whether a request that may have been done can be made again: it reads, it makes a lease, of which
// one that nobody knows ends by itself, or it is a transaction that does nothing the second time.
func repeatable(request any) bool {
	switch r := request.(type) {
	case *etcdserverpb.RangeRequest, *etcdserverpb.LeaseTimeToLiveRequest, *etcdserverpb.LeaseRevokeRequest:
		return true
	case *etcdserverpb.LeaseGrantRequest:
		return r.ID == 0
	case *etcdserverpb.TxnRequest:
		return onceOnly(r)
	}
	return false
}

// onceOnly reports whether a transaction, once it was done, does nothing when it is made again, since one of its writes
// changes what it compares. A key that it makes, and that somebody else removes between the two, it makes again: as if
// that had come first.
func onceOnly(r *etcdserverpb.TxnRequest) bool {
	for _, op := range r.Failure {
		if op.GetRequestRange() == nil {
			return false
		}
	}
	reads, undone := 0, false
	for _, op := range r.Success {
		put, del := op.GetRequestPut(), op.GetRequestDeleteRange()
		switch {
		case op.GetRequestRange() != nil:
			reads++
		case put != nil && !put.PrevKv && !put.IgnoreValue && !put.IgnoreLease:
			undone = undone || undoes(r.Compare, put.Key, false)
		case del != nil && !del.PrevKv && len(del.RangeEnd) == 0:
			undone = undone || undoes(r.Compare, del.Key, true)
		default:
			return false
		}
	}
	return reads == len(r.Success) || reads == 0 && undone
}

// undoes reports whether a comparison that holds does not hold any more once the key is written or deleted.
func undoes(compares []*etcdserverpb.Compare, key []byte, deletes bool) bool {
	for _, c := range compares {
		if !bytes.Equal(c.Key, key) || len(c.RangeEnd) > 0 || c.Result != etcdserverpb.Compare_EQUAL {
			continue
		}
		switch c.Target {
		case etcdserverpb.Compare_MOD:
			return !deletes || c.GetModRevision() != 0
		case etcdserverpb.Compare_CREATE:
			return deletes == (c.GetCreateRevision() != 0)
		}
	}
	return false
}

// settle finds out whether a transaction that was made again, and did nothing then, was done the first time: all that
// it writes is there, of one revision. Its answer then says so. What somebody else has changed since counts as not
// done: who asked has to read again, as after any other conflict.
func settle(ctx context.Context, r *etcdserverpb.TxnRequest, reply *etcdserverpb.TxnResponse,
	look func(context.Context, *etcdserverpb.TxnRequest, *etcdserverpb.TxnResponse) error) error {
	var reads []*etcdserverpb.RequestOp
	for _, op := range r.Success {
		key := op.GetRequestPut().GetKey()
		if del := op.GetRequestDeleteRange(); del != nil {
			key = del.Key
		}
		reads = append(reads, &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestRange{
			RequestRange: &etcdserverpb.RangeRequest{Key: key}}})
	}
	var now etcdserverpb.TxnResponse
	if err := look(ctx, &etcdserverpb.TxnRequest{Success: reads}, &now); err != nil {
		return err
	}
	revision, ok := doneAt(r, &now)
	if !ok {
		return nil
	}
	reply.Succeeded, reply.Responses = true, nil
	reply.Header = now.Header
	reply.Header.Revision = revision
	for _, op := range r.Success {
		answer := &etcdserverpb.ResponseOp{}
		if op.GetRequestPut() != nil {
			answer.Response = &etcdserverpb.ResponseOp_ResponsePut{
				ResponsePut: &etcdserverpb.PutResponse{Header: reply.Header}}
		} else {
			answer.Response = &etcdserverpb.ResponseOp_ResponseDeleteRange{
				ResponseDeleteRange: &etcdserverpb.DeleteRangeResponse{Header: reply.Header, Deleted: 1}}
		}
		reply.Responses = append(reply.Responses, answer)
	}
	return nil
}

// doneAt is the revision at which what a transaction writes came to be as it is, if it did; that of the look itself
// where it only deletes.
func doneAt(r *etcdserverpb.TxnRequest, now *etcdserverpb.TxnResponse) (int64, bool) {
	if len(now.Responses) != len(r.Success) || now.Header == nil {
		return 0, false
	}
	revision := int64(0)
	for i, op := range r.Success {
		kvs, put := now.Responses[i].GetResponseRange().GetKvs(), op.GetRequestPut()
		switch {
		case put == nil && len(kvs) == 0:
		case put == nil, len(kvs) != 1, !bytes.Equal(kvs[0].Value, put.Value), kvs[0].Lease != put.Lease,
			revision != 0 && kvs[0].ModRevision != revision, !written(r.Compare, kvs[0].Key, kvs[0].ModRevision):
			return 0, false
		default:
			revision = kvs[0].ModRevision
		}
	}
	if revision == 0 {
		revision = now.Header.Revision
	}
	return revision, true
}

// written reports whether a key was written after what was known of it.
func written(compares []*etcdserverpb.Compare, key []byte, revision int64) bool {
	for _, c := range compares {
		if bytes.Equal(c.Key, key) && len(c.RangeEnd) == 0 && c.Target == etcdserverpb.Compare_MOD &&
			revision <= c.GetModRevision() {
			return false
		}
	}
	return true
}

package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/vethloom/vethloom/cnm"
)

// Blob opens a blob at an offset in bytes. A read goes on where a connection broke, was reset, was silent for too long
// or brought too little, and with the next endpoint when one keeps failing. Of a server that knows no ranges the first
// bytes are read and thrown away: the caller has them already, and the server sends them in any case. Nothing is
// verified but the size.
func (r *Repository) Blob(ctx context.Context, d v1.Descriptor, offset int64) (io.ReadCloser, error) {
	if d.Size < 0 || offset < 0 || offset > d.Size {
		return nil, &cnm.Error{Kind: cnm.ErrInvalid, Field: "offset", Value: strconv.FormatInt(offset, 10),
			Reason: fmt.Sprintf("is not in a blob of %d bytes", d.Size), Remedy: "begin at 0"}
	}
	ctx, cancel := context.WithCancel(ctx)
	b := &blob{repository: r, ctx: ctx, cancel: cancel, d: d, offset: offset, from: offset}
	b.use(0)
	if offset == d.Size {
		return b, nil
	}
	for b.body == nil {
		if err := b.open(); err != nil {
			if err := b.next(err); err != nil {
				cancel()
				return nil, err
			}
		}
	}
	return b, nil
}

// blob is a blob that is being read.
type blob struct {
	repository *Repository
	ctx        context.Context
	cancel     context.CancelFunc
	d          v1.Descriptor
	offset     int64 // of the next byte that the caller gets

	index    int // of the endpoint
	patience *patience
	failures []error // of the endpoints before
	noRange  bool    // the endpoint has refused a range
	body     io.ReadCloser
	known    bool          // the body's length is that of the descriptor
	broken   error         // what the body ended with, after the bytes that came with it
	from     int64         // the offset at the last failure
	waited   time.Duration // for the endpoint since then
	err      error
}

// use turns to an endpoint.
func (b *blob) use(i int) {
	s := b.repository.sessions[i]
	b.index, b.noRange = i, false
	b.patience = b.repository.patience(b.d.Digest.String(), s, i+1 == len(b.repository.sessions))
}

// next waits before another attempt, or turns to the next endpoint; the error is final. Attempts are counted anew when
// the endpoint was worth the time that was waited for it: one that brings a byte an attempt would be asked forever.
func (b *blob) next(err error) error {
	if came := b.offset - b.from; came > 0 && came >= worth(b.repository.client.rate, b.waited) {
		b.patience.progressed()
	}
	b.from, b.waited = b.offset, 0
	begin := time.Now()
	defer func() { b.waited += time.Since(begin) }()
	if err = b.patience.wait(b.ctx, err); err == nil {
		return nil
	}
	if b.ctx.Err() != nil {
		return err
	}
	b.failures = append(b.failures, err)
	if b.index+1 == len(b.repository.sessions) {
		return together(b.failures)
	}
	b.use(b.index + 1)
	return nil
}

func (b *blob) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	n, err := b.read(p)
	b.err = err
	return n, err
}

func (b *blob) read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if int64(len(p)) > b.d.Size-b.offset {
		p = p[:b.d.Size-b.offset]
	}
	for b.offset < b.d.Size {
		if err := b.broken; err != nil {
			b.broken = nil
			if err := b.next(err); err != nil {
				return 0, err
			}
		}
		if b.body == nil {
			if err := b.open(); err != nil {
				if err := b.next(err); err != nil {
					return 0, err
				}
				continue
			}
		}
		n, err := b.body.Read(p)
		b.offset += int64(n)
		if n > 0 && b.offset == b.d.Size {
			return n, b.end(err)
		}
		if err != nil {
			b.drop()
			b.broken = b.explain(err)
		}
		if n > 0 {
			return n, nil
		}
	}
	return 0, io.EOF
}

// end makes sure that nothing follows the last byte. When the server's length said so already, nobody waits for it.
func (b *blob) end(err error) error {
	defer b.drop()
	if err != nil {
		return nil
	}
	if b.known {
		return nil
	}
	var one [1]byte
	if n, _ := io.ReadFull(b.body, one[:]); n > 0 {
		return b.explain(contentError("the blob %s has more than the %d bytes that the manifest says", b.d.Digest,
			b.d.Size))
	}
	return nil
}

func (b *blob) drop() {
	if b.body != nil {
		b.body.Close()
		b.body = nil
	}
}

// Close ends the transfer. It is not for another goroutine than that which reads: that ends with the context.
func (b *blob) Close() error {
	b.drop()
	b.cancel()
	if b.err == nil {
		b.err = errors.New("the blob is closed")
	}
	return nil
}

func (b *blob) session() *session { return b.repository.sessions[b.index] }

func (b *blob) op() string {
	return "get blob " + b.d.Digest.String() + " of " + b.session().ep.Repository
}

func (b *blob) explain(err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	err = b.session().explain(b.ctx, b.op(), &call{}, err)
	var e *Error
	if errors.As(err, &e) && e.Kind == KindBroken {
		e.Reason += fmt.Sprintf(" at byte %d of %d", b.offset, b.d.Size)
	}
	return err
}

// open asks the endpoint for the blob from the offset on.
func (b *blob) open() error {
	ranged := b.offset > 0 && !b.noRange
	req := request{op: b.op(), method: http.MethodGet, path: "blobs/" + b.d.Digest.String(), limit: -1,
		header: http.Header{"Accept": {"*/*"}}, accept: []int{http.StatusPartialContent}}
	if ranged {
		// With its end, as not all servers know ranges without one.
		req.header.Set("Range", fmt.Sprintf("bytes=%d-%d", b.offset, b.d.Size-1))
		req.accept = append(req.accept, http.StatusRequestedRangeNotSatisfiable)
	}
	begin := time.Now()
	resp, err := b.session().do(b.ctx, req)
	b.waited += time.Since(begin)
	if err != nil {
		return err
	}
	client := b.repository.client
	resp.Body = &pace{ReadCloser: resp.Body, rate: client.rate, window: client.window, all: &b.waited}
	if err := b.check(resp, ranged); err != nil {
		resp.Body.Close()
		return b.explain(err)
	}
	b.body, b.known = resp.Body, resp.ContentLength >= 0
	return nil
}

// check has the body of an answer begin at the offset.
func (b *blob) check(resp *http.Response, ranged bool) error {
	switch resp.StatusCode {
	case http.StatusRequestedRangeNotSatisfiable:
		b.noRange = true // what follows is asked for from its beginning
		return &Error{Kind: KindBroken, Status: resp.StatusCode,
			Reason: fmt.Sprintf("cannot go on at byte %d of %d", b.offset, b.d.Size)}
	case http.StatusPartialContent:
		if err := b.checkRange(resp.Header.Get("Content-Range"), ranged); err != nil {
			return err
		}
		if l := resp.ContentLength; l >= 0 && l != b.d.Size-b.offset {
			return b.wrongSize(b.offset + l)
		}
		return nil
	}
	if l := resp.ContentLength; l >= 0 && l != b.d.Size {
		return b.wrongSize(l)
	}
	if n, err := io.CopyN(io.Discard, resp.Body, b.offset); err != nil {
		return fmt.Errorf("skip what is here already (byte %d of %d): %w", n, b.offset, err)
	}
	return nil
}

func (b *blob) wrongSize(got int64) error {
	return contentError("the blob %s has %d bytes, where the manifest says %d", b.d.Digest, got, b.d.Size)
}

// checkRange reads Content-Range: bytes first-last/size, the size * where it is not known (RFC 9110, 14.4).
func (b *blob) checkRange(text string, ranged bool) error {
	bad := contentError("the answer is for the range %q, where bytes %d to %d were asked for", said(text), b.offset,
		b.d.Size-1)
	rest, ok := strings.CutPrefix(text, "bytes ")
	span, total, ok2 := strings.Cut(rest, "/")
	first, last, ok3 := strings.Cut(span, "-")
	if !ok || !ok2 || !ok3 || !ranged {
		return bad
	}
	if n, err := strconv.ParseInt(first, 10, 64); err != nil || n != b.offset {
		return bad
	}
	if n, err := strconv.ParseInt(last, 10, 64); err != nil || n >= b.d.Size {
		return bad
	}
	if n, err := strconv.ParseInt(total, 10, 64); total != "*" && (err != nil || n != b.d.Size) {
		return bad
	}
	return nil
}

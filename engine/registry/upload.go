package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync/atomic"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/vethloom/vethloom/engine/image"
)

const (
	maxMounts = 3  // repositories that a blob is tried to be taken from
	maxScopes = 20 // of one token: they are in a URL
)

// blob sends a blob, if the registry neither has it nor can take it from another repository of its own.
func (p *pusher) blob(ctx context.Context, c Content, d v1.Descriptor) error {
	part := d.Digest.String()
	progress := func(action string, current int64) {
		p.report(image.Progress{Part: part, Action: action, Current: current, Total: d.Size})
	}
	var action string
	err := p.patience(part).retry(ctx, func() (err error) {
		action, err = p.tryBlob(ctx, c, d, progress)
		return err
	})
	if err == nil {
		progress(action, d.Size)
	}
	return err
}

// tryBlob returns the action that the blob is there by.
func (p *pusher) tryBlob(ctx context.Context, c Content, d v1.Descriptor, progress func(string, int64)) (
	string, error) {
	there, err := p.exists(ctx, d)
	if there || err != nil {
		return image.ActionExists, err
	}
	var begun *url.URL
	for _, from := range p.mounts[d.Digest] {
		location, err := p.begin(ctx, d, from)
		switch {
		case err == nil && location == nil:
			return image.ActionMounted, nil
		case err == nil: // it has not, and has begun an upload instead
			begun = location
		case ctx.Err() != nil:
			return "", err
		}
		// Some registries refuse what they could leave out: the blob is sent.
	}
	if begun == nil {
		if begun, err = p.begin(ctx, d, ""); err != nil {
			return "", err
		}
	}
	if begun == nil {
		return image.ActionExists, nil
	}
	return image.ActionPushed, p.upload(ctx, c, d, begun, progress)
}

// exists asks whether the repository has a blob.
func (p *pusher) exists(ctx context.Context, d v1.Descriptor) (bool, error) {
	op := "look for blob " + d.Digest.String() + " in " + p.session.ep.Repository
	resp, err := p.session.do(ctx, request{op: op, method: http.MethodHead, path: "blobs/" + d.Digest.String(),
		limit: maxSmallBody})
	var e *Error
	if errors.As(err, &e) && e.Kind == KindNotFound {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, resp.Body.Close()
}

// begin begins an upload, and returns where to; nil when the blob is there now, taken from another repository.
func (p *pusher) begin(ctx context.Context, d v1.Descriptor, from string) (*url.URL, error) {
	path, op := "blobs/uploads/", "begin the upload of blob "+d.Digest.String()+" to "+p.session.ep.Repository
	if from != "" {
		path += "?" + url.Values{"mount": {d.Digest.String()}, "from": {from}}.Encode()
	}
	resp, err := p.session.do(ctx, request{op: op, method: http.MethodPost, path: path, limit: maxSmallBody,
		accept: []int{http.StatusCreated, http.StatusAccepted}})
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusCreated {
		return nil, nil
	}
	location, err := resp.Request.URL.Parse(resp.Header.Get("Location"))
	if err != nil || resp.Header.Get("Location") == "" {
		return nil, p.session.explain(ctx, op, &call{},
			contentError("it does not say where to send the blob to (%q)", said(resp.Header.Get("Location"))))
	}
	return location, nil
}

// upload sends a blob in one request.
func (p *pusher) upload(ctx context.Context, c Content, d v1.Descriptor, to *url.URL,
	progress func(string, int64)) error {
	query := to.Query()
	query.Set("digest", d.Digest.String())
	to.RawQuery = query.Encode()
	op := "send blob " + d.Digest.String() + " to " + p.session.ep.Repository
	var own atomic.Pointer[error] // what is wrong with our own copy is not the registry's failure
	resp, err := p.session.do(ctx, request{op: op, method: http.MethodPut, url: to.String(), size: d.Size,
		limit: maxSmallBody, header: http.Header{"Content-Type": {"application/octet-stream"}},
		accept: []int{http.StatusCreated, http.StatusAccepted, http.StatusNoContent},
		body: func() (io.ReadCloser, error) {
			body, err := c.Blob(ctx, d)
			if err != nil {
				own.Store(&err)
				return nil, err
			}
			tell := func(n int64) { progress(image.ActionPushing, n) }
			return &counted{ReadCloser: body, size: d.Size, tell: tell, failed: &own}, nil
		}})
	if failed := own.Load(); failed != nil && ctx.Err() == nil {
		return fmt.Errorf("read blob %s to send it: %w", d.Digest, *failed)
	}
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// counted tells how much of a body was read, and keeps why it could not be.
type counted struct {
	io.ReadCloser
	n, size int64
	tell    func(int64)
	failed  *atomic.Pointer[error]
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.n += int64(n)
	if n > 0 {
		c.tell(c.n)
	}
	if errors.Is(err, io.EOF) && c.n < c.size {
		err = fmt.Errorf("it has %d bytes, where the manifest says %d", c.n, c.size)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		c.failed.Store(&err)
	}
	return n, err
}

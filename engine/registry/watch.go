package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// errStalled is the cause of a request's end when the other side has been silent for too long.
var errStalled = errors.New("nothing came")

// watch ends a request that brings nothing. It runs from the request to the header of its answer, and while somebody
// waits for bytes of the body; a reader that is slow itself is not the server's fault.
type watch struct {
	ctx    context.Context
	cancel context.CancelCauseFunc

	mu      sync.Mutex
	timer   *time.Timer
	sending bool // the header of the answer has not come
}

// newWatch ends a context when nothing has happened for a time.
func newWatch(ctx context.Context, idle time.Duration) *watch {
	w := &watch{sending: true}
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	w.timer = time.AfterFunc(idle, func() { w.cancel(errStalled) })
	return w
}

// sent is told of bytes of the request's body that the server takes.
func (w *watch) sent(idle time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.sending {
		w.timer.Reset(idle)
	}
}

// answered is told that the header has come.
func (w *watch) answered() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sending = false
	w.timer.Stop()
}

// stop ends the request.
func (w *watch) stop() {
	w.answered()
	w.cancel(nil)
}

// stalled reports whether it was the watch that ended the request.
func (w *watch) stalled() bool { return errors.Is(context.Cause(w.ctx), errStalled) }

// sentBody is the body of a request.
type sentBody struct {
	io.ReadCloser
	watch        *watch
	idle, settle time.Duration // between two reads; from the end of the body to the answer
}

func (b *sentBody) Read(p []byte) (int, error) {
	b.watch.sent(b.idle)
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.watch.sent(b.settle)
	}
	return n, err
}

// answerBody is the body of an answer, which is not waited for longer than idle, and of which no more than a limit is
// read.
type answerBody struct {
	io.ReadCloser
	watch *watch
	idle  time.Duration
	left  int64 // bytes; negative for no limit
}

// errTooLong is returned by an answer's body that is longer than its limit.
var errTooLong = errors.New("the answer is too long")

func (b *answerBody) Read(p []byte) (int, error) {
	if b.left == 0 {
		// One more byte would be too many; none is the end.
		var one [1]byte
		if n, err := b.wait(one[:]); n == 0 {
			return 0, err
		}
		return 0, errTooLong
	}
	if b.left > 0 && int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.wait(p)
	if b.left > 0 {
		b.left -= int64(n)
	}
	return n, err
}

func (b *answerBody) wait(p []byte) (int, error) {
	b.watch.timer.Reset(b.idle)
	n, err := b.ReadCloser.Read(p)
	b.watch.timer.Stop()
	if err != nil && err != io.EOF && b.watch.stalled() {
		err = fmt.Errorf("%w for %s", errStalled, b.idle)
	}
	return n, err
}

// Close ends the request. What is left of the body is not waited for.
func (b *answerBody) Close() error {
	err := b.ReadCloser.Close()
	b.watch.stop()
	return err
}

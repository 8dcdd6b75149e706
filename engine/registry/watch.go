package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// Causes of a request's end: the other side has been silent for too long, brings too little, or answers too late.
var (
	errStalled = errors.New("nothing came")
	errSlow    = errors.New("too little came")
	errLate    = errors.New("the answer did not come whole")
)

// timed is the time that one request has, with all that it leads to.
type timed struct {
	ctx   context.Context //nolint:containedctx // that of a request, as its body is read later
	end   context.CancelCauseFunc
	timer *time.Timer
	limit time.Duration
}

func newTimed(ctx context.Context, limit time.Duration) *timed {
	t := &timed{limit: limit}
	t.ctx, t.end = context.WithCancelCause(ctx)
	t.timer = time.AfterFunc(limit, func() { t.end(errLate) })
	return t
}

// explain says of an error whether it was the time that has ended the request.
func (t *timed) explain(err error) error {
	if err != nil && err != io.EOF && errors.Is(context.Cause(t.ctx), errLate) {
		return fmt.Errorf("%w in %s", errLate, t.limit)
	}
	return err
}

// stop ends the request.
func (t *timed) stop() {
	t.timer.Stop()
	t.end(nil)
}

// timedBody is the body of an answer, within the request's time.
type timedBody struct {
	io.ReadCloser
	timed *timed
}

func (b *timedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	return n, b.timed.explain(err)
}

// Close ends the request.
func (b *timedBody) Close() error {
	err := b.ReadCloser.Close()
	b.timed.stop()
	return err
}

// pace compares what a server brings of a blob with the time that is waited for it. A reader that is slow itself is not
// the server's fault.
type pace struct {
	io.ReadCloser
	rate   int64 // bytes a second
	window time.Duration
	all    *time.Duration // what was waited since the last failure

	came   int64 // in this window
	waited time.Duration
}

func (p *pace) Read(b []byte) (int, error) {
	begin := time.Now()
	n, err := p.ReadCloser.Read(b)
	spent := time.Since(begin)
	*p.all += spent
	p.waited += spent
	p.came += int64(n)
	if p.waited < p.window {
		return n, err
	}
	if err == nil && p.came < worth(p.rate, p.window) {
		err = fmt.Errorf("%w: %d bytes in %s, where %d a second is the least", errSlow, p.came,
			p.waited.Round(time.Millisecond), p.rate)
	}
	p.came, p.waited = 0, 0
	return n, err
}

// worth is how many bytes a rate makes in a time.
func worth(rate int64, d time.Duration) int64 { return int64(float64(rate) * d.Seconds()) }

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

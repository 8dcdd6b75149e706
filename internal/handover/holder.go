package handover

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/vethloom/vethloom/internal/descriptor"
	"github.com/vethloom/vethloom/internal/rootsocket"
)

const (
	// Patience is how long a holder waits for the next netd. One that comes later opens files of its own: the queues of
	// these have long overflowed, and neither port nor device shall be in use for a netd that is gone for good.
	Patience = 15 * time.Second
	lookTime = 500 * time.Millisecond // between two looks at whether anybody is there, or can come
)

// Holder has the items.
type Holder struct {
	path     string
	place    os.FileInfo // of the socket's file
	patience time.Duration

	mu    sync.Mutex
	items map[string]Item
	conns map[*descriptor.Conn]bool
	quiet time.Time // since when nobody is connected

	end    context.CancelFunc
	closed chan struct{} // when nothing is open any more
}

// Run holds what netd, at the other end of a connection, hands over, and hands it to the next one, which connects to
// the socket that Run makes at a path. It returns when there is nobody to hold anything for.
func Run(ctx context.Context, netd *net.UnixConn, path string, patience time.Duration) error {
	l, err := rootsocket.Listen(path)
	if err != nil {
		return fmt.Errorf("make the socket for the next netd: %w", err)
	}
	l.SetUnlinkOnClose(false) // there may be another one's by then
	h := &Holder{path: path, patience: patience, items: map[string]Item{}, conns: map[*descriptor.Conn]bool{},
		closed: make(chan struct{})}
	if h.place, err = os.Lstat(path); err != nil {
		return errors.Join(err, l.Close())
	}
	ctx, h.end = context.WithCancel(ctx)
	defer h.end()
	var tasks sync.WaitGroup
	defer tasks.Wait()
	defer h.end()
	serve := func(c *descriptor.Conn) {
		h.connected(c, true)
		tasks.Go(func() {
			defer h.connected(c, false)
			h.serve(c)
		})
	}
	serve(descriptor.NewConn(netd))
	tasks.Go(func() { h.wait(ctx); h.close(l) })
	next := rootsocket.Only(l)
	for {
		c, err := next.Accept()
		if err != nil && ctx.Err() == nil {
			return fmt.Errorf("take a connection: %w", err)
		}
		if err != nil {
			return nil
		}
		serve(descriptor.NewConn(c.(*net.UnixConn)))
	}
}

// wait returns when it is time to end.
func (h *Holder) wait(ctx context.Context) {
	t := time.NewTicker(lookTime)
	defer t.Stop()
	for !h.useless() {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// useless reports whether nobody is there, and nobody can come, or has come for too long.
func (h *Holder) useless() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.conns) > 0 {
		return false
	}
	now, err := os.Lstat(h.path)
	return len(h.items) == 0 || err != nil || !os.SameFile(now, h.place) || time.Since(h.quiet) > h.patience
}

// close gives everything up. Who waits for the end of a connection finds the files closed.
func (h *Holder) close(l net.Listener) {
	h.end()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, i := range h.items {
		descriptor.Close(i.Files)
	}
	clear(h.items)
	if now, err := os.Lstat(h.path); err == nil && os.SameFile(now, h.place) {
		_ = os.Remove(h.path)
	}
	close(h.closed)
	l.Close()
	for c := range h.conns {
		c.Close()
	}
}

func (h *Holder) connected(c *descriptor.Conn, is bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if is {
		h.conns[c] = true
		return
	}
	c.Close()
	delete(h.conns, c)
	h.quiet = time.Now()
}

// serve answers one connection's requests until it ends.
func (h *Holder) serve(c *descriptor.Conn) {
	for {
		var q request
		files, err := c.Receive(&q)
		if err != nil {
			return
		}
		if q.Put == nil {
			descriptor.Close(files)
		}
		err = c.SetDeadline(time.Now().Add(answerTime)) // who does not read keeps nobody else waiting
		if err == nil {
			err = h.answer(c, q, files)
		}
		if err == nil {
			err = c.SetDeadline(time.Time{})
		}
		if err != nil {
			return
		}
		if q.Quit { // the end of the connection says that nothing is open any more
			<-h.closed
		}
	}
}

func (h *Holder) answer(c *descriptor.Conn, q request, files []descriptor.Descriptor) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case q.Put != nil:
		i := *q.Put
		if i.Files = files; len(files) == 0 {
			i.Files = h.items[i.Key].Files
		} else {
			descriptor.Close(h.items[i.Key].Files)
		}
		if len(i.Files) == 0 {
			return c.Send(answer{Error: "there is no item of this key"})
		}
		h.items[i.Key] = i
	case q.Drop != "":
		descriptor.Close(h.items[q.Drop].Files)
		delete(h.items, q.Drop)
	case q.List:
		for _, i := range h.items {
			if err := c.Send(answer{Item: &i}, i.Files...); err != nil {
				return err
			}
		}
	case q.Quit:
		h.end()
	default:
		return c.Send(answer{Error: "no such request"})
	}
	return c.Send(answer{Done: true})
}

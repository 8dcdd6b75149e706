package server

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/vethloom/vethloom/engine/shim"
	"github.com/vethloom/vethloom/engine/shim/box"
	"github.com/vethloom/vethloom/internal/replay"
)

// A command whose netd went away is kept for the next one: its output waits, and how it ended is remembered.
const (
	holdTime   = time.Minute // longer than a client waits for netd
	keptEnds   = 8           // how many that have ended are kept at most
	replaySize = 32 << 10    // how much of each stream is kept that was sent and may not have arrived
)

// execution is a further command in the container. One connection at most carries its stdio. When that breaks off,
// output waits in the pipes for the next one, for holdTime; after that it is thrown away.
type execution struct {
	process *box.Process
	started time.Time
	stdio   *box.Stdio
	request shim.Request

	conn atomic.Pointer[shim.Conn] // changed under mu; nil: nobody has it

	mu      sync.Mutex // held while a frame is sent
	change  *sync.Cond // of conn, over and last
	over    bool       // nobody is waited for
	last    bool       // nobody will come: the container has ended
	holding *time.Timer
	sent    [2]replay.Buffer // of standard output and standard error
	exit    *shim.Exit       // once it has ended and its output is read

	in       sync.Mutex
	feeder   *shim.Conn    // whose input counts
	fed      chan struct{} // closed when the last feeder is done
	received int64         // bytes of input that came
	closed   bool          // the input has ended; of the one that feeds
}

func newExecution(r shim.Request) *execution {
	x := &execution{stdio: &box.Stdio{}, request: r, over: r.Detach, fed: make(chan struct{})}
	x.change = sync.NewCond(&x.mu)
	for i := range x.sent {
		x.sent[i].Size = replaySize
	}
	close(x.fed)
	return x
}

// join gives the stdio to a connection, after a reply and what was sent beyond what its client has seen.
func (x *execution) join(c *shim.Conn, reply shim.State, seen [2]int64) error {
	x.in.Lock()
	x.feeder, reply.Received = c, x.received
	x.in.Unlock()
	if old := x.conn.Load(); old != nil {
		old.Close() // a write to it may hold the lock
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	var again [2][]byte
	for i := range again {
		var lost int64
		again[i], lost = x.sent[i].Since(seen[i])
		reply.Lost += lost
	}
	if err := c.WriteJSON(shim.KindReply, shim.Reply{State: reply}); err != nil {
		return err
	}
	for i, kind := range []shim.Kind{shim.KindStdout, shim.KindStderr} {
		if len(again[i]) == 0 {
			continue
		}
		if err := c.Write(shim.Frame{Kind: kind, Payload: again[i]}); err != nil {
			return err
		}
	}
	if x.holding != nil {
		x.holding.Stop()
	}
	x.over = false
	x.conn.Store(c)
	x.change.Broadcast()
	x.sendExit()
	return nil
}

// emit sends output to whoever has the stdio, or waits until somebody has.
func (x *execution) emit(kind shim.Kind, p []byte) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for x.conn.Load() == nil && !x.over && !x.last {
		x.change.Wait()
	}
	c, sent := x.conn.Load(), &x.sent[kind-shim.KindStdout]
	if c == nil {
		sent.Miss(len(p))
		return
	}
	if x.request.Hold {
		sent.Add(p)
	}
	if c.Write(shim.Frame{Kind: kind, Payload: p}) != nil {
		x.left(c)
	}
}

// end keeps the exit status, and tells it.
func (x *execution) end(exit shim.Exit) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.exit = &exit
	x.sendExit()
}

func (x *execution) sendExit() {
	if c := x.conn.Load(); c != nil && x.exit != nil {
		_ = c.WriteJSON(shim.KindExit, x.exit) // who did not get it asks again
		c.Close()
	}
}

// leave takes the stdio from a connection.
func (x *execution) leave(c *shim.Conn) {
	c.Close()
	x.mu.Lock()
	defer x.mu.Unlock()
	x.left(c)
}

func (x *execution) left(c *shim.Conn) {
	if x.conn.Load() != c {
		return
	}
	x.conn.Store(nil)
	if !x.request.Hold {
		x.over = true
	}
	x.change.Broadcast()
	if !x.over && x.exit == nil {
		x.holding = time.AfterFunc(holdTime, x.release)
	}
}

// release waits for nobody any more.
func (x *execution) release() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.over = true
	x.change.Broadcast()
}

// finish says that nobody can come any more. Who has the stdio keeps it.
func (x *execution) finish() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.last = true
	x.change.Broadcast()
}

// feed writes a connection's input to the process, after what came on the connection before it, until it closes or
// another one takes its place.
func (x *execution) feed(c *shim.Conn, stdin bool) {
	done := make(chan struct{})
	defer close(done)
	x.in.Lock()
	before := x.fed
	x.fed = done
	x.in.Unlock()
	<-before // while the process does not read, this one has to wait just the same
	for {
		f, err := c.Read()
		if err != nil || !x.counts(c, f) {
			return
		}
		to := x.stdio.Stdin
		if to == nil || !stdin || x.closed {
			continue
		}
		switch f.Kind {
		case shim.KindStdin:
			if _, err := to.Write(f.Payload); err != nil {
				x.closed = true
			}
		case shim.KindCloseStdin:
			if !x.request.Process.TTY { // a terminal's input does not end; its program is told by ^D
				to.Close()
				x.closed = true
			}
		}
	}
}

// counts reports whether a frame is the process's, and not one that its client will send again.
func (x *execution) counts(c *shim.Conn, f shim.Frame) bool {
	x.in.Lock()
	defer x.in.Unlock()
	if x.feeder != c {
		return false
	}
	if f.Kind == shim.KindStdin {
		x.received += int64(len(f.Payload))
	}
	return true
}

func (x *execution) wait() shim.Exit {
	code, signal, err := x.process.Wait()
	e := shim.Exit{Code: code, Signal: signal, Finished: time.Now()}
	if err != nil {
		e.Error = err.Error()
	}
	return e
}

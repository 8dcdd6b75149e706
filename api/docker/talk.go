package docker

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types"
	"github.com/moby/term"
	"github.com/vethloom/vethloom/engine"
	"golang.org/x/sys/unix"
)

// talk is a connection that is taken over from HTTP: the input of a process one way, its output the other. It ends
// with the process, with its client, or when netd stops.
type talk struct {
	w     *answer
	r     *http.Request
	tty   bool
	ctx   context.Context // ends when the client has gone
	end   context.CancelFunc
	over  atomic.Bool // nothing is read any more
	conn  net.Conn    // nil: not taken over yet
	input io.Reader

	mu sync.Mutex // one writer at a time

	closing sync.Once
	unwatch func()
	unbind  func() bool // from the request's context, or that of the server
}

func newTalk(w *answer, r *http.Request, tty bool) *talk {
	t := &talk{w: w, r: r, tty: tty, unwatch: func() {}}
	t.ctx, t.end = context.WithCancel(context.WithoutCancel(r.Context()))
	t.unbind = context.AfterFunc(r.Context(), t.end)
	return t
}

// open takes the connection over, and tells the client so. It ends when stop does.
func (t *talk) open(stop context.Context) error {
	h := t.w.Header().Clone()
	conn, buffered, err := t.w.Hijack()
	if err != nil {
		return err
	}
	t.unbind() // it would end with the input, too
	t.conn, t.input = conn, buffered.Reader
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return fmt.Errorf("take over the connection: %w", err)
	}
	t.unbind = context.AfterFunc(stop, t.end)
	context.AfterFunc(t.ctx, func() { _ = conn.SetDeadline(time.Now()) }) // ends what waits for the client
	if t.unwatch, err = onHangup(conn, t.end); err != nil {
		return err
	}
	h.Set("Content-Type", types.MediaTypeRawStream)
	status := "HTTP/1.1 200 OK"
	if t.r.Header.Get("Upgrade") != "" {
		status = "HTTP/1.1 101 UPGRADED"
		h.Set("Connection", "Upgrade")
		h.Set("Upgrade", "tcp")
		if !t.tty && minor(t.r) >= multiplexedSince {
			h.Set("Content-Type", types.MediaTypeMultiplexedStream)
		}
	}
	if _, err = io.WriteString(conn, status+"\r\n"); err == nil {
		err = h.Write(conn)
	}
	if err == nil {
		_, err = io.WriteString(conn, "\r\n")
	}
	return err
}

// multiplexedSince is the version from which on an answer says that its streams are framed.
const multiplexedSince = 42

// lingering is how long a client may take to close its side, after the end of the output.
const lingering = 2 * time.Second

// close ends the connection. What the client still sends is read for a moment: what stays unread would be an error
// to it, in place of the end of the output.
func (t *talk) close() {
	t.closing.Do(func() {
		t.over.Store(true)
		defer t.end()
		defer t.unbind()
		if t.conn == nil {
			return
		}
		if half, ok := t.conn.(interface{ CloseWrite() error }); ok && t.ctx.Err() == nil && half.CloseWrite() == nil {
			_ = t.conn.SetReadDeadline(time.Now().Add(lingering))
			_, _ = io.Copy(io.Discard, t.conn)
		}
		t.unwatch()
		_ = t.conn.Close()
	})
}

// onHangup calls gone when a client has closed its connection. One that has only ended its input has not.
func onHangup(conn net.Conn, gone func()) (stop func(), err error) {
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return func() {}, nil
	}
	f, err := u.File() // another descriptor: its waiting does not keep anybody from reading
	if err != nil {
		return func() {}, fmt.Errorf("watch the connection: %w", err)
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return func() { f.Close() }, fmt.Errorf("watch the connection: %w", err)
	}
	done := make(chan struct{})
	go func() { // ends with the connection, or with stop
		defer close(done)
		hungUp := false
		_ = raw.Read(func(fd uintptr) bool {
			p := []unix.PollFd{{Fd: int32(fd)}}
			n, err := unix.Poll(p, 0)
			hungUp = err == nil && n > 0 && p[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
			return hungUp
		})
		if hungUp {
			gone()
		}
	}()
	return func() {
		f.Close()
		<-done
	}, nil
}

// output is a writer of one stream of a talk: as it is where there is a terminal, else in frames. It is a pointer, so
// that writers can be compared.
type output struct {
	to     *talk
	stream stdcopy.StdType
}

func (t *talk) output(stream stdcopy.StdType) *output { return &output{t, stream} }

// Write implements [io.Writer].
func (o *output) Write(b []byte) (int, error) {
	o.to.mu.Lock()
	defer o.to.mu.Unlock()
	if o.to.tty {
		return o.to.conn.Write(b)
	}
	return writeFrame(o.to.conn, o.stream, b)
}

// writeFrame writes what [stdcopy.StdCopy] reads: the stream, the length, and the bytes.
func writeFrame(w io.Writer, stream stdcopy.StdType, b []byte) (int, error) {
	head := [8]byte{byte(stream)}
	binary.BigEndian.PutUint32(head[4:], uint32(len(b)))
	whole := net.Buffers{head[:], b}
	n, err := whole.WriteTo(w)
	return max(int(n)-len(head), 0), err
}

// input is what the client types.
type input struct {
	from *talk
	keys io.Reader // with an eye on the keys that detach; nil: none do
	ends bool      // its end is that of the process's input
}

// stdin is what the client sends. Keys that detach are those of a terminal.
func (t *talk) stdin(keys []byte, ends bool) *input {
	in := &input{from: t, ends: ends}
	if t.tty && len(keys) > 0 {
		in.keys = term.NewEscapeProxy(source{t}, keys)
	}
	return in
}

// source reads from a connection that may not be taken over yet.
type source struct{ t *talk }

// Read implements [io.Reader].
func (s source) Read(b []byte) (int, error) {
	if s.t.over.Load() {
		return 0, net.ErrClosed
	}
	return s.t.input.Read(b)
}

// Read implements [io.Reader]. Its end is that of the process's input, or only that of the client's part in it.
func (in *input) Read(b []byte) (n int, err error) {
	if in.keys != nil {
		n, err = in.keys.Read(b)
	} else {
		n, err = source{in.from}.Read(b)
	}
	if _, detach := errors.AsType[term.EscapeError](err); detach {
		in.from.end()
	}
	if err != nil && (!errors.Is(err, io.EOF) || !in.ends) {
		err = engine.ErrDetached
	}
	return n, err
}

// detachKeys reads the keys by which somebody leaves a terminal.
func detachKeys(text string) ([]byte, error) {
	if text == "" {
		return []byte{'P' - '@', 'Q' - '@'}, nil
	}
	keys, err := term.ToBytes(text)
	if err != nil {
		return nil, invalid("detachKeys", text, err.Error(), "write letters and ctrl-LETTER with commas: ctrl-p,ctrl-q")
	}
	return keys, nil
}

package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/vethloom/vethloom/api/client"
	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/internal/cli/show"
	"golang.org/x/sys/unix"
	"golang.org/x/term"
	"google.golang.org/grpc/codes"
)

// SessionFlags are the flags of every command that attaches.
type SessionFlags struct {
	detach string
	Proxy  bool
}

func (o *SessionFlags) Flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.detach, "detach-keys", "ctrl-p,ctrl-q",
		"keys that leave the container running; empty: none")
	cmd.Flags().BoolVar(&o.Proxy, "sig-proxy", true, "pass signals on to the container, when it has no terminal")
}

func (o *SessionFlags) Keys() (DetachKeys, error) { return ParseDetachKeys(o.detach) }

// DetachKeys is the sequence of bytes that detaches.
type DetachKeys []byte

func ParseDetachKeys(s string) (DetachKeys, error) {
	var out DetachKeys
	if s == "" {
		return nil, nil
	}
	for k := range strings.SplitSeq(s, ",") {
		name, isCtrl := strings.CutPrefix(strings.ToLower(k), "ctrl-")
		switch {
		case isCtrl && len(name) == 1 && strings.Contains("abcdefghijklmnopqrstuvwxyz@[\\]^_", name):
			out = append(out, strings.ToUpper(name)[0]&0x1f)
		case !isCtrl && len(k) == 1:
			out = append(out, k[0])
		default:
			return nil, fmt.Errorf("--detach-keys %q: %q is not a key: use single characters or ctrl-LETTER, "+
				"separated by commas", s, k)
		}
	}
	return out, nil
}

func (k DetachKeys) matcher() *keyMatcher { return &keyMatcher{keys: k} }

// keyMatcher finds the keys in what is typed. It holds back what may become
// the sequence.
type keyMatcher struct {
	keys DetachKeys
	seen int
}

// feed returns what to pass on, and whether the sequence is complete.
func (m *keyMatcher) feed(in []byte) (pass []byte, detach bool) {
	if len(m.keys) == 0 {
		return in, false
	}
	for _, b := range in {
		if b != m.keys[m.seen] && m.seen > 0 {
			pass = append(pass, m.keys[:m.seen]...)
			m.seen = 0
		}
		if b != m.keys[m.seen] {
			pass = append(pass, b)
			continue
		}
		if m.seen++; m.seen == len(m.keys) {
			return pass, true
		}
	}
	return pass, false
}

// CheckTTY refuses -it where there is no terminal, before anything is made.
func CheckTTY(in io.Reader, wanted bool) error {
	if !wanted {
		return nil
	}
	if _, ok := Terminal(in); !ok {
		return errors.New("standard input is no terminal, which -t with -i needs: leave out -t")
	}
	return nil
}

// raw puts the terminal into raw mode when the process gets its keys.
func (s *Session) raw() (restore func() error, err error) {
	if err := CheckTTY(s.Streams.In, s.TTY && s.Stdin); err != nil {
		return nil, err
	}
	fd, ok := Terminal(s.Streams.In)
	if !s.TTY || !s.Stdin || !ok {
		return func() error { return nil }, nil
	}
	old, err := term.MakeRaw(fd)
	if err != nil {
		return nil, fmt.Errorf("put the terminal into raw mode: %w", err)
	}
	return func() error { return term.Restore(fd, old) }, nil
}

// size is that of the terminal, or nil.
func (s *Session) size() *apiv1.WindowSize {
	if !s.TTY {
		return nil
	}
	for _, f := range []any{s.Streams.Out, s.Streams.In} {
		if fd, ok := Terminal(f); ok {
			if w, h, err := term.GetSize(fd); err == nil {
				return &apiv1.WindowSize{Rows: uint32(h), Columns: uint32(w)}
			}
		}
	}
	return nil
}

// forwarded are the signals that are the container's business.
var forwarded = []os.Signal{
	syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2,
}

// listen makes the signals that are this session's business come to a channel.
// It must be called before anything runs, so that none is lost.
func (s *Session) listen() chan os.Signal {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGWINCH)
	if s.TTY || s.Proxy && s.Container != "" {
		signal.Notify(signals, forwarded...)
	}
	return signals
}

// watch handles signals. They reach the container by calls of their own, so
// that input nobody reads cannot hold them up.
func (s *Session) watch(ctx context.Context, signals <-chan os.Signal, out chan<- outgoing,
	cancel context.CancelCauseFunc) {
	var early []syscall.Signal // came before the process ran
	started := s.started
	for {
		select {
		case <-ctx.Done():
			return
		case <-started:
			started = nil
			for _, sig := range early {
				s.kill(ctx, sig)
			}
		case sig := <-signals:
			number, ok := sig.(syscall.Signal)
			switch {
			case !ok:
			case number == syscall.SIGWINCH:
				if size := s.size(); size != nil && !post(ctx, out, outgoing{size: size}) {
					return
				}
			case s.TTY: // keys arrive as input; a signal means this process
				cancel(&ExitError{128 + int(number), fmt.Errorf("ended by signal %v; the container runs on", number)})
				return
			case started == nil:
				s.kill(ctx, number)
			case len(early) > 0: // who asks twice does not want to wait
				cancel(&ExitError{128 + int(number), fmt.Errorf("ended by signal %v before the container ran", number)})
				return
			default:
				early = append(early, number)
			}
		}
	}
}

// kill passes a signal on. A container that has just exited is no news: its
// exit status is on its way.
func (s *Session) kill(ctx context.Context, sig syscall.Signal) {
	name := strings.TrimPrefix(unix.SignalName(sig), "SIG")
	_, err := s.Client.Containers.Kill(ctx, &apiv1.KillContainerRequest{Container: s.Container, Signal: name})
	if err == nil || ctx.Err() != nil || client.CodeOf(err) == codes.NotFound {
		return
	}
	show.Printf(s.Streams.Err, "net: pass signal %s on: %v\n", name, client.Explain(err))
}

// interruptible reads a file until a context ends, which a plain read of a
// terminal or a pipe would sleep through.
type interruptible struct {
	ctx     context.Context
	file    *os.File
	wake    [2]int // pipe; written to when the context ends
	release func() bool
}

func newInterruptible(ctx context.Context, f *os.File) (*interruptible, error) {
	r := &interruptible{ctx: ctx, file: f}
	if err := unix.Pipe2(r.wake[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil, fmt.Errorf("make a pipe to interrupt reading: %w", err)
	}
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		// A full pipe wakes the reader just as well.
		_, _ = unix.Write(r.wake[1], []byte{0})
	})
	r.release = func() bool {
		if stop() {
			return true
		}
		<-done
		return false
	}
	return r, nil
}

func (r *interruptible) Read(b []byte) (int, error) {
	fds := []unix.PollFd{
		{Fd: int32(r.file.Fd()), Events: unix.POLLIN},
		{Fd: int32(r.wake[0]), Events: unix.POLLIN},
	}
	for {
		_, err := unix.Poll(fds, -1)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("wait for input: %w", err)
		}
		if fds[1].Revents != 0 {
			return 0, r.ctx.Err()
		}
		n, err := r.file.Read(b)
		if errors.Is(err, unix.EIO) { // the terminal hung up
			return n, io.EOF
		}
		return n, err
	}
}

func (r *interruptible) close() {
	r.release()
	for _, fd := range r.wake {
		_ = unix.Close(fd) // nothing was written that could be lost
	}
}

// Terminal is the file descriptor of a terminal, or false.
func Terminal(f any) (int, bool) {
	file, ok := f.(*os.File)
	if !ok {
		return 0, false
	}
	fd := int(file.Fd())
	return fd, term.IsTerminal(fd)
}

// Columns is the width of a terminal, 0 for what is none.
func Columns(f any) int {
	fd, ok := Terminal(f)
	if !ok {
		return 0
	}
	w, _, err := term.GetSize(fd)
	if err != nil {
		return 0
	}
	return w
}

// ExitError ends net with a code; a nil Err was reported already, or is none.
type ExitError struct {
	Code int
	Err  error
}

func (e *ExitError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("exit code %d", e.Code)
	}
	return e.Err.Error()
}

func (e *ExitError) Unwrap() error { return e.Err }

package engine_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vethloom/vethloom/engine"
	"github.com/vethloom/vethloom/internal/await"
)

// screen collects output and lets a test wait for some.
type screen struct {
	mu   sync.Mutex
	text bytes.Buffer
	wake chan struct{}
}

func newScreen() *screen { return &screen{wake: make(chan struct{}, 1)} }

func (s *screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text.Write(b)
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return len(b), nil
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

func (s *screen) await(t testing.TB, part string) {
	t.Helper()
	deadline := time.After(await.Patience)
	for !strings.Contains(s.String(), part) {
		select {
		case <-s.wake:
		case <-deadline:
			t.Fatalf("no %q on the screen: %q", part, s)
		}
	}
}

type attached struct {
	*screen
	in     *io.PipeWriter
	resize chan engine.WindowSize
	signal chan string
	cancel context.CancelFunc
	done   chan struct{}
	status engine.ExitStatus
	err    error
}

// connect runs attach or exec in the background with a keyboard and a screen.
func connect(t testing.TB, run func(context.Context, engine.Stdio) (engine.ExitStatus, error)) *attached {
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	a := &attached{screen: newScreen(), in: w, resize: make(chan engine.WindowSize), signal: make(chan string),
		cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(a.done)
		a.status, a.err = run(ctx, engine.Stdio{Stdin: r, Stdout: a, Stderr: a,
			Size: engine.WindowSize{Rows: 24, Columns: 80}, Resize: a.resize, Signals: a.signal})
		r.Close()
	}()
	t.Cleanup(func() {
		cancel()
		<-a.done
		w.Close()
	})
	return a
}

func (a *attached) end(t testing.TB) engine.ExitStatus {
	t.Helper()
	select {
	case <-a.done:
	case <-time.After(await.Patience):
		t.Fatalf("it does not end; on the screen: %q", a)
	}
	if a.err != nil {
		t.Fatal(a.err)
	}
	return a.status
}

func (w *world) attach(ref string, start bool) *attached {
	return connect(w.t, func(ctx context.Context, s engine.Stdio) (engine.ExitStatus, error) {
		return w.e.Attach(ctx, ref, start, s)
	})
}

func TestTerminal(t *testing.T) {
	w := newWorld(t)
	c := w.create(engine.Spec{Command: []string{"sh"}, TTY: true, OpenStdin: true})
	a := w.attach(c.ID, true)
	a.await(t, "# ")
	fmt.Fprintln(a.in, "stty size; tty; echo $TERM")
	a.await(t, "24 80\r\n/dev/pts/0\r\nxterm\r\n")
	a.resize <- engine.WindowSize{Rows: 11, Columns: 33}
	fmt.Fprintln(a.in, "while [ \"$(stty size)\" != '11 33' ]; do :; done; echo res''ized")
	a.await(t, "resized")
	fmt.Fprintln(a.in, "exit 4")
	if st := a.end(t); st.Code != 4 {
		t.Errorf("exit %+v", st)
	}
	if text := w.logs(c.ID); !strings.Contains(text, "resized") {
		t.Errorf("not in the log: %q", text)
	}
}

func TestSeveralAttachers(t *testing.T) {
	w := newWorld(t)
	c := w.start(engine.Spec{Command: []string{"cat"}, OpenStdin: true})
	a, b := w.attach(c.ID, false), w.attach(c.ID, false)
	// Both have joined once both have seen the same line.
	for i := 0; !strings.Contains(a.String(), "both") || !strings.Contains(b.String(), "both"); i++ {
		fmt.Fprintln(a.in, "both")
		if i > 1000 {
			t.Fatal("not both see the output")
		}
		<-a.wake
	}
	fmt.Fprintln(b.in, "from b")
	a.await(t, "from b")
	a.cancel()
	<-a.done
	if !errors.Is(a.err, context.Canceled) {
		t.Errorf("the one that left: %v", a.err)
	}
	fmt.Fprintln(b.in, "still here")
	b.await(t, "still here")
	b.in.Close() // the end of input is cat's
	if st := b.end(t); st.Code != 0 {
		t.Errorf("exit %+v", st)
	}
}

func TestSignalPassesInputThatNobodyReads(t *testing.T) {
	w := newWorld(t)
	c := w.create(engine.Spec{Command: sh("trap 'exit 6' INT; echo ready; while :; do sleep 0.01; done"),
		OpenStdin: true})
	a := w.attach(c.ID, true)
	a.await(t, "ready")
	go io.Copy(a.in, strings.NewReader(strings.Repeat("x", 1<<20))) // ends when the container has
	a.signal <- "INT"
	if st := a.end(t); st.Code != 6 {
		t.Errorf("exit %+v", st)
	}
}

func TestNoOutputIsLost(t *testing.T) {
	w := newWorld(t)
	const size = 40 << 20
	var n counter
	c := w.create(engine.Spec{Command: sh(fmt.Sprintf("yes 0123456 | head -c %d; exit 3", size))})
	st, err := w.e.Attach(t.Context(), c.ID, true, engine.Stdio{Stdout: &n, Stderr: &n})
	if err != nil || st.Code != 3 || n != size {
		t.Errorf("%d bytes of %d, %+v, %v", n, size, st, err)
	}
	// Many short ones: the last words of a process that is gone already.
	for range 20 {
		if got := w.mustRun(engine.Spec{Command: sh("echo last words"), Remove: true}, ""); got.out != "last words\n" {
			t.Fatalf("got %q", got.out)
		}
	}
}

type counter int

func (c *counter) Write(b []byte) (int, error) {
	*c += counter(len(b))
	return len(b), nil
}

func TestExec(t *testing.T) {
	w := newWorld(t)
	c := w.start(engine.Spec{Command: []string{"sleep", "1000"}, User: "ann", WorkDir: "/tmp"})
	exec := func(r engine.ExecRequest) *attached {
		r.Container = c.ID
		return connect(t, func(ctx context.Context, s engine.Stdio) (engine.ExitStatus,
			error) {
			return w.e.Exec(ctx, r, s)
		})
	}
	t.Run("inherits", func(t *testing.T) {
		a := exec(engine.ExecRequest{Command: sh("id -un; pwd")})
		if a.end(t); a.String() != "ann\n/tmp\n" {
			t.Errorf("got %q", a)
		}
	})
	t.Run("input and code", func(t *testing.T) {
		a := exec(engine.ExecRequest{Command: sh("cat; exit 12"), User: "root"})
		fmt.Fprint(a.in, "abc")
		a.in.Close()
		if st := a.end(t); st.Code != 12 || a.String() != "abc" {
			t.Errorf("%+v %q", st, a)
		}
	})
	t.Run("terminal", func(t *testing.T) {
		a := exec(engine.ExecRequest{Command: []string{"sh"}, TTY: true, User: "root"})
		a.await(t, "# ")
		fmt.Fprintln(a.in, "stty size")
		a.await(t, "24 80")
		fmt.Fprintln(a.in, "exit 1")
		if st := a.end(t); st.Code != 1 {
			t.Errorf("%+v", st)
		}
	})
	t.Run("signal", func(t *testing.T) {
		a := exec(engine.ExecRequest{Command: sh("echo up; exec sleep 1000")})
		a.await(t, "up")
		a.signal <- "SIGKILL"
		if st := a.end(t); st.Code != 137 {
			t.Errorf("%+v", st)
		}
	})
	t.Run("leaves a child", func(t *testing.T) {
		begin := time.Now()
		a := exec(engine.ExecRequest{Command: sh("sleep 1000 & echo left")})
		if st := a.end(t); st.Code != 0 || a.String() != "left\n" || time.Since(begin) > 10*time.Second {
			t.Errorf("%+v %q after %s", st, a, time.Since(begin))
		}
	})
	t.Run("detached", func(t *testing.T) {
		if _, err := w.e.Exec(t.Context(), engine.ExecRequest{Container: c.ID, Command: sh("echo x > /tmp/mark"),
			Detach: true}, engine.Stdio{}); err != nil {
			t.Fatal(err)
		}
		if got := w.exec(c.ID, "sh", "-c",
			"until [ -s /tmp/mark ]; do sleep 0.01; done; cat /tmp/mark"); got.out != "x\n" {
			t.Errorf("got %+v", got)
		}
	})
	t.Run("dies with the container", func(t *testing.T) {
		a := exec(engine.ExecRequest{Command: sh("echo up; sleep 1000")})
		a.await(t, "up")
		if err := w.e.Kill(t.Context(), c.ID, "KILL"); err != nil {
			t.Fatal(err)
		}
		if st := a.end(t); st.Code != 137 {
			t.Errorf("%+v", st)
		}
		if _, err := w.e.Exec(t.Context(), engine.ExecRequest{Container: c.ID, Command: []string{"true"}},
			engine.Stdio{}); w.wait(c.ID).Code == 137 && !errors.Is(err, engine.ErrNotRunning) {
			t.Errorf("exec in a dead container: %v", err)
		}
	})
}

func TestLogsFollowToTheEnd(t *testing.T) {
	w := newWorld(t)
	c := w.start(engine.Spec{Command: sh("echo one; read x; echo two >&2; echo three"), OpenStdin: true})
	lines, done := newScreen(), make(chan error, 1)
	go func() {
		done <- w.e.Logs(t.Context(), engine.LogsRequest{Container: c.ID, Follow: true, Tail: -1},
			func(l engine.LogLine) error {
				_, err := fmt.Fprintf(lines, "%v:%s", l.Stderr, l.Line)
				return err
			})
	}()
	lines.await(t, "false:one\n")
	a := w.attach(c.ID, false)
	fmt.Fprintln(a.in, "go")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"true:two\n", "false:three\n"} {
		if !strings.Contains(lines.String(), part) {
			t.Errorf("no %q in %q", part, lines)
		}
	}
}

func TestPause(t *testing.T) {
	w := newWorld(t)
	c := w.start(engine.Spec{Command: sh("while :; do echo tick; sleep 0.01; done")})
	if err := w.e.Pause(t.Context(), c.ID); err != nil {
		t.Fatal(err)
	}
	if got := w.inspect(c.ID).Status; got != engine.Paused {
		t.Errorf("status %s", got)
	}
	before := w.logs(c.ID)
	w.restart()
	if got := w.inspect(c.ID).Status; got != engine.Paused {
		t.Errorf("status after a restart %s", got)
	}
	if _, err := w.e.Exec(t.Context(), engine.ExecRequest{Container: c.ID, Command: []string{"true"}},
		engine.Stdio{}); err == nil {
		t.Error("exec in a paused container works")
	}
	if after := w.logs(c.ID); after != before && len(after) > len(before)+20 {
		t.Errorf("it went on: %d and %d bytes", len(before), len(after))
	}
	if err := w.e.Unpause(t.Context(), c.ID); err != nil {
		t.Fatal(err)
	}
	second := time.Second
	if err := w.e.Stop(t.Context(), c.ID, engine.StopOptions{Timeout: &second}); err != nil {
		t.Fatal(err)
	}
}

// The input of a container that has it once ends with the client that had it, however that goes.
func TestInputOnce(t *testing.T) {
	w := newWorld(t)
	c := w.start(engine.Spec{Command: sh("cat; exit 6"), OpenStdin: true, StdinOnce: true})
	a := w.attach(c.ID, false)
	fmt.Fprintln(a.in, "hello")
	a.await(t, "hello\n")
	a.cancel()
	if st := w.wait(c.ID); st.Code != 6 {
		t.Errorf("%+v", st)
	}
}

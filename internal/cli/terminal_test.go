package cli_test

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/containerd/console"
	"go.uber.org/goleak"
	"golang.org/x/term"

	"github.com/vethloom/vethloom/api/server/fake"
	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/internal/cli"
	"github.com/vethloom/vethloom/internal/doctor"
)

// tty is a net at a terminal: what is typed goes into master, what is shown comes out of lines.
type tty struct {
	netd   *netd
	master console.Console
	slave  *os.File
	lines  *bufio.Reader
	app    *cli.App
	errs   bytes.Buffer
}

func newTTY(t *testing.T) *tty {
	t.Helper()
	dir, err := os.MkdirTemp("", "net")
	if err != nil {
		t.Fatal(err)
	}
	x := &tty{netd: &netd{domain: fake.New(), path: filepath.Join(dir, "s")}}
	if err := x.netd.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	master, name, err := console.NewPty()
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(name, os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	x.master, x.slave, x.lines = master, slave, bufio.NewReader(master)
	x.app = cli.New("1.0", "abc")
	x.app.In, x.app.Out, x.app.Err = slave, slave, &x.errs
	x.app.Env = func(key string) (string, bool) {
		return map[string]string{"VETHLOOM_HOST": "unix://" + x.netd.path}[key], key == "VETHLOOM_HOST"
	}
	t.Cleanup(func() {
		slave.Close()
		master.Close()
		if err := x.netd.stop(); err != nil {
			t.Error(err)
		}
		x.netd.domain.Close()
		os.RemoveAll(dir)
		goleak.VerifyNone(t)
	})
	return x
}

func (x *tty) run(args ...string) <-chan int {
	code := make(chan int, 1)
	go func() { code <- x.app.Run(context.Background(), args) }()
	return code
}

func (x *tty) expect(t *testing.T, want string) {
	t.Helper()
	line, err := x.lines.ReadString('\n')
	if err != nil || strings.TrimRight(line, "\r\n") != want {
		t.Fatalf("the terminal shows %q, %v; want %q", line, err, want)
	}
}

func (x *tty) typed(t *testing.T, keys string) {
	t.Helper()
	if _, err := io.WriteString(x.master, keys); err != nil {
		t.Fatal(err)
	}
}

func exits(t *testing.T, code <-chan int, want int) {
	t.Helper()
	if got := await.From(t, "net ends", code); got != want {
		t.Fatalf("exit code %d, want %d", got, want)
	}
}

func TestTerminalSizesReachTheContainer(t *testing.T) {
	x := newTTY(t)
	if err := x.master.Resize(console.WinSize{Width: 80, Height: 24}); err != nil {
		t.Fatal(err)
	}
	code := x.run("run", "-it", "--name", "s", "busybox", "size")
	x.expect(t, "80x24")
	if err := x.master.Resize(console.WinSize{Width: 120, Height: 50}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(os.Getpid(), syscall.SIGWINCH); err != nil {
		t.Fatal(err)
	}
	x.expect(t, "120x50")
	if err := x.netd.domain.Kill(t.Context(), "s", "INT"); err != nil {
		t.Fatal(err)
	}
	exits(t, code, 130)
}

func TestTerminalIsRawMeanwhileAndRestoredAfter(t *testing.T) {
	x := newTTY(t)
	before, err := term.GetState(int(x.slave.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	code := x.run("run", "--rm", "-i", "-t", "--name", "c", "busybox", "cat")
	await.True(t, "the client is attached", func() bool { return x.netd.domain.Clients("c") > 0 })
	// ctrl-c is a key like others, and nothing is echoed but what cat writes.
	x.typed(t, "\x03\n")
	x.expect(t, "\x03")
	// A lone ctrl-p is held back until it is known not to begin the sequence.
	x.typed(t, "\x10a\n")
	x.expect(t, "\x10a")
	x.typed(t, "\x10\x11")
	exits(t, code, 0)
	after, err := term.GetState(int(x.slave.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	if *before != *after {
		t.Fatalf("the terminal is %v after detaching, was %v", after, before)
	}
	if c, err := x.netd.domain.Inspect(t.Context(), "c"); err != nil || c.Status != "running" {
		t.Fatalf("after detaching: %v %v", c.Status, err)
	}
	if x.errs.Len() > 0 {
		t.Fatalf("unexpected: %s", &x.errs)
	}
}

func TestColoursOnATerminalOnly(t *testing.T) {
	x := newTTY(t)
	exits(t, x.run("status"), 0)
	line, err := x.lines.ReadString('\n')
	for err == nil && !strings.HasPrefix(line, "Kernel:") {
		line, err = x.lines.ReadString('\n')
	}
	if !strings.Contains(line, "\x1b[32mas recorded\x1b[0m") {
		t.Fatalf("no colours on a terminal: %q %v", line, err)
	}
	env := x.app.Env
	x.app.Env = func(key string) (string, bool) {
		if key == "NO_COLOR" {
			return "1", true
		}
		return env(key)
	}
	x.app.Err = x.slave // a separator: what comes after it is the second status
	exits(t, x.run("nosuchcommand"), 1)
	exits(t, x.run("status"), 0)
	for second := false; ; {
		line, err := x.lines.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		second = second || strings.Contains(line, "nosuchcommand")
		if second && strings.Contains(line, "\x1b") {
			t.Fatalf("NO_COLOR is set, and there are colours: %q", line)
		}
		if second && strings.HasPrefix(line, "Runtime:") {
			break
		}
	}
}

func TestSignalsGoToAContainerWithoutTerminal(t *testing.T) {
	x := newTTY(t)
	in, typed, err := os.Pipe() // stays open: reading it must not keep net from ending
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	defer typed.Close()
	var out syncBuffer
	x.app.In, x.app.Out = in, &out
	code := x.run("run", "-i", "--name", "t", "busybox", "trap")
	await.True(t, "the output is there", func() bool { return out.String() == "ready\n" })
	if err := syscall.Kill(os.Getpid(), syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	await.True(t, "the output is there", func() bool { return out.String() == "ready\ngot USR1\n" })
	if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	exits(t, code, 128+15)
	if got := out.String(); got != "ready\ngot USR1\ngot TERM\n" {
		t.Fatalf("got %q", got)
	}
}

// On a terminal findings are broken into lines below each other; a remedy stays one line, to be copied.
func TestFindingsFitTheTerminal(t *testing.T) {
	x := newTTY(t)
	if err := x.master.Resize(console.WinSize{Width: 60, Height: 24}); err != nil {
		t.Fatal(err)
	}
	env := x.app.Env
	x.app.Env = func(key string) (string, bool) {
		if key == "NO_COLOR" {
			return "1", true
		}
		return env(key)
	}
	remedy := "net network create web; " + strings.Repeat("and ", 9) + "so on"
	x.netd.domain.SetFindings(doctor.Finding{Check: "kernel", Severity: doctor.OK, Found: "works"},
		doctor.Finding{Check: "other tools", Severity: doctor.Info, Remedy: "short",
			Found: "something that takes more room than is left of the line"},
		doctor.Finding{Check: "CNI", Severity: doctor.Warning, Found: "short", Remedy: remedy})
	code := x.run("doctor")
	for _, line := range []string{
		"RESULT   CHECK        FOUND",
		"ok       kernel       works",
		"info     other tools  something that takes more room than is",
		"                      left of the line",
		"                      -> short",
		"warning  CNI          short",
		"         -> " + remedy,
	} {
		x.expect(t, line)
	}
	exits(t, code, 0)
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

package single

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/containerd/console"
)

// lines collects what another process prints.
type lines struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.String()
}

func (l *lines) has(text string) bool { return strings.Contains(l.String(), text) }

// terminal is a person at a terminal who has typed a net command.
type terminal struct {
	n    *node
	pty  console.Console
	seen *lines
	gone chan int
}

func (n *node) terminal(args ...string) *terminal {
	n.t.Helper()
	return n.terminalOf(nil, program(n.t, "net"), append([]string{"-H", "unix://" + n.sock}, args...)...)
}

// terminalOf is a terminal at which another command was typed.
func (n *node) terminalOf(env []string, name string, args ...string) *terminal {
	n.t.Helper()
	pty, path, err := console.NewPty()
	if err != nil {
		n.t.Fatal(err)
	}
	slave, err := os.OpenFile(path, os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		n.t.Fatal(err)
	}
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := pty.Resize(console.WinSize{Height: 33, Width: 101}); err != nil {
		n.t.Fatal(err)
	}
	if err := n.Do("", cmd.Start); err != nil {
		n.t.Fatal(err)
	}
	slave.Close()
	tty := &terminal{n: n, pty: pty, seen: &lines{}, gone: make(chan int, 1)}
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		_, _ = io.Copy(tty.seen, pty) // ends with EIO when the last of its users is gone
	}()
	go func() {
		_ = cmd.Wait() // the exit code tells
		tty.gone <- cmd.ProcessState.ExitCode()
	}()
	n.t.Cleanup(func() {
		_ = cmd.Process.Kill() // of a test that failed; others have ended
		<-copied
		pty.Close()
	})
	return tty
}

func (t *terminal) sees(text string) {
	t.n.t.Helper()
	t.n.eventually(text+" on the terminal: "+t.seen.String(), func() bool { return t.seen.has(text) })
}

func (t *terminal) types(text string) {
	t.n.t.Helper()
	if _, err := io.WriteString(t.pty, text); err != nil {
		t.n.t.Fatal(err)
	}
}

func TestATerminal(t *testing.T) {
	n := withImage(t)
	tty := n.terminal("run", "-it", "--rm", "--name", "c", "bb", "sh")
	tty.sees("#")
	tty.types("stty size; tty; echo ready$((1+1))\r")
	tty.sees("ready2")
	tty.sees("33 101")
	tty.sees("/dev/pts/0")
	if err := tty.pty.Resize(console.WinSize{Height: 40, Width: 90}); err != nil {
		t.Fatal(err)
	}
	n.eventually("the new size",
		func() bool { return n.net("exec", "c", "sh", "-c", "stty size < /proc/1/fd/0").out == "40 90" })
	tty.types("sleep 1000\r")
	n.eventually("sleep runs", func() bool { return strings.Contains(n.net("exec", "c", "ps").out, "sleep 1000") })
	tty.types("\x03")
	tty.types("echo interrupted $?\r")
	tty.sees("interrupted 130")
	tty.types("exit 6\r")
	is(t, "exit code", string(rune('0'+<-tty.gone)), "6")
	is(t, "containers after --rm", n.ok("ps", "-aq"), "")
}

func TestDetachAndAttach(t *testing.T) {
	n := withImage(t)
	tty := n.terminal("run", "-it", "--name", "c", "bb", "sh")
	tty.sees("#")
	tty.types("\x10\x11")
	is(t, "exit code after detaching", string(rune('0'+<-tty.gone)), "0")
	is(t, "it goes on", n.ok("inspect", "-f", "{{.State.Status}}", "c"), "running")
	again := n.terminal("attach", "c")
	again.types("echo back$((1+1))\r")
	again.sees("back2")
	again.types("exit 4\r")
	is(t, "exit code", string(rune('0'+<-again.gone)), "4")
	sh := n.terminal("run", "-t", "--rm", "bb", "tty")
	sh.sees("/dev/pts/0")
	<-sh.gone
}

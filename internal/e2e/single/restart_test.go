package single

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vethloom/vethloom/internal/await"
)

// end ends netd by a signal.
func (n *node) end(s syscall.Signal) {
	n.t.Helper()
	if err := n.netd.Process.Signal(s); err != nil {
		n.t.Fatal(err)
	}
	if err := <-n.gone; err != nil && s != syscall.SIGKILL {
		n.t.Errorf("netd ended with %v", err)
	}
}

// session is a net command that goes on while the test does something else.
type session struct {
	n    *node
	cmd  *exec.Cmd
	out  *lines
	errs *lines
	code chan int
}

func (n *node) session(in io.Reader, args ...string) *session {
	n.t.Helper()
	return n.sessionOf(nil, in, program(n.t, "net"), append([]string{"-H", "unix://" + n.sock}, args...)...)
}

// sessionOf is a session of another command.
func (n *node) sessionOf(env []string, in io.Reader, name string, args ...string) *session {
	n.t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), env...)
	s := &session{n: n, cmd: cmd, out: &lines{}, errs: &lines{}, code: make(chan int, 1)}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, s.out, s.errs
	if err := n.Do("", cmd.Start); err != nil {
		n.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = cmd.Wait() // the exit code tells
		s.code <- cmd.ProcessState.ExitCode()
	}()
	n.t.Cleanup(func() {
		_ = cmd.Process.Kill() // of a test that failed; others have ended
		<-done
	})
	return s
}

func (s *session) says(text string) {
	s.n.t.Helper()
	s.n.eventually(text+" from net, which says: "+s.errs.String(), func() bool { return s.out.has(text) })
}

func (s *session) ends(code int, out string) {
	s.n.t.Helper()
	if got := await.From(s.n.t, "net ends", s.code); got != code || s.out.String() != out || s.errs.String() != "" {
		s.n.t.Errorf("code %d, %d bytes of output: %.200q, errors %q; want code %d, output %.200q",
			got, len(s.out.String()), s.out.String(), s.errs.String(), code, out)
	}
}

// shared makes a directory that a container has as /go, to tell the test's commands when to go on.
func shared(t *testing.T) (mark func(name string), marked func(name string) bool, dir string) {
	t.Helper()
	dir = t.TempDir()
	mark = func(name string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	marked = func(name string) bool {
		_, err := os.Stat(filepath.Join(dir, name))
		return err == nil
	}
	return mark, marked, dir
}

// till waits for a mark. The size that head reads is one of its buffer's multiples: it takes no more than that.
const till = "till() { while ! [ -e /go/$1 ]; do sleep 0.01; done; }; "

// A command goes on over the end of netd, and who attached to it has all of its output and its exit code: whether it
// speaks, or ends, while netd is away.
func TestExecOutlivesNetd(t *testing.T) {
	n := withImage(t)
	mark, marked, dir := shared(t)
	n.ok("run", "-d", "--name", "c", "-v", dir+":/go", "bb", "sleep", "1000")
	for i, how := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		name := func(s string) string { return fmt.Sprint(s, i) }
		talks := n.session(nil, "exec", "c", "sh", "-c", till+fmt.Sprintf(
			"echo one; till on%[1]d; echo two; >/go/said%[1]d; till off%[1]d; echo three; exit 7", i))
		dies := n.session(nil, "exec", "c", "sh", "-c", till+fmt.Sprintf(
			"echo up; till on%[1]d; echo over; >/go/dead%[1]d; kill -9 $$", i))
		talks.says("one")
		dies.says("up")
		n.end(how)
		mark(name("on"))
		n.eventually("they have done it", func() bool { return marked(name("said")) && marked(name("dead")) })
		n.start()
		talks.says("two")
		dies.ends(137, "up\nover\n")
		mark(name("off"))
		talks.ends(7, "one\ntwo\nthree\n")
	}
}

// Input that went with netd is sent again: each byte reaches the process once.
func TestInputOfExecOutlivesNetd(t *testing.T) {
	n := withImage(t)
	mark, _, dir := shared(t)
	n.ok("run", "-d", "--name", "c", "-v", dir+":/go", "bb", "sleep", "1000")
	data := make([]byte, 20<<20)
	rand.NewChaCha8([32]byte{}).Read(data)
	in := bytes.NewReader(data)
	reads := n.session(in, "exec", "-i", "c", "sh", "-c", till+
		"echo up; head -c 1003520 > /tmp/got; echo some; till on; cat >> /tmp/got; cp /tmp/got /go/got; exit 3")
	reads.says("some")
	n.end(syscall.SIGKILL)
	n.start()
	mark("on")
	reads.ends(3, "up\nsome\n")
	if got, err := os.ReadFile(filepath.Join(dir, "got")); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes of %d arrived, or others: %v", len(got), len(data), err)
	}
}

// Output that was on its way when netd was killed is shown, or said to be missing.
func TestOutputOfExecIsCounted(t *testing.T) {
	n := withImage(t)
	n.ok("run", "-d", "--name", "c", "bb", "sleep", "1000")
	const size = 100 << 20
	r, w := io.Pipe()
	var got int64
	running, counted := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(counted)
		got, _ = io.CopyN(io.Discard, r, 10<<20)
		close(running)
		rest, _ := io.Copy(io.Discard, r) // ends with the writer
		got += rest
	}()
	cmd := exec.Command(program(t, "net"), "-H", "unix://"+n.sock, "exec", "c", "sh", "-c",
		fmt.Sprintf("yes | head -c %d; exit 4", size))
	var errs strings.Builder
	cmd.Stdout, cmd.Stderr = w, &errs
	if err := n.Do("", cmd.Start); err != nil {
		t.Fatal(err)
	}
	<-running
	n.end(syscall.SIGKILL)
	n.start()
	_ = cmd.Wait() // the exit code tells
	w.Close()
	<-counted
	var lost int64
	if m := regexp.MustCompile(`(\d+) bytes of output are missing`).FindStringSubmatch(errs.String()); m != nil {
		lost, _ = strconv.ParseInt(m[1], 10, 64)
	}
	t.Logf("%d bytes are lost: %s", lost, errs.String())
	if code := cmd.ProcessState.ExitCode(); code != 4 || got+lost != size {
		t.Errorf("code %d, %d bytes of %d, %s", code, got, int64(size), errs.String())
	}
}

// A terminal goes on too.
func TestTerminalOfExecOutlivesNetd(t *testing.T) {
	n := withImage(t)
	n.ok("run", "-d", "--name", "c", "bb", "sleep", "1000")
	tty := n.terminal("exec", "-it", "c", "sh")
	tty.sees("#")
	tty.types("echo be$((1+1))fore\r")
	tty.sees("be2fore")
	n.end(syscall.SIGKILL)
	tty.types("echo af$((1+1))ter; exit 5\r")
	n.start()
	tty.sees("af2ter")
	is(t, "exit code", strconv.Itoa(await.From(t, "net ends", tty.gone)), "5")
}

// Who gives up on a command lets it go: it does not wait for a reader that does not come.
func TestExecThatIsLeft(t *testing.T) {
	n := withImage(t)
	mark, marked, dir := shared(t)
	n.ok("run", "-d", "--name", "c", "-v", dir+":/go", "bb", "sleep", "1000")
	begin := time.Now()
	leaves := n.session(nil, "exec", "c", "sh", "-c", till+
		"echo up; till on; yes | head -c 10000000; > /go/through")
	leaves.says("up")
	if err := leaves.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	mark("on")
	n.eventually("it has gone on", func() bool { return marked("through") })
	if took := time.Since(begin); took > 30*time.Second {
		t.Errorf("it took %s", took)
	}
}

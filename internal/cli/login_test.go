package cli_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/term"

	"github.com/vethloom/vethloom/internal/await"
)

// atHome gives a terminal's net a home of its own, and standard error on the terminal too.
func (x *tty) atHome(t *testing.T) string {
	t.Helper()
	dir, env := t.TempDir(), x.app.Env
	x.app.Env = func(key string) (string, bool) {
		if key == "HOME" {
			return dir, true
		}
		return env(key)
	}
	return dir
}

// prompted waits for what is asked on standard error.
func (x *tty) prompted(t *testing.T, errs *syncBuffer, want string) {
	t.Helper()
	await.True(t, "it asks "+want, func() bool { return strings.HasSuffix(errs.String(), want) })
}

// state is how the terminal is set.
func (x *tty) state(t *testing.T) term.State {
	t.Helper()
	s, err := term.GetState(int(x.slave.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	return *s
}

// A login asks for the name and the password. What is typed of the password is not shown, and goes to netd and the
// file.
func TestLoginAsks(t *testing.T) {
	x := newTTY(t)
	home := x.atHome(t)
	var errs syncBuffer
	x.app.Err = &errs
	before := x.state(t)
	code := x.run("login", "registry.test")
	x.prompted(t, &errs, "Username for registry.test: ")
	x.typed(t, "ada\n")
	x.expect(t, "ada") // as the terminal shows it
	x.prompted(t, &errs, "Password: ")
	await.True(t, "nothing is shown", func() bool { return x.state(t) != before })
	x.typed(t, "secret\n")
	x.expect(t, "Login succeeded: registry.test")
	exits(t, code, 0)
	if x.state(t) != before {
		t.Error("the terminal is not as it was")
	}
	if seen := x.netd.domain.Seen(); len(seen) != 1 || seen[0].Username != "ada" || seen[0].Password != "secret" {
		t.Errorf("netd got %v", seen)
	}
	b, err := os.ReadFile(filepath.Join(home, ".docker/config.json"))
	var file struct {
		Auths map[string]struct{ Auth []byte }
	}
	if err != nil || json.Unmarshal(b, &file) != nil || string(file.Auths["registry.test"].Auth) != "ada:secret" {
		t.Errorf("the file has %s, %v", b, err)
	}
}

// Who interrupts a login has a terminal that shows again what is typed, and nothing is kept.
func TestLoginInterrupted(t *testing.T) {
	x := newTTY(t)
	home := x.atHome(t)
	var errs syncBuffer
	x.app.Err = &errs
	before := x.state(t)
	code := x.run("login", "-u", "ada")
	x.prompted(t, &errs, "Password: ")
	await.True(t, "nothing is shown", func() bool { return x.state(t) != before })
	if err := syscall.Kill(os.Getpid(), syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	exits(t, code, 1)
	if x.state(t) != before {
		t.Error("the terminal is not as it was")
	}
	x.typed(t, "\n") // the reader that is left behind ends
	if !strings.Contains(errs.String(), "interrupted: nothing was changed") {
		t.Errorf("it says %q", errs.String())
	}
	if left, err := os.ReadDir(home); err != nil || len(left) > 0 {
		t.Errorf("kept: %v, %v", left, err)
	}
}

// Archives do not go to a terminal.
func TestArchivesDoNotGoToATerminal(t *testing.T) {
	x := newTTY(t)
	for _, args := range [][]string{{"save", "busybox"}, {"export", "box"}, {"image", "save", "busybox"}} {
		x.errs.Reset()
		exits(t, x.run(args...), 1)
		if !strings.Contains(x.errs.String(), "standard output is a terminal: name a file with -o FILE") {
			t.Errorf("%v: %s", args, &x.errs)
		}
	}
}

// A prune on a terminal shows what goes and asks.
func TestPruneAsks(t *testing.T) {
	x := newTTY(t)
	var errs syncBuffer
	x.app.Err = &errs
	for answer, want := range map[string]int{"n": 1, "": 1, "y": 0} {
		code := x.run("system", "prune", "-a")
		x.prompted(t, &errs, "Continue? [y/N] ")
		if text := errs.String(); !strings.Contains(text, "  - images: busybox:latest\n") ||
			!strings.Contains(text, "  - containers that do not run: none\n") {
			t.Errorf("it shows %s", text)
		}
		images, err := x.netd.domain.ListImages(t.Context())
		if err != nil || len(images) == 0 {
			t.Fatalf("%v, %v", images, err)
		}
		x.typed(t, answer+"\n")
		exits(t, code, want)
		if images, err = x.netd.domain.ListImages(t.Context()); err != nil || (len(images) == 0) != (answer == "y") {
			t.Errorf("%q: %v, %v", answer, images, err)
		}
		errs = syncBuffer{}
		if answer == "y" {
			break
		}
	}
}

// On a terminal a pull has bars, which are gone when it ends; a save tells how much is written.
func TestBarsOnATerminal(t *testing.T) {
	x := newTTY(t)
	x.atHome(t)
	x.app.Err = x.slave
	code := x.run("pull", "alpine")
	var shown bytes.Buffer
	for !strings.Contains(shown.String(), "Status: ") {
		line, err := x.lines.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		shown.WriteString(line)
	}
	exits(t, code, 0)
	last := strings.Split(strings.ReplaceAll(shown.String(), "\r", ""), "\n")
	if !strings.HasSuffix(shown.String(), "Downloaded newer image for alpine:latest\r\n") ||
		strings.Contains(last[len(last)-2], "done") {
		t.Errorf("it shows %q", shown.String())
	}
	path := filepath.Join(t.TempDir(), "a.tar")
	exits(t, x.run("save", "-o", path, "alpine"), 0)
	if b, err := os.ReadFile(path); err != nil || string(b) != "alpine:latest\n" {
		t.Errorf("%q, %v", b, err)
	}
}

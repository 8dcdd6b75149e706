package handover

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/internal/descriptor"
)

const asChild = "VETHLOOM_TEST_HOLDER"

func TestMain(m *testing.M) {
	var err error
	switch os.Getenv(asChild) {
	case "":
		goleak.VerifyTestMain(m)
		return
	case "hold":
		err = holdFor(os.Args[1], Patience)
	case "impatient":
		err = holdFor(os.Args[1], time.Millisecond)
	case "other":
		err = beAnother(os.Args[1])
	case "ask":
		err = beStranger(os.Args[1])
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

func child(how string) func(string) *exec.Cmd {
	return func(path string) *exec.Cmd {
		exe, err := os.Executable()
		if err != nil {
			panic(err)
		}
		cmd := exec.Command(exe, path)
		cmd.Env = []string{asChild + "=" + how}
		return cmd
	}
}

func holdFor(path string, patience time.Duration) error {
	conn, err := net.FileConn(os.NewFile(ControlFD, "netd"))
	if err != nil {
		return err
	}
	return Run(context.Background(), conn.(*net.UnixConn), path, patience)
}

// beAnother is a holder of a version that knows none of the requests.
func beAnother(path string) error {
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		conn := descriptor.NewConn(c.(*net.UnixConn))
		var q map[string]any
		if _, err = conn.Receive(&q); err == nil {
			err = conn.Send(map[string]string{"error": "no such request"})
		}
		if err != nil {
			return err
		}
	}
}

// beStranger asks for what a holder has.
func beStranger(path string) error {
	c, err := descriptor.Dial(path)
	if err != nil {
		return err
	}
	if err := c.Send(request{List: true}); err != nil {
		return err
	}
	a, err := receive(c)
	if err != nil {
		return err
	}
	fmt.Printf("got %+v\n", a)
	return nil
}

// keeper is one with a holder at a path.
func keeper(t *testing.T, path, how string) *Keeper {
	t.Helper()
	k := New(Config{Path: path, Command: child(how), Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	t.Cleanup(func() { k.Close() })
	return k
}

// pipe is an open file, and the other end of it.
func pipe(t *testing.T) (held descriptor.Descriptor, other *os.File) {
	t.Helper()
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	other = os.NewFile(uintptr(p[1]), "pipe")
	t.Cleanup(func() { other.Close() })
	return descriptor.Of(p[0]), other
}

// free reports whether nobody has the other end of a pipe open.
func free(other *os.File) bool {
	_, err := other.Write([]byte("x"))
	return errors.Is(err, unix.EPIPE)
}

// taken is what a keeper finds: keys and notes, and the files.
func taken(k *Keeper) (notes map[string]string, files map[string]*os.File) {
	notes, files = map[string]string{}, map[string]*os.File{}
	k.Resume(func(i Item) error {
		notes[i.Key] = string(i.Note)
		files[i.Key] = i.Files[0].File(i.Key)
		descriptor.Close(i.Files[1:])
		return nil
	})
	return notes, files
}

// TestOneAfterTheOther has keepers follow one another: each has what the one before it had last.
func TestOneAfterTheOther(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sock")
	k := keeper(t, path, "hold")
	a, toA := pipe(t)
	b, toB := pipe(t)
	c, toC := pipe(t)
	k.Hold("a", "first", a)
	k.Hold("b", 2, b, a)
	k.Hold("c", "third", c)
	k.Note("a", "changed")
	k.Note("none", "nothing")
	k.Drop("c")
	c.Close()
	if !free(toC) {
		t.Error("what was dropped is held")
	}
	descriptor.Close([]descriptor.Descriptor{a, b})
	for range 3 {
		k.Close()
		if _, err := toA.WriteString("w"); err != nil {
			t.Fatalf("nobody holds what was held: %v", err)
		}
		k = keeper(t, path, "hold")
		notes, files := taken(k)
		if len(notes) != 2 || notes["a"] != `"changed"` || notes["b"] != "2" {
			t.Fatalf("took over %v", notes)
		}
		var got [1]byte
		if _, err := io.ReadFull(files["a"], got[:]); err != nil || got[0] != 'w' {
			t.Errorf("read %q, %v", got, err)
		}
		for _, f := range files {
			f.Close()
		}
	}
	k.Drop("a")
	k.Drop("b")
	if !free(toA) || !free(toB) {
		t.Error("what was dropped is held")
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a holder of nothing is left: %v", err)
	}
	d, _ := pipe(t)
	defer d.Close()
	k.Hold("d", nil, d)
	k.Drop("d")
}

// TestRefusedIsGivenUp refuses one of two items.
func TestRefusedIsGivenUp(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sock")
	k := keeper(t, path, "hold")
	a, toA := pipe(t)
	b, toB := pipe(t)
	k.Hold("a", nil, a)
	k.Hold("b", nil, b)
	k.Close()
	descriptor.Close([]descriptor.Descriptor{a, b})
	k = keeper(t, path, "hold")
	k.Resume(func(i Item) error {
		descriptor.Close(i.Files)
		if i.Key == "a" {
			return errors.New("not wanted")
		}
		return nil
	})
	if !free(toA) || free(toB) {
		t.Error("want what was refused given up, and nothing else")
	}
	k.Drop("b")
}

// holderOf is the process that a keeper has.
func holderOf(k *Keeper) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.holder == nil {
		return 0
	}
	return k.holder.cmd.Process.Pid
}

// freeze stops a child, and waits until it has stopped.
func freeze(t *testing.T, pid int) {
	t.Helper()
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := unix.Waitid(unix.P_PID, pid, nil, unix.WSTOPPED, nil); err != nil {
		t.Fatal(err)
	}
}

// TestHolderThatHangs is stopped: it is ended, by the next keeper and by its own, and what it held is free.
func TestHolderThatHangs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sock")
	k := keeper(t, path, "hold")
	a, toA := pipe(t)
	k.Hold("a", nil, a)
	freeze(t, holderOf(k))
	k.Close()
	a.Close()
	k = keeper(t, path, "hold")
	if notes, _ := taken(k); len(notes) > 0 {
		t.Errorf("took over %v", notes)
	}
	if !free(toA) {
		t.Error("what a hanging holder had is held")
	}

	b, toB := pipe(t)
	c, toC := pipe(t)
	k.Hold("b", nil, b)
	k.Hold("c", nil, c)
	hangs := holderOf(k)
	freeze(t, hangs)
	b.Close()
	k.Drop("b")
	if !free(toB) {
		t.Error("what was dropped is held by a holder that hangs")
	}
	await.True(t, "another holder has the rest", func() bool { p := holderOf(k); return p != 0 && p != hangs })
	k.Close()
	c.Close()
	k = keeper(t, path, "hold")
	if notes, _ := taken(k); len(notes) != 1 || free(toC) {
		t.Errorf("took over %v", notes)
	}
	k.Drop("c")
}

// TestHolderThatIsKilled has another one go on with the same.
func TestHolderThatIsKilled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sock")
	k := keeper(t, path, "hold")
	a, toA := pipe(t)
	k.Hold("a", "note", a)
	was := holderOf(k)
	if err := unix.Kill(was, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	await.True(t, "there is another holder", func() bool { p := holderOf(k); return p != 0 && p != was })
	k.Close()
	a.Close()
	k = keeper(t, path, "hold")
	notes, files := taken(k)
	if notes["a"] != `"note"` || free(toA) {
		t.Errorf("took over %v", notes)
	}
	files["a"].Close()
	k.Drop("a")
}

// TestAnotherVersion finds a holder that does not know the request: there is nothing, and that holder ends.
func TestAnotherVersion(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sock")
	other := child("other")(path)
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	k := keeper(t, path, "hold")
	await.True(t, "it is found, and ended", func() bool {
		if notes, _ := taken(k); len(notes) > 0 {
			t.Errorf("took over %v", notes)
		}
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(other.Process.Pid, &ws, syscall.WNOHANG, nil)
		return err == nil && pid > 0 && ws.Signaled()
	})
	a, _ := pipe(t)
	defer a.Close()
	k.Hold("a", nil, a)
	if holderOf(k) == 0 {
		t.Error("there is no holder")
	}
	k.Drop("a")
}

// TestNobodyComes has a holder give up, and end.
func TestNobodyComes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sock")
	k := keeper(t, path, "impatient")
	a, toA := pipe(t)
	k.Hold("a", nil, a)
	k.Close()
	a.Close()
	await.True(t, "the holder gives up", func() bool { return free(toA) })
	await.True(t, "it ends", func() bool { _, err := os.Lstat(path); return errors.Is(err, os.ErrNotExist) })
}

// TestPlaceIsGone removes the socket: nobody can come any more.
func TestPlaceIsGone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sock")
	k := keeper(t, path, "hold")
	a, toA := pipe(t)
	k.Hold("a", nil, a)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	k.Close()
	a.Close()
	await.True(t, "the holder gives up", func() bool { return free(toA) })
}

// TestStrangersGetNothing has another user ask, also where a mistake has opened the socket to all.
func TestStrangersGetNothing(t *testing.T) {
	dir, err := os.MkdirTemp("", "holder")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "sock")
	k := keeper(t, path, "hold")
	a, _ := pipe(t)
	defer a.Close()
	k.Hold("a", "secret", a)
	defer k.Drop("a")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "ask") // where everybody can run it
	if out, err := exec.Command("cp", self, program).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	ask := func(uid uint32) string {
		cmd := exec.Command(program, path)
		cmd.Env, cmd.Dir = []string{asChild + "=ask"}, dir
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		out, _ := cmd.CombinedOutput()
		return string(out)
	}
	if out := ask(0); !strings.Contains(out, "secret") && !strings.Contains(out, "got") {
		t.Fatalf("root is told %q", out)
	}
	if out := ask(65534); !strings.Contains(out, "permission denied") {
		t.Errorf("another user is told %q", out)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	if out := ask(65534); !strings.Contains(out, "EOF") && !strings.Contains(out, "reset") &&
		!strings.Contains(out, "broken pipe") {
		t.Errorf("another user is told %q", out)
	}
}

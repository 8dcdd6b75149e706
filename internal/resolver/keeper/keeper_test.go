package keeper_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/internal/descriptor"
	"github.com/vethloom/vethloom/internal/resolver/control"
	"github.com/vethloom/vethloom/internal/resolver/keeper"
	"github.com/vethloom/vethloom/plan"
)

// as makes this test binary a process that is started in the place of net-resolver, and behaves in that way.
const as = "VETHLOOM_TEST_RESOLVER"

func TestMain(m *testing.M) {
	if how := os.Getenv("PATH"); strings.HasPrefix(how, as+"=") {
		impostor(strings.TrimPrefix(how, as+"="))
		return
	}
	goleak.VerifyTestMain(m)
}

// impostor answers at the control socket in a way that netd must live with.
func impostor(how string) {
	f := os.NewFile(control.ListenerFD, "control")
	l, err := net.FileListener(f)
	if err != nil {
		os.Exit(1)
	}
	var open atomic.Int32
	for {
		c, err := l.Accept()
		if err != nil {
			os.Exit(1)
		}
		open.Add(1)
		go func() {
			serve(c.(*net.UnixConn), how)
			c.Close()
			if open.Add(-1) == 0 && how != "boundless" && how != "staying" { // netd is gone, or has given it up
				end()
			}
		}()
	}
}

// end ends this process at once: the race detector would take its time.
func end() { _ = syscall.Kill(os.Getpid(), syscall.SIGKILL) }

func serve(c *net.UnixConn, how string) {
	conn := descriptor.NewConn(c)
	for n := 0; ; n++ {
		var q control.Request
		all, err := conn.Receive(&q)
		descriptor.Close(all)
		if err != nil {
			return
		}
		answer := any(control.Answer{Done: true})
		switch {
		case q.Hello != nil && how == "half":
			_, _ = c.Write([]byte{0, 0})
			continue
		case q.Hello != nil && how == "long":
			_, _ = c.Write(binary.BigEndian.AppendUint32(nil, 1<<31))
			_, _ = c.Write(make([]byte, 4))
			continue
		case q.Hello != nil && how == "garbage":
			_, _ = c.Write(append(binary.BigEndian.AppendUint64(nil, 5<<32), "{{{{{"...))
			continue
		case q.Hello != nil && how == "hanging" && n > 0:
			continue
		case q.Hello != nil && how == "chatting":
			for conn.Send(control.Answer{Hello: &control.Hello{Version: control.Version, Build: "test"}}) == nil {
			}
			return
		case q.Hello != nil:
			answer = control.Answer{Hello: &control.Hello{Version: control.Version, Build: "test"}}
		case q.List && how == "boundless":
			for n := 0; ; n++ {
				many := make([]plan.NameMember, control.MaxObjects)
				for i := range many {
					many[i] = plan.NameMember{Zone: "1", ID: fmt.Sprint(i), Names: []string{strings.Repeat("x", 4000)}}
				}
				if conn.Send(control.Answer{Names: &control.Names{Members: many}}) != nil {
					return
				}
			}
		case q.Watch != nil && how == "watched":
			_ = conn.Send(control.Answer{Query: &control.Query{Name: "db"}})
			return
		case how == "silent":
			continue
		case how == "refusing":
			answer = control.Answer{Error: "\x1b[2Jno" + strings.Repeat("!", 1000)}
		case how == "dying":
			end()
		}
		if conn.Send(answer) != nil {
			return
		}
	}
}

// open opens a keeper whose process is this test binary, told how to behave by what it has of the environment.
func open(t *testing.T, how string) (*keeper.Keeper, string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", as+"="+how)
	var log bytes.Buffer
	run := t.TempDir()
	k := keeper.Open(keeper.Config{Run: run, Path: self, Build: "test", Pause: 10 * time.Millisecond,
		Log: slog.New(slog.NewTextHandler(&log, nil))})
	t.Cleanup(func() {
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	})
	return k, run
}

var (
	zone   = plan.NameZone{ID: "1", Name: "front"}
	server = plan.NameServer{NS: "box", Addr: netip.MustParseAddr("127.0.0.11")}
)

func create(o plan.Object) []plan.Op { return []plan.Op{{Verb: plan.Create, Object: o}} }

func sockets(t *testing.T) control.Sockets {
	t.Helper()
	u, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	l, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return control.Sockets{UDP: descriptor.Of(u), TCP: descriptor.Of(l)}
}

// Whatever a process that has read what strangers sent says, or does not say, netd goes on, and loses nothing of what
// the next one is to have.
func TestProcessesThatMisbehave(t *testing.T) {
	for _, how := range []string{"half", "long", "garbage", "silent", "refusing", "dying"} {
		t.Run(how, func(t *testing.T) {
			begin := time.Now()
			k, _ := open(t, how)
			_ = k.Names(t.Context(), create(zone))
			_ = k.Serve(t.Context(), server, sockets(t))
			k.Settled()
			if took := time.Since(begin); took > 30*time.Second {
				t.Errorf("netd waited for %s", took)
			}
			zones, _, servers := k.List()
			if len(zones) != 1 || len(servers) != 1 {
				t.Errorf("what there should be: %v %v", zones, servers)
			}
			if how == "refusing" { // a gateway's port is waited for
				gateway := plan.NameServer{Link: "b", Addr: netip.MustParseAddr("10.7.0.1"), Network: "f"}
				_ = k.Serve(t.Context(), gateway, sockets(t))
				err := k.Stop(t.Context(), gateway.Key())
				if err == nil || strings.ContainsRune(err.Error(), '\x1b') || len(err.Error()) > 400 {
					t.Errorf("what it said is told as %v", err)
				}
			}
			if err := k.Stop(t.Context(), server.Key()); err != nil {
				t.Error(err)
			}
		})
	}
}

// A process that nobody asks for anything, and that hangs or speaks without end, is replaced all the same.
func TestProcessesThatAreLeftAlone(t *testing.T) {
	for _, how := range []string{"hanging", "chatting"} {
		t.Run(how, func(t *testing.T) {
			_, run := open(t, how)
			pid := func() string {
				b, err := os.ReadFile(filepath.Join(run, "resolver.pid"))
				if err != nil {
					t.Fatal(err)
				}
				return string(b)
			}
			first := pid()
			await.True(t, "another process", func() bool { return pid() != first })
		})
	}
}

// A process that an earlier netd has left tells of names without end. It is ended, and what it told is not believed.
func TestAProcessThatTellsWithoutEnd(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := keeper.Config{Run: t.TempDir(), Path: self, Build: "test", Log: slog.New(slog.DiscardHandler)}
	t.Setenv("PATH", as+"=boundless")
	k := keeper.Open(c)
	_ = k.Serve(t.Context(), server, sockets(t)) // so that the process stays
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", as+"=fine")
	k = keeper.Open(c)
	if zones, members, servers := k.List(); len(zones)+len(members)+len(servers) > 0 {
		t.Errorf("%d zones, %d members and %d servers are believed", len(zones), len(members), len(servers))
	}
	if err := k.Trouble(); err != nil {
		t.Error(err)
	}
	if err := k.Close(); err != nil {
		t.Error(err)
	}
}

// A process that an earlier netd has left hangs: it would keep the sockets that the next one needs.
func TestAProcessThatWasLeftHangs(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := keeper.Config{Run: t.TempDir(), Path: self, Build: "test", Log: slog.New(slog.DiscardHandler)}
	t.Setenv("PATH", as+"=staying")
	k := keeper.Open(c)
	_ = k.Serve(t.Context(), server, sockets(t)) // so that the process stays
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(c.Run, "resolver.pid"))
	var noted struct{ PID int }
	if err = errors.Join(err, json.Unmarshal(b, &noted)); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(noted.PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", as+"=fine")
	k = keeper.Open(c)
	await.True(t, "the process that hung is gone", func() bool {
		return errors.Is(syscall.Kill(noted.PID, 0), syscall.ESRCH)
	})
	if err := k.Close(); err != nil {
		t.Error(err)
	}
}

// A process that ends each connection at which questions are watched does not keep netd busy.
func TestWatchingAProcessThatEndsIt(t *testing.T) {
	k, _ := open(t, "watched")
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	n := 0
	for range k.Watch(ctx, nil) {
		n++
	}
	if n == 0 || n > 20 {
		t.Errorf("%d questions in a second", n)
	}
}

// A program that is not there is told, again and again, and nothing fails by it.
func TestNoProgram(t *testing.T) {
	var log bytes.Buffer
	k := keeper.Open(keeper.Config{Run: t.TempDir(), Path: filepath.Join(t.TempDir(), "nothing"), Build: "test",
		Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err := k.Names(t.Context(), create(zone)); err != nil {
		t.Error(err)
	}
	if err := k.Trouble(); err == nil || !strings.Contains(err.Error(), "nothing") {
		t.Errorf("the trouble is %v", err)
	}
	if _, err := k.Lookup(t.Context(), control.Lookup{Server: server.Key(), Name: "db"}); err == nil {
		t.Error("a lookup without a resolver has an answer")
	}
	for _, err := range k.Watch(t.Context(), nil) {
		if err == nil {
			t.Error("a question is told without a resolver")
		}
	}
	if err := k.Close(); err != nil {
		t.Error(err)
	}
}

// The number that was noted is that of a process that has ended, and now another's: that one is left alone.
func TestTheNumberOfAnother(t *testing.T) {
	run := t.TempDir()
	b, err := json.Marshal(map[string]any{"pid": os.Getpid(), "start": "1"})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(run, "resolver.pid"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	// A control socket that nobody answers at, as a process leaves it that was killed.
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(run, "resolver.sock"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", as+"=fine")
	k := keeper.Open(keeper.Config{Run: run, Path: self, Build: "test", Log: slog.New(slog.DiscardHandler)})
	await.True(t, "a process of its own", func() bool { return k.Trouble() == nil })
	if err := k.Names(t.Context(), create(zone)); err != nil {
		t.Error(err)
	}
	text, err := os.ReadFile(filepath.Join(run, "resolver.pid"))
	if err != nil || strings.Contains(string(text), fmt.Sprintf(`"pid":%d,`, os.Getpid())) {
		t.Errorf("the number noted is %s: %v", text, err)
	}
	if err := k.Close(); err != nil {
		t.Error(err)
	}
}

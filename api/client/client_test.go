package client_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/vethloom/vethloom/api/client"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// accept serves a socket with a function for each connection.
func accept(t *testing.T, handle func(net.Conn)) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var conns []net.Conn
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns = append(conns, c)
			handle(c)
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
		for _, c := range conns {
			c.Close()
		}
	})
	return path
}

func TestDialSaysWhatIsWrongAndWhatToDo(t *testing.T) {
	dir := t.TempDir()
	stale := filepath.Join(dir, "stale")
	l, err := net.Listen("unix", stale)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	mute := accept(t, func(net.Conn) {})
	hangsUp := accept(t, func(c net.Conn) { c.Close() })
	web := accept(t, func(c net.Conn) { c.Write([]byte("HTTP/1.0 400 Bad Request\r\n\r\n")) })
	for _, c := range []struct {
		name, host, problem, remedy string
		is                          error
	}{
		{"no socket", "unix://" + dir + "/none", "the daemon is not running", "systemctl start netd", os.ErrNotExist},
		{"stale socket", stale, "the daemon is not running", "systemctl start netd", syscall.ECONNREFUSED},
		{"mute", mute, "answered nothing for 200ms", "journalctl -u netd", context.DeadlineExceeded},
		{"hangs up", hangsUp, "not netd", "ss -xlp", nil},
		{"something else", web, "not netd", "ss -xlp", nil},
		{"not unix", "tcp://h:1", "not an address", "unix:///absolute/path", nil},
		{"relative", "unix://run/s", "not an address", "unix:///absolute/path", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			begin := time.Now()
			conn, err := client.Dial(t.Context(), c.host, client.Options{Timeout: 200 * time.Millisecond})
			if err == nil {
				conn.Close()
				t.Fatal("connected")
			}
			var d *client.DialError
			if !errors.As(err, &d) || !strings.Contains(d.Problem, c.problem) || !strings.Contains(d.Remedy, c.remedy) {
				t.Errorf("got %v; want %q and %q", err, c.problem, c.remedy)
			}
			if c.is != nil && !errors.Is(err, c.is) {
				t.Errorf("%v does not wrap %v", err, c.is)
			}
			if took := time.Since(begin); took > 5*time.Second {
				t.Errorf("it took %v", took)
			}
		})
	}
}

func TestDialPermission(t *testing.T) {
	e := &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.EACCES)}
	err := client.DialFailure("/run/x", e)
	if !strings.Contains(err.Error(), "permission denied") || !strings.Contains(err.Error(), "usermod -aG vethloom") {
		t.Fatalf("got %v", err)
	}
}

func TestDialIsCancelled(t *testing.T) {
	path := accept(t, func(net.Conn) {})
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	if _, err := client.Dial(ctx, path, client.Options{Timeout: time.Minute}); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
}

func TestExplain(t *testing.T) {
	st, err := status.New(codes.FailedPrecondition, "no such command").WithDetails(
		&errdetails.ErrorInfo{Metadata: map[string]string{"exit_code": "127"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		err  error
		want string
		exit int
	}{
		{st.Err(), "no such command", 127},
		{status.Error(codes.NotFound, "no network web"), "no network web", 0},
		{status.Error(codes.Unavailable, "EOF"),
			"the connection to netd broke off (EOF): see whether it runs with 'systemctl status netd', then try again",
			0},
		{status.Error(codes.Unimplemented, "unknown method X"),
			"this netd does not know the call (unknown method X): compare versions with 'net version'", 0},
		{errors.New("plain"), "plain", 0},
	} {
		got := client.Explain(c.err)
		var call *client.CallError
		exit := 0
		if errors.As(got, &call) {
			exit = call.Exit
		}
		if got.Error() != c.want || exit != c.exit {
			t.Errorf("got %q exit %d, want %q exit %d", got, exit, c.want, c.exit)
		}
		if client.CodeOf(got) != client.CodeOf(c.err) {
			t.Errorf("%v: the code is lost", got)
		}
	}
	if client.Explain(nil) != nil {
		t.Error("nil is an error")
	}
}

func TestHost(t *testing.T) {
	t.Setenv(client.HostVariable, "")
	if h := client.Host(""); h != client.DefaultHost {
		t.Errorf("default: %s", h)
	}
	t.Setenv(client.HostVariable, "unix:///env")
	if h := client.Host(""); h != "unix:///env" {
		t.Errorf("environment: %s", h)
	}
	if h := client.Host("unix:///flag"); h != "unix:///flag" {
		t.Errorf("flag: %s", h)
	}
}

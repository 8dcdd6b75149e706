package shim_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/engine/shim"
	"github.com/vethloom/vethloom/engine/shim/shimtest"
	"github.com/vethloom/vethloom/internal/await"
)

// cgroup is this test process's, so that two can run at the same time.
var cgroup = fmt.Sprintf("/vethloom-test-%d", os.Getpid())

func TestMain(m *testing.M) {
	code := m.Run()
	shimtest.Cleanup()
	if err := shim.RemoveCgroup(cgroup); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// bench is one container to be, with its directories.
type bench struct {
	launcher shim.Launcher
	dir      string
	bundle   shim.Bundle
}

func newBench(t *testing.T, args ...string) *bench {
	t.Helper()
	dir := t.TempDir()
	id := fmt.Sprintf("%s-%d", strings.ToLower(filepath.Base(t.Name())), os.Getpid())
	return &bench{
		launcher: shim.Launcher{Path: shimtest.Binary(t)},
		dir:      dir,
		bundle: shim.Bundle{
			ID: id, Hostname: "box", Root: shimtest.Rootfs(t),
			Process:  shim.Process{Args: args},
			Cgroup:   cgroup + "/" + id,
			StateDir: filepath.Join(dir, "state"), ExitPath: filepath.Join(dir, "exit.json"),
			Log:  shim.LogFile{Path: filepath.Join(dir, "log")},
			Caps: []string{"CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_SETGID", "CAP_NET_BIND_SERVICE"},
		},
	}
}

type result struct {
	out, err string
	exit     shim.Exit
}

// run runs the container in the foreground, attached before the start.
func (b *bench) run(t *testing.T, stdin string) (result, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), await.Patience)
	defer cancel()
	child, err := b.launcher.Launch(b.dir, filepath.Join(b.dir, "shim.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := child.Reap(context.WithoutCancel(ctx)); err != nil {
			t.Errorf("%v: %s", err, b.shimLog())
		}
	}()
	defer child.Release()
	if err := child.Create(t.Context(), b.bundle); err != nil {
		t.Fatal(err)
	}
	stream, err := shim.Client{Dir: b.dir}.Attach(ctx, b.bundle.Process.Stdin, shim.Size{})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	if _, err := child.Start(ctx); err != nil {
		return result{}, err
	}
	if b.bundle.Process.Stdin {
		go func() {
			if err := stream.Send([]byte(stdin)); err == nil {
				stream.CloseStdin()
			}
		}()
	}
	return collect(t, stream), nil
}

func collect(t *testing.T, s *shim.Stream) result {
	t.Helper()
	var out, errOut bytes.Buffer
	for {
		c, err := s.Recv()
		if errors.Is(err, io.EOF) {
			exit, _ := s.Exit()
			return result{out.String(), errOut.String(), exit}
		}
		if err != nil {
			t.Fatalf("receive: %v", err)
		}
		if c.Stderr {
			errOut.Write(c.Data)
		} else {
			out.Write(c.Data)
		}
	}
}

func (b *bench) shimLog() string {
	text, _ := os.ReadFile(filepath.Join(b.dir, "shim.log"))
	return string(text)
}

func TestForeground(t *testing.T) {
	tests := []struct {
		name, stdin string
		args        []string
		want        result
	}{
		{name: "true", args: []string{"true"}},
		{name: "exit code", args: []string{"sh", "-c", "exit 7"}, want: result{exit: shim.Exit{Code: 7}}},
		{name: "streams", args: []string{"sh", "-c", "echo out; echo err >&2"},
			want: result{out: "out\n", err: "err\n"}},
		{name: "signal", args: []string{"sh", "-c", "sh -c 'kill -9 $$'; exit $?"},
			want: result{exit: shim.Exit{Code: 137}, err: "Killed\n"}},
		{name: "stdin", stdin: "hello\n", args: []string{"cat"}, want: result{out: "hello\n"}},
		{name: "hostname", args: []string{"hostname"}, want: result{out: "box\n"}},
		{name: "pid 1", args: []string{"sh", "-c", "echo $$"}, want: result{out: "1\n"}},
	}
	for _, tt := range tests {
		t.Run(strings.ReplaceAll(tt.name, " ", "-"), func(t *testing.T) {
			b := newBench(t, tt.args...)
			b.bundle.Process.Stdin = tt.stdin != ""
			got, err := b.run(t, tt.stdin)
			if err != nil {
				t.Fatalf("run: %v\n%s", err, b.shimLog())
			}
			if got.out != tt.want.out || got.err != tt.want.err || got.exit.Code != tt.want.exit.Code {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
			left, err := shim.ReadExit(b.bundle.ExitPath)
			if err != nil || left.Code != tt.want.exit.Code {
				t.Errorf("exit file: %+v, %v", left, err)
			}
			if log := b.shimLog(); log != "" {
				t.Errorf("the shim complained: %s", log)
			}
		})
	}
}

package logfile

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/internal/await"
)

// follower follows a log in the background; what it reads comes out of a channel, which ends with it.
func follower(t *testing.T, w *Watcher, path string) (lines <-chan string, end func()) {
	t.Helper()
	out, done, ctx := make(chan string, 10), make(chan struct{}), context.WithoutCancel(t.Context())
	go func() {
		defer close(out)
		for e, err := range Read(ctx, path, Options{Tail: -1, Follow: done, Watcher: w}) {
			if err != nil {
				t.Errorf("follow %s: %v", path, err)
				return
			}
			out <- string(e.Line())
		}
	}()
	var once sync.Once
	end = func() { once.Do(func() { close(done) }) }
	t.Cleanup(func() {
		end()
		for range out {
		}
	})
	return out, end
}

// inotify counts this process's inotify instances, and their watches.
func inotify(t *testing.T) (instances, watches int) {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		to, err := os.Readlink("/proc/self/fd/" + fd.Name())
		if err != nil || to != "anon_inode:inotify" {
			continue
		}
		info, err := os.ReadFile("/proc/self/fdinfo/" + fd.Name())
		if err != nil {
			t.Fatal(err)
		}
		instances++
		watches += strings.Count(string(info), "inotify wd:")
	}
	return instances, watches
}

func log(t *testing.T) (path string, out *Stream) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "log")
	w, err := NewWriter(path, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return path, w.Stream("stdout")
}

// Followers share what the kernel has few of, and give it back.
func TestManyFollowersShareAnInstance(t *testing.T) {
	const logs, each = 100, 2
	var w Watcher
	var outs []*Stream
	var lines []<-chan string
	var ends []func()
	for range logs {
		path, out := log(t)
		outs = append(outs, out)
		for range each {
			l, end := follower(t, &w, path)
			lines, ends = append(lines, l), append(ends, end)
		}
	}
	await.Value(t, "instances and watches", [2]int{1, logs}, func() [2]int {
		instances, watches := inotify(t)
		return [2]int{instances, watches}
	})
	for round := range 2 { // the second is only told by the watch
		for i, out := range outs {
			write(t, out, start, fmt.Sprintf("line %d of log %d\n", round, i))
		}
		for i, l := range lines {
			want := fmt.Sprintf("line %d of log %d\n", round, i/each)
			if got := await.From(t, "a follower has the line", l); got != want {
				t.Fatalf("got %q, want %q", got, want)
			}
		}
	}
	for i, end := range ends[:len(ends)-1] {
		end()
		if _, more := <-lines[i]; more {
			t.Error("a line that nobody wrote")
		}
	}
	if instances, watches := inotify(t); instances != 1 || watches != 1 {
		t.Errorf("the last follower has %d instances and %d watches", instances, watches)
	}
	write(t, outs[logs-1], start, "last\n")
	if got := await.From(t, "the last follower has the line", lines[len(lines)-1]); got != "last\n" {
		t.Errorf("got %q", got)
	}
	ends[len(ends)-1]()
	<-lines[len(lines)-1]
	if instances, watches := inotify(t); instances != 0 || watches != 0 {
		t.Errorf("%d instances and %d watches are left", instances, watches)
	}
}

// The kernel does not say whose events it had no room for.
func TestOverflowWakesAll(t *testing.T) {
	in := &instance{watches: map[int32]map[*watch]struct{}{}}
	var all []*watch
	for wd := range int32(3) {
		one := &watch{wake: make(chan struct{}, 1)}
		in.watches[wd+1] = map[*watch]struct{}{one: {}}
		all = append(all, one)
	}
	event := func(wd int32, mask uint32, name string) []byte {
		b := binary.NativeEndian.AppendUint32(nil, uint32(wd))
		b = binary.NativeEndian.AppendUint32(b, mask)
		b = binary.NativeEndian.AppendUint32(b, 0)
		b = binary.NativeEndian.AppendUint32(b, uint32(len(name)))
		return append(b, name...)
	}
	woken := func() (n int) {
		for _, one := range all {
			select {
			case <-one.wake:
				n++
			default:
			}
		}
		return n
	}
	in.tell(append(event(2, unix.IN_MODIFY, "log\x00\x00\x00\x00\x00"), event(2, unix.IN_MODIFY, "")...))
	if n := woken(); n != 1 {
		t.Errorf("a change of one directory wakes %d", n)
	}
	in.tell(append(event(9, unix.IN_MODIFY, "unknown\x00"), event(-1, unix.IN_Q_OVERFLOW, "")...))
	if n := woken(); n != len(all) {
		t.Errorf("an overflow wakes %d of %d", n, len(all))
	}
}

// A directory that goes takes its watch with it; who followed there takes no other's away.
func TestFollowedDirectoryGoes(t *testing.T) {
	var w Watcher
	dir := filepath.Join(t.TempDir(), "c")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	gone, end := follower(t, &w, filepath.Join(dir, "log"))
	await.Value(t, "watches", 1, func() int { _, n := inotify(t); return n })
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	path, out := log(t)
	lines, _ := follower(t, &w, path)
	await.Value(t, "watches", 1, func() int { _, n := inotify(t); return n })
	end()
	<-gone
	write(t, out, start, "here\n")
	if got := await.From(t, "a follower has the line", lines); got != "here\n" {
		t.Errorf("got %q", got)
	}
}

// Where the kernel has no instance left, following works all the same, and the log says why it is slow.
func TestFollowWithoutInotify(t *testing.T) {
	const child = "VETHLOOM_TEST_NO_INOTIFY"
	if os.Getenv(child) == "" {
		// A user namespace has a limit of its own.
		cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
		cmd.Env = append(os.Environ(), child+"=1")
		own := []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: own,
			GidMappings: own}
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
			t.Errorf("in its own namespace: %v\n%s", err, out)
		}
		return
	}
	if err := os.WriteFile("/proc/sys/user/max_inotify_instances", []byte("0"), 0); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	w := Watcher{Log: slog.New(slog.NewTextHandler(&said, nil))}
	path, out := log(t)
	lines, end := follower(t, &w, path)
	for i := range 3 {
		want := fmt.Sprintf("line %d\n", i)
		write(t, out, start, want)
		if got := await.From(t, "a follower has the line", lines); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	end()
	<-lines
	if n, _ := inotify(t); n != 0 || strings.Count(said.String(), "max_user_instances") != 1 {
		t.Errorf("%d instances, and it said: %s", n, said.String())
	}
}

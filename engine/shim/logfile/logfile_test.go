package logfile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func all(t *testing.T, path string, o Options) string {
	t.Helper()
	var out strings.Builder
	for e, err := range Read(t.Context(), path, o) {
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, "%s:%s", e.Stream[3:], e.Line())
	}
	return out.String()
}

func write(t *testing.T, s *Stream, at time.Time, text string) {
	t.Helper()
	if err := s.Write(at, []byte(text)); err != nil {
		t.Fatal(err)
	}
}

func TestReadSelects(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	w, err := NewWriter(path, 300, 3) // a few lines a file
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	out, errOut := w.Stream("stdout"), w.Stream("stderr")
	for i := range 6 {
		write(t, out, start.Add(time.Duration(i)*time.Second), fmt.Sprintf("line %d\n", i))
	}
	write(t, errOut, start.Add(6*time.Second), "bad \xff byte\n")
	write(t, out, start.Add(7*time.Second), "no end")
	if err := out.Flush(start.Add(7 * time.Second)); err != nil {
		t.Fatal(err)
	}
	whole := "out:line 0\nout:line 1\nout:line 2\nout:line 3\nout:line 4\nout:line 5\nerr:bad \xff byte\nout:no end"
	tests := []struct {
		name string
		o    Options
		want string
	}{
		{"all", Options{Tail: -1}, whole},
		{"none", Options{Tail: 0}, ""},
		{"last two", Options{Tail: 2}, "err:bad \xff byte\nout:no end"},
		{"across files", Options{Tail: 5}, whole[strings.Index(whole, "out:line 3"):]},
		{"more than there is", Options{Tail: 100}, whole},
		{"since", Options{Tail: -1, Since: start.Add(6 * time.Second)}, "err:bad \xff byte\nout:no end"},
		{"until", Options{Tail: -1, Until: start.Add(time.Second)}, "out:line 0\nout:line 1\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := all(t, path, tt.o); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestNoLogIsEmpty(t *testing.T) {
	if got := all(t, filepath.Join(t.TempDir(), "log"), Options{Tail: -1}); got != "" {
		t.Errorf("got %q", got)
	}
}

// Whatever the chunks and the files' size, a follower that keeps up sees every byte in order.
func TestFollowSeesEverything(t *testing.T) {
	watcher := &Watcher{}
	rapid.Check(t, func(rt *rapid.T) {
		path := filepath.Join(t.TempDir(), fmt.Sprintf("log%d", time.Now().UnixNano()))
		w, err := NewWriter(path, int64(rapid.IntRange(100, 5000).Draw(rt, "size")), 3)
		if err != nil {
			rt.Fatal(err)
		}
		defer w.Close()
		done, seen, finished := make(chan struct{}), make(chan string, 100), make(chan string, 1)
		go func() {
			var got strings.Builder
			for e, err := range Read(t.Context(), path, Options{Tail: -1, Follow: done, Watcher: watcher}) {
				if err != nil {
					rt.Errorf("read: %v", err)
				}
				got.Write(e.Line())
				if strings.HasSuffix(e.Text, "end") {
					seen <- e.Text
				}
			}
			finished <- got.String()
		}()
		s := w.Stream("stdout")
		var want strings.Builder
		for i, chunk := range rapid.SliceOfN(rapid.StringMatching(`[a-z\n]{0,200}`), 1, 20).Draw(rt, "chunks") {
			text := fmt.Sprintf("%s\n%d end\n", chunk, i)
			want.WriteString(text)
			write(t, s, start, text)
			<-seen // it keeps up: rotation may drop what nobody read
		}
		write(t, s, start, "rest")
		if err := s.Flush(start); err != nil {
			rt.Fatal(err)
		}
		want.WriteString("rest")
		close(done)
		if got := <-finished; got != want.String() {
			rt.Errorf("got %q\nwant %q", got, want.String())
		}
	})
}

func TestLongLinesAreCutAndJoined(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	w, err := NewWriter(path, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	s := w.Stream("stdout")
	long := strings.Repeat("x", 3*maxLine+5)
	for i := 0; i < len(long); i += 7000 {
		write(t, s, start, long[i:min(i+7000, len(long))])
	}
	write(t, s, start, "\n")
	var got strings.Builder
	entries := 0
	for e, err := range Read(t.Context(), path, Options{Tail: -1}) {
		if err != nil {
			t.Fatal(err)
		}
		got.Write(e.Line())
		entries++
	}
	if got.String() != long+"\n" || entries != 4 {
		t.Errorf("%d bytes in %d entries, want %d in 4", got.Len(), entries, len(long)+1)
	}
}

func FuzzParseEntry(f *testing.F) {
	f.Add([]byte(`{"time":"2026-01-02T03:04:05Z","stream":"stdout","text":"x"}`))
	f.Add([]byte(`{"bytes":"/w=="}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		e, err := parseEntry(line)
		if err != nil {
			return
		}
		again, err := appendEntry(nil, e.Time, e.Stream, e.Line(), e.Partial)
		if err == nil && again[len(again)-1] != '\n' {
			t.Errorf("an entry without its end: %q", again)
		}
	})
}

// A rotation that fails loses nothing: the old file goes on, up to twice its size, and the next output tries anew.
func TestRotationThatFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	w, err := NewWriter(path, 300, 2)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := os.Mkdir(path+".new", 0o700); err != nil { // no file can be made there
		t.Fatal(err)
	}
	out := w.Stream("stdout")
	var want strings.Builder
	var lost error
	for i := 0; lost == nil && i < 100; i++ {
		text := fmt.Sprintf("line %d\n", i)
		if lost = out.Write(start, []byte(text)); lost == nil {
			want.WriteString("out:" + text)
		}
	}
	if info, err := os.Stat(path); lost == nil || err != nil || info.Size() > 600 || info.Size() < 300 {
		t.Fatalf("the log has %d bytes, %v; the last error was %v", info.Size(), err, lost)
	}
	if got := all(t, path, Options{Tail: -1}); got != want.String() {
		t.Errorf("got %q, want %q", got, want.String())
	}
	if err := os.Remove(path + ".new"); err != nil {
		t.Fatal(err)
	}
	write(t, out, start, "again\n")
	if got := all(t, path, Options{Tail: -1}); got != want.String()+"out:again\n" {
		t.Errorf("got %q, want the new line too", got)
	}
	if _, err := os.Stat(path + ".new"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the new file keeps its name: %v", err)
	}
}

// A line that a crash cut short is one line that cannot be read, and what comes behind it can.
func TestTornLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, []byte(`{"time":"2026-01-01T0`), 0o600); err != nil {
		t.Fatal(err)
	}
	w, err := NewWriter(path, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	write(t, w.Stream("stdout"), start, "whole\n")
	var got []string
	for e, err := range Read(t.Context(), path, Options{Tail: -1}) {
		if err != nil {
			if !errors.Is(err, ErrTorn) {
				t.Fatal(err)
			}
			got = append(got, "torn")
			continue
		}
		got = append(got, string(e.Line()))
	}
	if !slices.Equal(got, []string{"torn", "whole\n"}) {
		t.Errorf("read %q", got)
	}
}

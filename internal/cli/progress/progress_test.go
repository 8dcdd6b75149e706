package progress_test

import (
	"bytes"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/containerd/console"
	"go.uber.org/goleak"

	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/internal/cli/progress"
)

const (
	id   = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	evil = "\x1b]0;pwned\x07\u009b2J\u202e\nforged: line"
)

func report(part, action string, current, total int64, text string) *apiv1.TransferProgress {
	return &apiv1.TransferProgress{Part: part, Action: action, Current: current, Total: total, Text: text}
}

func TestLinesAreOneAChangeAndOneEveryTenSeconds(t *testing.T) {
	var b bytes.Buffer
	now := time.Unix(1000, 0)
	d := progress.New(progress.Config{Mode: progress.Auto, Err: &b, Now: func() time.Time { return now }})
	d.Add(report(id, "waiting", 0, 3e7, ""))
	d.Add(report(id, "downloading", 0, 3e7, ""))
	for range 25 {
		now = now.Add(time.Second)
		d.Add(report(id, "downloading", 12e6, 3e7, ""))
	}
	d.Add(report(id, "retrying", 12e6, 3e7, "the connection was reset"))
	d.Add(report(id, "unpacking", 3e7, 3e7, ""))
	d.Add(report(id, "pulled", 3e7, 3e7, ""))
	d.Add(report("", "checking", 0, 0, evil))
	d.Close()
	const want = `0123456789ab: waiting 30MB
0123456789ab: downloading 30MB
0123456789ab: downloading 12MB of 30MB
0123456789ab: downloading 12MB of 30MB
0123456789ab: retrying 30MB: the connection was reset
0123456789ab: unpacking 30MB
0123456789ab: pulled
checking: \x1b]0;pwned\a\u009b2J\u202e\nforged: line
`
	if got := b.String(); got != want {
		t.Errorf("got\n%s", got)
	}
}

func TestObjectsAreForPrograms(t *testing.T) {
	var out, errs bytes.Buffer
	d := progress.New(progress.Config{Mode: progress.JSON, Terminal: true, Out: &out, Err: &errs, Now: time.Now})
	d.Add(report(id, "downloading", 5, 10, evil))
	d.Add(report("", "asking", 0, 0, ""))
	d.Close()
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	const want = `{"part":"` + id + `","action":"downloading","current":5,"total":10`
	if len(lines) != 2 || !strings.HasPrefix(lines[0], want) ||
		lines[1] != `{"action":"asking","current":0}` || errs.Len() > 0 {
		t.Errorf("got %s and %q", out.String(), errs.String())
	}
	if strings.ContainsFunc(out.String(), func(r rune) bool { return r != '\n' && unicode.IsControl(r) }) {
		t.Errorf("a terminal could take %q for a command", out.String())
	}
}

func TestQuietIsQuiet(t *testing.T) {
	var b bytes.Buffer
	d := progress.New(progress.Config{Mode: progress.Quiet, Terminal: true, Out: &b, Err: &b, Now: time.Now})
	d.Add(report(id, "downloading", 5, 10, ""))
	d.Close()
	if b.Len() > 0 {
		t.Errorf("got %q", b.String())
	}
}

func TestModes(t *testing.T) {
	for mode, ok := range map[string]bool{"auto": true, "plain": true, "json": true, "quiet": true, "": false,
		"tty": false} {
		if err := progress.CheckMode(mode); (err == nil) != ok {
			t.Errorf("%q: %v", mode, err)
		}
	}
}

// screen is a terminal of a size, and what was written to it.
type screen struct {
	master console.Console
	slave  *os.File
	out    chan string
}

func newScreen(t *testing.T, columns, rows uint16) *screen {
	t.Helper()
	master, name, err := console.NewPty()
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := master.Resize(console.WinSize{Width: columns, Height: rows}); err != nil {
		t.Fatal(err)
	}
	s := &screen{master: master, slave: slave, out: make(chan string, 1)}
	go func() { // ends when the slave is closed
		var b bytes.Buffer
		_, _ = b.ReadFrom(master) // EIO at the end
		s.out <- b.String()
	}()
	return s
}

// lines closes the terminal and returns what was drawn, line by line.
func (s *screen) lines() []string {
	s.slave.Close()
	text := <-s.out
	s.master.Close()
	text = regexp.MustCompile(`\x1b\[[0-9;]*[A-Za-z]`).ReplaceAllString(text, "\n")
	return strings.Split(strings.ReplaceAll(text, "\r", ""), "\n")
}

// An image of very many layers has a line for each that is on its way and one for all, none of them wider than the
// terminal, and none of what the registry says drives it.
func TestBarsFitTheTerminal(t *testing.T) {
	for _, columns := range []uint16{80, 40, 20} {
		s := newScreen(t, columns, 10)
		now := time.Unix(1000, 0)
		d := progress.New(progress.Config{Mode: progress.Auto, Terminal: true, Err: s.slave,
			Now: func() time.Time { return now }})
		part := func(i int) string {
			return "sha256:" + strings.Repeat(string(rune('a'+i%26)), 8) + string(rune('a'+i/26))
		}
		const layers = 127
		for i := range layers {
			d.Add(report(part(i), "waiting", 0, 3e7, ""))
		}
		d.Add(report("", "pulling", 0, 0, ""))
		for i := range layers {
			d.Add(report(part(i), "downloading", 1e7, 3e7, ""))
			d.Add(report(part(i), "retrying", 1e7, 3e7, evil+strings.Repeat("網", 50)))
			d.Add(report(part(i), "pulled", 3e7, 3e7, ""))
		}
		d.Add(report(part(layers), "downloading", 1e7, 3e7, ""))
		d.Close()
		for _, line := range s.lines() {
			wide := 0
			for _, r := range line {
				if wide++; r >= 0x1100 && r != '…' {
					wide++
				}
				if unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) {
					t.Errorf("%d columns: %q drives the terminal", columns, line)
				}
			}
			if wide > int(columns) {
				t.Errorf("%d columns: %q has %d", columns, line, wide)
			}
		}
	}
	goleak.VerifyNone(t)
}

package show_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/spf13/cobra"
	"pgregory.net/rapid"

	"github.com/vethloom/vethloom/internal/cli/show"
)

// Texts that drive a terminal: a title, a cleared screen, C1 controls, a turned direction.
const (
	title  = "\x1b]0;pwned\x07"
	csi    = "\u009b2J"
	turned = "a\u202eb"
)

func TestPlain(t *testing.T) {
	for in, want := range map[string]string{
		"":              "",
		"web-1":         "web-1",
		"größe 網":       "größe 網",
		title:           `\x1b]0;pwned\a`,
		csi:             `\u009b2J`,
		turned:          `a\u202eb`,
		"a\nb\tc\rd":    `a\nb\tc\rd`,
		"a\xffb":        `a\xffb`,
		"\x7f":          `\x7f`,
		"nul \x00":      `nul \x00`,
		`a "quoted" \n`: `a "quoted" \n`,
	} {
		if got := show.Plain(in); got != want {
			t.Errorf("%q is shown as %q, want %q", in, got, want)
		}
	}
	if got := show.PlainLines("a\n\tb\x1b[1m"); got != "a\n\tb"+`\x1b[1m` {
		t.Errorf("lines are shown as %q", got)
	}
}

// Whatever the text, nothing that a terminal takes for a command is left, and harmless texts stay as they are.
func TestNothingDrivesATerminal(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := rapid.OneOf(rapid.String(),
			rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) })).
			Draw(t, "text")
		out := show.Plain(in)
		for _, r := range out {
			if unicode.IsControl(r) || r == unicode.ReplacementChar || unicode.Is(unicode.Bidi_Control, r) {
				t.Fatalf("%q is shown as %q", in, out)
			}
		}
		if again := show.Plain(out); again != out {
			t.Fatalf("%q changes to %q when it is shown again", out, again)
		}
	})
}

func TestPrintf(t *testing.T) {
	var b bytes.Buffer
	n, err := show.Printf(&b, "%s %v %v %d %s|\n", title, errors.New("no "+title), stringer{}, 7,
		show.Painted("\x1b[1mx\x1b[0m"))
	if err != nil || n != b.Len() {
		t.Errorf("%d of %d bytes, %v", n, b.Len(), err)
	}
	if want := `\x1b]0;pwned\a no \x1b]0;pwned\a \u009b2J 7 ` + "\x1b[1mx\x1b[0m|\n"; b.String() != want {
		t.Errorf("got %q, want %q", b.String(), want)
	}
}

type stringer struct{}

func (stringer) String() string { return csi }

type thing struct{ id, name, note string }

func things() []thing {
	return []thing{{"0123456789abcdef", "web", "first"}, {"fedcba9876543210", title, "second"}}
}

// lister shows things; flags are those of the command line.
func lister(t *testing.T, flags ...string) *show.Lister[thing] {
	t.Helper()
	l := &show.Lister[thing]{ID: func(x thing) string { return show.ShortID(x.id) }}
	l.Columns = []show.Column[thing]{
		{Name: "ID", Header: "THING ID", Value: func(x thing) string { return show.ShortID(x.id) }},
		{Name: "Name", Header: "NAME", Value: func(x thing) string { return x.name }},
		{Name: "Note", Header: "NOTE", Hidden: true, Value: func(x thing) string { return x.note }},
	}
	cmd := &cobra.Command{Use: "ls"}
	l.Flags(cmd)
	if err := cmd.ParseFlags(flags); err != nil {
		t.Fatal(err)
	}
	return l
}

func TestLists(t *testing.T) {
	hostile := `\x1b]0;pwned\a`
	for name, c := range map[string]struct {
		flags []string
		want  string
	}{
		"table": {nil, "THING ID       NAME\n0123456789ab   web\nfedcba987654   " + hostile + "\n"},
		"quiet": {[]string{"-q"}, "0123456789ab\nfedcba987654\n"},
		"template": {[]string{"--format", "{{.Name}}: {{.Note}}"},
			"web: first\n" + hostile + ": second\n"},
		"table by a template": {[]string{"--format", "table {{.Note}}\t{{.ID}}"},
			"NOTE      THING ID\nfirst     0123456789ab\nsecond    fedcba987654\n"},
		"escapes of a shell": {[]string{"--format", `{{.Note}}\t{{.ID}}`},
			"first\t0123456789ab\nsecond\tfedcba987654\n"},
		"functions": {[]string{"--format", `{{upper .Note}} {{truncate .ID 3}} {{pad .Note 1 0}}`},
			"FIRST 012  first\nSECOND fed  second\n"},
		"a table of no things": {[]string{"--format", "table {{.Note}}"}, ""},
		"title, lower and a join": {
			[]string{"--format", `{{title .Note}} {{lower .ID}} {{join (split .Note "s") "-"}}`},
			"First 0123456789ab fir-t\nSecond fedcba987654 -econd\n"},
	} {
		t.Run(name, func(t *testing.T) {
			all := things()
			if name == "a table of no things" {
				all, c.want = nil, "NOTE\n"
			}
			var b bytes.Buffer
			if err := lister(t, c.flags...).Show(&b, all); err != nil {
				t.Fatal(err)
			}
			if b.String() != c.want {
				t.Errorf("got\n%q, want\n%q", b.String(), c.want)
			}
		})
	}
}

// JSON has every column, hidden ones too, and its texts as they are, without a byte that drives a terminal.
func TestListsAsJSON(t *testing.T) {
	var b bytes.Buffer
	all := append(things(), thing{"1", csi + turned + "<&>", ""})
	if err := lister(t, "--format", "json").Show(&b, all); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	if len(lines) != 3 || strings.ContainsFunc(b.String(), func(r rune) bool {
		return r != '\n' && unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r)
	}) {
		t.Fatalf("%d lines: %q", len(lines), b.String())
	}
	for i, line := range lines {
		var row map[string]string
		if err := json.Unmarshal([]byte(line), &row); err != nil {
			t.Fatal(err)
		}
		if row["Name"] != all[i].name || row["Note"] != all[i].note || len(row) != 3 {
			t.Errorf("line %d is %v", i, row)
		}
	}
}

func TestTemplatesThatAreWrong(t *testing.T) {
	for format, words := range map[string][]string{
		"{{.Nmae}}":       {"--format", ".ID .Name .Note"},
		"{{":              {"--format", "Go template"},
		"{{nope .Name}}":  {"--format", "nope"},
		"table {{.Nmae}}": {"--format", ".ID .Name .Note"},
		"{{len 7}}":       {"--format"},
	} {
		err := lister(t, "--format", format).Show(&bytes.Buffer{}, things())
		for _, w := range words {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %v, want it to say %q", format, err, w)
			}
		}
	}
}

// broken is an output that takes some bytes and no more.
type broken struct{ left int }

var errFull = errors.New("no space left")

func (b *broken) Write(p []byte) (int, error) {
	if len(p) > b.left {
		return 0, errFull
	}
	b.left -= len(p)
	return len(p), nil
}

func TestAnOutputThatBreaksIsAnError(t *testing.T) {
	for _, flags := range [][]string{nil, {"-q"}, {"--format", "json"}, {"--format", "{{.Name}}"}} {
		if err := lister(t, flags...).Show(&broken{left: 5}, things()); !errors.Is(err, errFull) {
			t.Errorf("%v: %v", flags, err)
		}
	}
}

func TestInspector(t *testing.T) {
	get := func(name string) (any, error) {
		if name == "missing" {
			return nil, fmt.Errorf("no such thing: %s", name)
		}
		return map[string]any{"Name": name, "Note": csi}, nil
	}
	inspect := func(flags []string, args ...string) (string, []error, error) {
		var i show.Inspector
		cmd := &cobra.Command{Use: "inspect"}
		i.Flags(cmd)
		if err := cmd.ParseFlags(flags); err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		errs, err := i.Show(&b, args, get)
		return b.String(), errs, err
	}
	out, errs, err := inspect(nil, "a", "missing", "b")
	var found []map[string]string
	if err != nil || len(errs) != 1 || json.Unmarshal([]byte(out), &found) != nil || len(found) != 2 {
		t.Errorf("%q, %v, %v", out, errs, err)
	} else if found[1]["Name"] != "b" || found[1]["Note"] != csi || strings.Contains(out, csi) {
		t.Errorf("found %v in %q", found, out)
	}
	if out, errs, _ := inspect(nil, "missing"); out != "[]\n" || len(errs) != 1 {
		t.Errorf("nothing found: %q, %v", out, errs)
	}
	if out, _, err := inspect([]string{"-f", "{{.Name}}={{.Note}}"}, "a", "b"); err != nil ||
		out != "a="+`\u009b2J`+"\nb="+`\u009b2J`+"\n" {
		t.Errorf("by a template: %q, %v", out, err)
	}
	if out, _, err := inspect([]string{"--format", "json"}, "a"); err != nil || strings.Count(out, "\n") != 1 {
		t.Errorf("as JSON on one line: %q, %v", out, err)
	}
	for _, f := range []string{"{{", "{{.Name.First}}"} {
		if _, _, err := inspect([]string{"-f", f}, "a"); err == nil || !strings.Contains(err.Error(), "--format") {
			t.Errorf("template %s: %v", f, err)
		}
	}
}

func TestShortID(t *testing.T) {
	for in, want := range map[string]string{"": "", "abc": "abc", "sha256:0123456789abcdef": "0123456789ab",
		"0123456789abcdef": "0123456789ab"} {
		if got := show.ShortID(in); got != want {
			t.Errorf("%q is %q, want %q", in, got, want)
		}
	}
}

// Text is broken between words, and no line is wider than there is room but for a word that is.
func TestWrap(t *testing.T) {
	const text = "one word after another, as far as there is room for théir letters, and then more"
	for _, c := range []struct {
		text  string
		width int
		want  []string
	}{
		{"short", 30, []string{"short"}},
		{text, 0, []string{text}},
		{text, 29, []string{text}}, // too narrow
		{text, 40, []string{"one word after another, as far as there", "is room for théir letters, and then more"}},
		{strings.Repeat("x", 50) + " y", 30, []string{strings.Repeat("x", 50), "y"}},
		{"", 40, []string{""}},
	} {
		if got := show.Wrap(c.text, c.width); !slices.Equal(got, c.want) {
			t.Errorf("%q at %d: %q, want %q", c.text, c.width, got, c.want)
		}
	}
}

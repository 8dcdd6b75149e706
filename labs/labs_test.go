package labs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/vethloom/vethloom/internal/lab"
	"github.com/vethloom/vethloom/internal/lab/labtest"
	"github.com/vethloom/vethloom/internal/lab/script"
	"github.com/vethloom/vethloom/labs"
)

func TestMain(m *testing.M) { labtest.Main(m) }

// TestLabs runs every document; what it says must come true.
func TestLabs(t *testing.T) {
	all, err := labs.All()
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 14 {
		t.Fatalf("there are %d labs", len(all))
	}
	for _, d := range all {
		t.Run(d.Name, func(t *testing.T) { runDocument(t, d) })
	}
}

func runDocument(t *testing.T, d labs.Document) {
	s, err := script.Parse(d.Text)
	if err != nil {
		t.Fatalf("%s: %v", d.Path, err)
	}
	c, err := s.Config()
	if err != nil {
		t.Fatal(err)
	}
	l := labtest.Up(t, c)
	var out bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	r := script.Runner{Lab: l, Print: script.Printer{Out: &out}}
	if err := r.Run(ctx, s); err != nil {
		t.Errorf("%s: %v\n%s", d.Path, err, &out)
	}
}

func TestLabsAreFoundByNumberNameAndPath(t *testing.T) {
	for _, name := range []string{"1", "01", "01-namespace", "01-namespace.md"} {
		d, err := labs.Find(name)
		if err != nil || !strings.Contains(d.Text, "network namespace") {
			t.Errorf("Find(%q): %s, %v", name, d.Path, err)
		}
	}
	if _, err := labs.Find("99"); err == nil || !strings.Contains(err.Error(), "01-namespace") {
		t.Errorf("lab 99: %v, which does not say what there is", err)
	}
}

// TestADocumentThatIsNotTrueFails shows that a run can fail, and where.
func TestADocumentThatIsNotTrueFails(t *testing.T) {
	l := labtest.Up(t, lab.Config{Nodes: 1, Etcd: lab.EtcdNone, NoImage: true})
	for _, c := range []struct{ body, want string }{
		{"```run\nn1$ false\n```", "line 4: false: exit status 1"},
		{"```run\nn1! true\n```", "line 4: true: was to fail"},
		{"```run\nn1$ echo ab\n```\n```expect\nb\na\n```", "line 8: the output has no a"},
		{"```run\nn1$ echo ab\n```\n```expect\n! b\n```", `line 7: the output has "b"`},
		{"```run\nn9$ true\n```", `host "n9": lab`},
		{"```run\nlab$ explode n1\n```", `fault "explode n1"`},
	} {
		s, err := script.Parse("# Test\n\n" + c.body)
		if err != nil {
			t.Fatal(err)
		}
		r := script.Runner{Lab: l, Print: script.Printer{Out: &bytes.Buffer{}}}
		if err := r.Run(t.Context(), s); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s:\n got  %v\n want %s", c.body, err, c.want)
		}
	}
	s, err := script.Parse("# Test\n```run\nn1$ x=$(echo a.b)\nn1& sh -c 'echo ready; read line; echo late' " +
		"</dev/null || true\nn1$ echo $x; test $x = a.b\n```\n```expect\n^${x}$\n^a.b$\nready\n```")
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := (&script.Runner{Lab: l, Print: script.Printer{Out: &out}}).Run(t.Context(), s); err != nil {
		t.Errorf("%v\n%s", err, &out)
	}
}

func TestMalformedDocumentsNameTheLine(t *testing.T) {
	for text, want := range map[string]string{
		"no heading":                                 "line 1: a lab begins with a heading",
		"# A\n```run\nip link\n```":                  "line 3: ",
		"# A\n```run\nn1$ x":                         "line 2: the block is not closed",
		"# A\n```python\n```":                        `line 2: block "python"`,
		"# A\n```expect\n```":                        "line 2: an expect block follows a run block",
		"# A\n```run\nn1$ x\n```\n```expect\n(\n```": "line 6: ",
	} {
		if _, err := script.Parse(text); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: got %v, want %s", text, err, want)
		}
	}
	s, err := script.Parse("# A\n```lab\n--knots 3\n```")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Config(); err == nil || !strings.Contains(err.Error(), "--knots") {
		t.Errorf("an unknown flag: %v", err)
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	l := labtest.Up(t, lab.Config{Nodes: 1, Etcd: lab.EtcdNone, NoImage: true})
	s, err := script.Parse("# Test\n```run\nn1& sh -c 'echo ready; exec sleep 1000'\n```")
	if err != nil {
		t.Fatal(err)
	}
	stop := errors.New("enough")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 300*time.Millisecond, stop)
	defer cancel()
	err = (&script.Runner{Lab: l, Print: script.Printer{Out: &bytes.Buffer{}}}).Run(ctx, s)
	if !errors.Is(err, stop) {
		t.Errorf("got %v, want %v", err, fmt.Errorf("line 3: %w", stop))
	}
}

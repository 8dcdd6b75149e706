package arch

import (
	"flag"
	"fmt"
	"go/ast"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// tree is the module that TestNumbers measures: an older state of this one, say.
var tree = flag.String("tree", root, "directory of the module to measure")

// numbers say how a tree is cut up. docs/design/numbers.md has them for this one, and for the one before.
type numbers struct {
	lines     int            // of Go that is neither a test nor generated, as all below unless they say otherwise
	comments  int            // lines of it that have a comment
	blank     int            // lines of it that are empty
	packages  map[string]int // lines
	tests     map[string]int // lines of tests, by package
	functions map[string]int // lines, by place
	methods   map[string]int // by type
	copies    []string       // pairs of places that share lines
	wide      map[string]int // lines over maxColumns, by file: Go with its tests, shell scripts, prose in Markdown
}

// maxColumns is the width that fits beside another file; a tab takes four.
const maxColumns = 120

const maxCopies = 16 // half of what there was at first

func measure(t *testing.T, dir string) numbers {
	t.Helper()
	n := numbers{packages: map[string]int{}, tests: map[string]int{}, functions: map[string]int{},
		methods: map[string]int{}, wide: map[string]int{}, copies: copies(t, dir)}
	for _, s := range sourcesOf(t, dir) {
		room := path.Dir(filepath.ToSlash(s.path))
		if s.test() {
			n.tests[room] += s.lines
			continue
		}
		n.lines += s.lines
		n.packages[room] += s.lines
		n.comments += s.commentLines()
		n.blank += s.blank
		for _, d := range s.file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok {
				first, last := s.fset.Position(f.Pos()).Line, s.fset.Position(f.End()).Line
				n.functions[s.at(f.Pos())+" "+f.Name.Name] = last - first + 1
				if r := receiver(f); r != "" {
					n.methods[room+"."+r]++
				}
			}
		}
	}
	n.countWide(t, dir)
	return n
}

// receiver is the name of the type that a method is of.
func receiver(f *ast.FuncDecl) string {
	if f.Recv == nil {
		return ""
	}
	e := f.Recv.List[0].Type
	for {
		switch x := e.(type) {
		case *ast.StarExpr:
			e = x.X
		case *ast.IndexExpr:
			e = x.X
		case *ast.IndexListExpr:
			e = x.X
		case *ast.Ident:
			return x.Name
		default:
			return ""
		}
	}
}

// commentLines are those that have a comment, alone or behind code.
func (s source) commentLines() int {
	lines := map[int]bool{}
	for _, g := range s.file.Comments {
		for l := s.fset.Position(g.Pos()).Line; l <= s.fset.Position(g.End()).Line; l++ {
			lines[l] = true
		}
	}
	return len(lines)
}

// countWide looks at the text files that people read as text.
func (n numbers) countWide(t *testing.T, dir string) {
	t.Helper()
	walk(t, dir, func(name string, text []byte) {
		kind := filepath.Ext(name)
		if kind == "" && strings.HasPrefix(string(text), "#!") {
			kind = ".sh"
		}
		switch {
		case kind == ".go" && !strings.HasSuffix(name, ".pb.go"), kind == ".sh", kind == ".md":
		default:
			return
		}
		code := false
		for line := range strings.Lines(string(text)) {
			line = strings.TrimRight(line, "\n")
			if kind == ".md" {
				trimmed := strings.TrimSpace(line)
				if strings.HasPrefix(trimmed, "<!-- Below this line") {
					break // what follows is generated
				}
				if strings.HasPrefix(trimmed, "```") {
					code = !code
				}
				if code || strings.HasPrefix(trimmed, "|") || strings.HasPrefix(line, "    ") {
					continue // code and tables are not prose
				}
			}
			if columns(line) > maxColumns {
				n.wide[name]++
			}
		}
	})
}

func columns(line string) int {
	c := 0
	for _, r := range line {
		if c++; r == '\t' {
			c += 3 - (c-1)%4
		}
	}
	return c
}

// walk calls f with each file of a tree that is neither hidden (but for .ci), built nor a test's data.
func walk(t *testing.T, dir string, f func(name string, text []byte)) {
	t.Helper()
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			hidden := strings.HasPrefix(d.Name(), ".") && d.Name() != ".ci" && name != dir
			if hidden || d.Name() == "testdata" || d.Name() == "bin" {
				return fs.SkipDir
			}
			return nil
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, name)
		if err != nil {
			return err
		}
		f(rel, text)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// top are the largest, at most k of them.
func top(counts map[string]int, k int) []string {
	names := slices.SortedFunc(maps.Keys(counts), func(a, b string) int {
		if d := counts[b] - counts[a]; d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
	return names[:min(k, len(names))]
}

func sum(counts map[string]int, below string) int {
	total := 0
	for name, c := range counts {
		if below == "" || within(name, below) {
			total += c
		}
	}
	return total
}

// percentile is the size that p in a hundred do not exceed.
func percentile(counts map[string]int, p int) int {
	sizes := slices.Sorted(maps.Values(counts))
	return sizes[(len(sizes)-1)*p/100]
}

// testsPerLine are the lines of tests for each line of a room and those below it, but for packages that serve tests.
func (n numbers) testsPerLine(room string) float64 {
	code := 0
	for name, c := range n.packages {
		if within(name, room) && !strings.HasSuffix(name, "test") {
			code += c
		}
	}
	return float64(sum(n.tests, room)) / float64(code)
}

// commented are the lines that have a comment, in a hundred that are not empty.
func (n numbers) commented() float64 { return 100 * float64(n.comments) / float64(n.lines-n.blank) }

func (n numbers) String() string {
	var b strings.Builder
	row := func(what, format string, args ...any) {
		fmt.Fprintf(&b, "| %s | %s |\n", what, fmt.Sprintf(format, args...))
	}
	largest := func(counts map[string]int) (string, int) {
		name := top(counts, 1)[0]
		return name, counts[name]
	}
	row("lines of Go, without tests and generated code", "%d", n.lines)
	room, size := largest(n.packages)
	row("largest package", "%s: %d lines, %.1f %%", room, size, 100*float64(size)/float64(n.lines))
	f, size := largest(n.functions)
	row("longest function", "%s: %d lines", f, size)
	row("length of functions, 99th percentile", "%d lines", percentile(n.functions, 99))
	m, size := largest(n.methods)
	row("methods of the largest type", "%s: %d", m, size)
	row(fmt.Sprintf("lines over %d columns", maxColumns), "%d", sum(n.wide, ""))
	row("lines with a comment, of those that are not empty", "%.1f %%", n.commented())
	for _, room := range []string{"internal/cluster", "internal/cli"} {
		row("test lines a line, "+room, "%.2f", n.testsPerLine(room))
	}
	row(fmt.Sprintf("runs of %d or more equal lines", copyLines), "%d", len(n.copies))
	return b.String()
}

// TestNumbers prints the numbers of a tree: make numbers.
func TestNumbers(t *testing.T) {
	n := measure(t, *tree)
	fmt.Printf("| what | here |\n|---|---|\n%s", n)
	if testing.Verbose() {
		for _, c := range []struct {
			what   string
			counts map[string]int
		}{{"packages", n.packages}, {"functions", n.functions}, {"types", n.methods}, {"wide lines", n.wide}} {
			fmt.Printf("\n%s\n", c.what)
			for _, name := range top(c.counts, 15) {
				fmt.Printf("%7d  %s\n", c.counts[name], name)
			}
		}
		fmt.Printf("\nequal lines\n         %s\n", strings.Join(n.copies, "\n         "))
	}
}

// TestNumbersHold keeps what has been reached.
func TestNumbersHold(t *testing.T) {
	n := measure(t, root)
	for room, lines := range n.packages {
		if 100*lines > 6*n.lines {
			t.Errorf("%s has %d of %d lines, above 6 %%: make rooms of it", room, lines, n.lines)
		}
	}
	for f, lines := range n.functions {
		if lines > 70 {
			t.Errorf("%s has %d lines, above 70: it does more than one thing", f, lines)
		}
	}
	for typ, methods := range n.methods {
		if methods > 40 {
			t.Errorf("%s has %d methods, above 40: split it by what it changes", typ, methods)
		}
	}
	for room, least := range map[string]float64{"internal/cluster": 0.5, "internal/cli": 0.39} {
		if got := n.testsPerLine(room); got < least {
			t.Errorf("%s has %.2f test lines a line, below %.2f", room, got, least)
		}
	}
	if p := percentile(n.functions, 99); p > 45 {
		t.Errorf("one in a hundred functions has more than %d lines: shorten the longest, which make numbers lists", p)
	}
	for f, lines := range n.wide {
		t.Errorf("%s has %d lines over %d columns", f, lines, maxColumns)
	}
	if len(n.copies) > maxCopies {
		t.Errorf("%d runs of equal lines, above %d: %s", len(n.copies), maxCopies, strings.Join(n.copies, ", "))
	}
	if c := n.commented(); c < 10 {
		t.Errorf("%.1f %% of the lines have a comment: below 10 %% the reasons are missing", c)
	}
}

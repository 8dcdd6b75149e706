package arch

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// root is the module's directory: the go command runs tests in that of their package.
const root = "../.."

// maxLines is where a file has more than one subject.
const maxLines = 600

// source is one Go file of the module that people wrote.
type source struct {
	path  string // inside the module
	lines int
	blank int // of the lines
	file  *ast.File
	fset  *token.FileSet
}

func (s source) test() bool { return strings.HasSuffix(s.path, "_test.go") }

var blankLine = regexp.MustCompile(`(?m)^[ \t]*\n`)

func sources(t *testing.T) []source {
	t.Helper()
	return sourcesOf(t, root)
}

// sourcesOf are those of the module in a directory.
func sourcesOf(t *testing.T, dir string) []source {
	t.Helper()
	var out []source
	walk(t, dir, func(name string, text []byte) {
		if filepath.Ext(name) != ".go" {
			return
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, name, text, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		if !ast.IsGenerated(file) {
			out = append(out, source{path: name, lines: bytes.Count(text, []byte{'\n'}),
				blank: len(blankLine.FindAll(text, -1)), file: file, fset: fset})
		}
	})
	if len(out) < 10 {
		t.Fatalf("found %d Go files below %s: that is not the module", len(out), dir)
	}
	return out
}

func TestFilesStayShort(t *testing.T) {
	for _, s := range sources(t) {
		if s.lines > maxLines {
			t.Errorf("%s has %d lines; above %d a file has more than one subject: split it", s.path, s.lines, maxLines)
		}
	}
}

func TestNoInitFunctions(t *testing.T) {
	for _, s := range sources(t) {
		for _, decl := range s.file.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if ok && fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s has an init function: importing a package must do nothing", s.at(fn.Pos()))
			}
		}
	}
}

// banned calls, by package name and function, and where they are allowed.
var banned = []struct {
	pkg, name string
	allowed   []string // directories
	why       string
}{
	{"context", "TODO", nil, "pass the caller's context"},
	{"runtime", "LockOSThread", []string{"internal/thread", "internal/kern/kerntest", "cmd/net-shim", "bench"},
		"threads that change their namespace live in internal/kern"},
	// The kernel does not say when a cgroup of v1 or a namespace has emptied.
	{"time", "Sleep", []string{"engine/shim", "internal/await"}, "wait for an event, with a context"},
}

func TestNoBannedCalls(t *testing.T) {
	for _, s := range sources(t) {
		ast.Inspect(s.file, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			ident, ok := sel.X.(*ast.Ident)
			if !ok {
				return true
			}
			for _, b := range banned {
				if ident.Name == b.pkg && sel.Sel.Name == b.name && !allowed(s.path, b.allowed) &&
					!(s.test() && b.name != "TODO") {
					t.Errorf("%s calls %s.%s: %s", s.at(n.Pos()), b.pkg, b.name, b.why)
				}
			}
			return true
		})
	}
}

func TestTestsAreNotSkipped(t *testing.T) {
	skips := map[string]bool{"Skip": true, "Skipf": true, "SkipNow": true}
	for _, s := range sources(t) {
		if !s.test() {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			sel, ok := call.Fun.(*ast.SelectorExpr)
			if !ok || !skips[sel.Sel.Name] {
				return true
			}
			// In a property or fuzz test a skip discards an input, not the test.
			if ident, ok := sel.X.(*ast.Ident); ok && (ident.Name == "t" || ident.Name == "tb" || ident.Name == "b") {
				t.Errorf("%s skips a test: a test that does not run proves nothing", s.at(n.Pos()))
			}
			return true
		})
	}
}

func (s source) at(pos token.Pos) string { return s.fset.Position(pos).String() }

func allowed(path string, dirs []string) bool {
	for _, dir := range dirs {
		if within(filepath.ToSlash(path), dir) {
			return true
		}
	}
	return false
}

package arch

import (
	"go/ast"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// reference is a file and what it declares, as the guides write them: `plan/diff.go` `Diff`.
var reference = regexp.MustCompile("`([a-z0-9_/.-]+\\.go)`\\s+`([A-Za-z0-9_.]+)`")

// TestTheGuidesNameWhatIsThere holds the pages that say where things are to the code.
func TestTheGuidesNameWhatIsThere(t *testing.T) {
	declared := map[string]map[string]bool{}
	for _, s := range sources(t) {
		declared[filepath.ToSlash(s.path)] = s.declares()
	}
	for page, least := range map[string]int{"CONTRIBUTING.md": 20, "docs/design/walks.md": 30} {
		text, err := os.ReadFile(filepath.Join(root, page))
		if err != nil {
			t.Fatal(err)
		}
		found := reference.FindAllStringSubmatch(string(text), -1)
		if len(found) < least {
			t.Errorf("%s has %d references, want %d: each is a file and a name, `plan/diff.go` `Diff`", page,
				len(found), least)
		}
		for _, r := range found {
			switch names, ok := declared[r[1]]; {
			case !ok:
				t.Errorf("%s: %s does not exist: say where %s is now", page, r[1], r[2])
			case !names[r[2]]:
				t.Errorf("%s: %s does not declare %s: say where it is now", page, r[1], r[2])
			}
		}
	}
}

// declares are the functions, methods (with and without their type) and types of a file.
func (s source) declares() map[string]bool {
	names := map[string]bool{}
	for _, d := range s.file.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			names[d.Name.Name] = true
			names[strings.TrimPrefix(receiver(d)+"."+d.Name.Name, ".")] = true
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				if ts, ok := spec.(*ast.TypeSpec); ok {
					names[ts.Name.Name] = true
				}
			}
		}
	}
	return names
}
